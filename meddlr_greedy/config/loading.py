"""From a config file and overrides to a checked config of meddlr that holds the plugin's keys."""

import re
from typing import Any, Callable, List, Mapping, Sequence

from meddlr.config import CfgNode, get_cfg
from meddlr.data.transforms.transform import NORMALIZER_REGISTRY
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY

from meddlr_greedy.config.ranges import check_ranges
from meddlr_greedy.config.safe_yaml import read_yaml
from meddlr_greedy.config.schema import PREFIX, GreedyConfig, changed_keys, is_greedy
from meddlr_greedy.config.shipped import find_config
from meddlr_greedy.config.templates import fill_in_templates, value_at
from meddlr_greedy.errors import UserError, did_you_mean, first_line, shortened
from meddlr_greedy.plugins import import_plugins
from meddlr_greedy.registry import look_up

__all__ = ["load_config"]

# Lists of names, of which one alone may be given plainly.
_DATA_SETS = ("DATASETS.TRAIN", "DATASETS.VAL", "DATASETS.TEST")


def _all_keys(cfg: CfgNode, section: str = "") -> List[str]:
    """The dotted names of all keys, or of those of a section."""
    node = cfg.get_recursive(section) if section else cfg
    prefix = f"{section}." if section else ""
    keys: List[str] = []
    for key, value in node.items():
        keys += _all_keys(cfg, prefix + key) if isinstance(value, CfgNode) else [prefix + key]
    return keys


