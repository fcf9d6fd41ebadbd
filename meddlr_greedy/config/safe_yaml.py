"""Config files, read without running code."""

import os
from typing import Any, Dict, Sequence

import yaml

from meddlr_greedy.errors import UserError

__all__ = ["read_yaml"]


PLUGIN_TAG = "tag:yaml.org,2002:python/name:meddlr_greedy.PLUGIN"


class _ConfigLoader(yaml.SafeLoader):
    """Safe YAML. Of all python tags it reads exactly one, the plugin's own, and as a string."""


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Dict[str, Any]:
    names = [key.value for key, _ in node.value]
    for key, _ in node.value:
        if names.count(key.value) > 1:
            line = key.start_mark.line + 1
            raise UserError(f"{key.start_mark.name}, line {line}: key '{key.value}' stands twice in its section")
    loader.flatten_mapping(node)
    return {
        str(loader.construct_object(key, deep=True)): loader.construct_object(v, deep=True) for key, v in node.value
    }


def _refuse_tag(_loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    line = node.start_mark.line + 1
    raise UserError(
        f"{node.start_mark.name}, line {line}: tag '!!python/{suffix}' is not read, allowed is"
        " '!!python/name:meddlr_greedy.PLUGIN'"
    )


_ConfigLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
_ConfigLoader.add_constructor(PLUGIN_TAG, lambda _loader, _node: "meddlr_greedy")
_ConfigLoader.add_multi_constructor("tag:yaml.org,2002:python/", _refuse_tag)


def read_yaml(path: str, below: Sequence[str] = ()) -> Dict[str, Any]:
    """Reads the mapping in a config file, merged over its ``_BASE_``.

    Args:
        path: The file.
        below: The resolved paths of the files that name it as their base, directly or through others.

    Returns:
        Dict[str, Any]: Keys to values; sections are mappings themselves.

    Raises:
        UserError: for a file that is missing or no YAML mapping, a python tag, or a circle of bases.
    """
    if os.path.realpath(path) in below:
        raise UserError(f"--config-file {path}: its _BASE_ leads back to itself")
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
    if not isinstance(base, str):
        raise UserError(f"--config-file {path}: _BASE_: found {base!r}, allowed is the path of a file")
    base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    return _merged(read_yaml(base, (*below, os.path.realpath(path))), values)


def _merged(base: Dict[str, Any], over: Dict[str, Any]) -> Dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out
