"""The plugin's configuration: the typed definition of ``MISC.GREEDY``, and the safe reading of config files."""

import ast
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple, Union

import yaml
from meddlr.config import CfgNode, get_cfg

from meddlr_greedy.errors import UserError, did_you_mean

__all__ = ["GreedyConfig", "load_config", "read_yaml"]

PLUGIN_TAG = "tag:yaml.org,2002:python/name:meddlr_greedy.PLUGIN"
_PREFIX = "MISC.GREEDY."


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_int(value) and value >= 0


def _is_positive(value: Any) -> bool:
    return _is_int(value) and value >= 1


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_modules(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_is_positive(size) for size in value)
    return _is_positive(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(_is_name(name) for name in value)


def _key(default: Any, allowed: str, check: Callable[[Any], bool]) -> Any:
    return field(default=default, metadata={"allowed": allowed, "check": check})


@dataclass(frozen=True)
class GreedyConfig:
    """``MISC.GREEDY``: every key with its default, what it means and what is allowed."""

    # The unrolled network to train greedily: any registered GeneralizedUnrolledCNN driven through step().
    META_ARCHITECTURE: str = _key("GeneralizedUnrolledCNN", "the name of a registered unrolled network", _is_name)
    # Modules to cut the unrolled steps into; 1 is end-to-end backpropagation. A list gives the steps of each.
    NUM_MODULES: Union[int, Tuple[int, ...]] = _key(
        1,
        "a positive integer, or a list of positive integers (the steps of each module)",
        _is_modules,
    )
    # Modules to run in evaluation (every module emits an image); 0 runs all.
    NUM_INFERENCE_MODULES: int = _key(0, "a non-negative integer (0: all modules)", _is_count)
    # Trainer of meddlr_greedy.train_net, a name in TRAINER_REGISTRY.
    TRAINER: str = _key("GreedyTrainer", "the name of a registered trainer", _is_name)
    # Extra hooks of the trainer, names in HOOK_REGISTRY.
    HOOKS: Tuple[str, ...] = _key(("DecoupledTraining",), "a list of names of registered hooks", _is_names)
    # Intra-op threads; 0 keeps torch's choice. Resuming is bit-exact at an equal number only.
    THREADS: int = _key(0, "a non-negative integer (0: torch's choice)", _is_count)
    # Newest checkpoints to keep, beside the best and the final one; 0 keeps all.
    KEEP_CHECKPOINTS: int = _key(3, "a non-negative integer (0: all)", _is_count)
    # Validation metric that decides which checkpoint is kept as model_best.pth.
    BEST_METRIC: str = _key("val_psnr_scan", "the name of a validation metric", _is_name)
    # Iterations between two lines of the console, metrics.json and TensorBoard.
    LOG_PERIOD: int = _key(20, "a positive integer", _is_positive)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "GreedyConfig":
        """Checks keys and values.

        Raises:
            UserError: for an unknown key or a value that is not allowed.
        """
        known = {f.name: f for f in fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise UserError(
                    f"{_PREFIX}{key}: unknown key, allowed are {', '.join(known)}{did_you_mean(key, known)}"
                )
            metadata = known[key].metadata
            if not metadata["check"](value):
                raise UserError(f"{_PREFIX}{key}: found {value!r}, allowed is {metadata['allowed']}")
        checked: Dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**checked)

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "GreedyConfig":
        """``MISC.GREEDY`` of a meddlr config, defaults where it is absent."""
        values = cfg.MISC.get("GREEDY", {})
        if not isinstance(values, Mapping):
            raise UserError(f"MISC.GREEDY: found {values!r}, allowed is a mapping of keys to values")
        return cls.from_mapping(values)


class _ConfigLoader(yaml.SafeLoader):
    """Safe YAML; of all python tags, exactly the plugin's own, as a string."""


def _refuse_tag(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    line = node.start_mark.line + 1
    raise UserError(
        f"{node.start_mark.name}, line {line}: tag '!!python/{suffix}' is not read, allowed is"
        " '!!python/name:meddlr_greedy.PLUGIN'"
    )


_ConfigLoader.add_constructor(PLUGIN_TAG, lambda loader, node: "meddlr_greedy")
_ConfigLoader.add_multi_constructor("tag:yaml.org,2002:python/", _refuse_tag)


def read_yaml(path: str) -> Dict[str, Any]:
    """The mapping in a config file, merged over its ``_BASE_``."""
    try:
        with open(path) as file:
            values = yaml.load(file, Loader=_ConfigLoader)  # noqa: S506 (a safe loader)
    except OSError as error:
        raise UserError(f"--config-file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config-file {path}: no valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"--config-file {path}: found {type(values).__name__}, allowed is a mapping")
    base = values.pop("_BASE_", None)
    if base is None:
        return values
    base = os.path.expanduser(base)
    return _merged(read_yaml(os.path.join(os.path.dirname(path), base)), values)


def _merged(base: Dict[str, Any], over: Dict[str, Any]) -> Dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _all_keys(cfg: CfgNode, prefix: str = "") -> List[str]:
    keys: List[str] = []
    for key, value in cfg.items():
        keys += _all_keys(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [prefix + key]
    return keys


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Reads a meddlr config with the plugin's keys, safely.

    Args:
        config_file: Path of a YAML file; ``_BASE_`` names a file to start from.
        opts: Overrides ``KEY VALUE KEY VALUE ...``.

    Returns:
        A frozen config whose ``MISC.GREEDY`` holds all keys.

    Raises:
        UserError: names the file or the key, what was found and what is allowed.
    """
    opts = list(opts[1:] if opts and opts[0] == "--" else opts)
    if len(opts) % 2:
        raise UserError(f"overrides: 'KEY VALUE' pairs expected, found {' '.join(opts)!r}")
    if not config_file:
        raise UserError("--config-file: missing; give a YAML file, for example configs/cine/greedy.yaml")
    values = read_yaml(config_file)
    misc = values.get("MISC") or {}
    greedy = misc.pop("GREEDY", None) or {}
    if not isinstance(greedy, dict):
        raise UserError(f"MISC.GREEDY: found {greedy!r}, allowed is a mapping of keys to values")
    overrides = dict(zip(opts[::2], opts[1::2]))
    greedy.update({k[len(_PREFIX) :]: _literal(v) for k, v in overrides.items() if k.startswith(_PREFIX)})

    cfg = get_cfg()
    known = _all_keys(cfg)
    try:
        cfg.merge_from_other_cfg(CfgNode(values))
        cfg.merge_from_list([x for k, v in overrides.items() if not k.startswith(_PREFIX) for x in (k, v)])
    except (KeyError, AssertionError) as error:
        key = str(error.args[0]).replace("Non-existent config key: ", "").replace("Non-existent key: ", "")
        raise UserError(f"{key}: unknown key{did_you_mean(key, known)}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{config_file}: {error}") from None
    cfg.MISC.GREEDY = CfgNode(asdict(GreedyConfig.from_mapping(greedy)))
    _check_architecture(cfg)
    return cfg.freeze()


def _check_architecture(cfg: CfgNode) -> None:
    from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY

    name = cfg.MODEL.META_ARCHITECTURE
    names = [n for n, _ in META_ARCH_REGISTRY]
    if name not in names and not name.startswith("monai/"):
        raise UserError(
            f"MODEL.META_ARCHITECTURE: unknown architecture '{name}', allowed are {', '.join(sorted(names))}"
            f"{did_you_mean(name, names)}"
        )