def load_config(config_file: str, opts: Sequence[str] = (), may_import: bool = True) -> CfgNode:
    """Reads a meddlr config with the plugin's keys, safely.

    Args:
        config_file: Path of a YAML file, or name of a config of the package; ``_BASE_`` names a file to start from.
        opts: Overrides ``KEY VALUE KEY VALUE ...``.
        may_import: Whether the file may name packages to import (``MISC.GREEDY.RUN.IMPORTS``); not where it was found
            and not given. Overrides always may.

    Returns:
        A frozen config whose ``MISC.GREEDY`` holds all keys.

    Raises:
        UserError: names the file or the key, what was found and what is allowed.
    """
    opts = list(opts[1:] if opts and opts[0] == "--" else opts)
    if len(opts) % 2:
        raise UserError(f"overrides: 'KEY VALUE' pairs expected, found {shortened(' '.join(opts))}")
    if not config_file:
        raise UserError("--config-file: missing; give a YAML file, for example cine/greedy.yaml of the package")
    config_file = find_config(config_file)
    values = read_yaml(config_file)
    overrides = {key: _as_names(key, value) for key, value in zip(opts[::2], opts[1::2])}
    cfg = get_cfg()
    _check_sections(values, cfg)
    greedy = values.get("MISC", {}).pop("GREEDY", None) or {}
    if not may_import:
        _refuse_imports(config_file, greedy, overrides)
    config = GreedyConfig.from_mapping(_with_overrides(greedy, overrides))
    import_plugins(config.RUN.IMPORTS, f"{PREFIX}RUN.IMPORTS")

    _merge(config_file, lambda cfg_values: cfg.merge_from_other_cfg(CfgNode(cfg_values)), values)
    for key, value in overrides.items():
        if not key.startswith(PREFIX):
            if isinstance(_value_or_section(cfg, key), CfgNode):
                keys = _all_keys(cfg, key)
                example = f", for example {keys[0]}" if keys else ", set in the config file"
                raise UserError(f"{key}: a section; allowed are its keys{example}")
            _merge(f"override {key}", cfg.merge_from_list, [key, value])
    cfg.MISC.GREEDY = config.as_node()
    fill_in_templates(cfg)
    check_ranges(cfg)
    _check_needs_greedy(cfg, config)
    look_up(NORMALIZER_REGISTRY, cfg.MODEL.NORMALIZER.NAME, "MODEL.NORMALIZER.NAME")
    if not cfg.MODEL.META_ARCHITECTURE.startswith("monai/"):
        look_up(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
    return cfg.freeze()


def _as_names(key: str, value: str) -> str:
    """An override as it is; the name of one data set, which is meant as a list of one, as that list."""
    return f"('{value}',)" if key in _DATA_SETS and re.fullmatch(r"[A-Za-z]\w*", value) else value


def _value_or_section(cfg: CfgNode, key: str) -> Any:
    """What an override replaces.

    Raises:
        UserError: There is no such key.
    """
    try:
        return value_at(cfg, key)
    except KeyError:
        raise UserError(f"{shortened(key)[1:-1]}: unknown key{did_you_mean(key, _all_keys(get_cfg()))}") from None


def _with_overrides(greedy: Any, overrides: Mapping[str, str]) -> Any:
    """The values of ``MISC.GREEDY`` in a file, with the overrides put in."""
    if not isinstance(greedy, Mapping):
        return greedy
    merged = {name: dict(value) if isinstance(value, Mapping) else value for name, value in greedy.items()}
    for name, value in overrides.items():
        if not name.startswith(PREFIX):
            continue
        *sections, last = name[len(PREFIX) :].split(".")
        place: Any = merged
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UserError(f"{name}: unknown key; '{section}' is no section")
        place[last] = value
    return merged


def _refuse_imports(config_file: str, greedy: Any, overrides: Mapping[str, str]) -> None:
    """Refuses a file that was found, not given, and names packages to import: importing them runs their code."""
    run = greedy.get("RUN") if isinstance(greedy, Mapping) else None
    imports = run.get("IMPORTS") if isinstance(run, Mapping) else None
    if imports and f"{PREFIX}RUN.IMPORTS" not in overrides:
        raise UserError(
            f"{config_file}: found beside the weights, it names packages to import ({PREFIX}RUN.IMPORTS: {imports});"
            " if you trust them, give the file by --config-file, or name them by the override"
            f" {PREFIX}RUN.IMPORTS where the command takes overrides"
        )


def _check_needs_greedy(cfg: CfgNode, config: GreedyConfig) -> None:
    """Refuses keys that a network which is not trained greedily would ignore."""
    if is_greedy(cfg):
        return
    for key, value in changed_keys(config):
        if key.rule.needs_greedy:
            raise UserError(
                f"{key.full_name}: found {value!r}, but MODEL.META_ARCHITECTURE is '{cfg.MODEL.META_ARCHITECTURE}';"
                " allowed with 'GreedyUnrolled' (NUM_MODULES 1 is backpropagation)"
            )


def _check_sections(values: Mapping[str, Any], cfg: CfgNode, prefix: str = "") -> None:
    """Unknown keys, and values in the place of sections; below MISC, misspelled keys of the plugin."""
    for key, value in values.items():
        if key not in cfg:
            plugins_own = ("GREEDY", "PLUGIN")
            if prefix == "MISC.":
                near = did_you_mean(key, plugins_own) if key not in plugins_own else ""
            else:
                near = "" if cfg.is_new_allowed() else did_you_mean(prefix + key, _all_keys(get_cfg())) or " "
            if near:
                raise UserError(f"{prefix}{key}: unknown key{near}")
        elif isinstance(cfg[key], CfgNode):
            if not isinstance(value, Mapping):
                raise UserError(
                    f"{prefix}{key}: found {shortened(value)}, allowed is a section (a mapping of keys to values)"
                )
            _check_sections(value, cfg[key], f"{prefix}{key}.")


def _merge(source: str, merge: Callable[[Any], Any], values: Any) -> None:
    """Merges with yacs; what it says of a mistake becomes one line."""
    try:
        merge(values)
    except (KeyError, AssertionError) as error:
        key = str(error.args[0]).split(": ")[-1]
        raise UserError(f"{key}: unknown key{did_you_mean(key, _all_keys(get_cfg()))}") from None
    except Exception as error:  # noqa: BLE001 (yacs reads texts as Python literals, which fails in many ways)
        raise UserError(f"{source}: {first_line(error)}") from None
