"""Config files, read without running code, in bounded time and memory."""

import os
from typing import Any, Dict, List, Sequence

import yaml

from meddlr_greedy.errors import UserError, first_line
from meddlr_greedy.files import reading

__all__ = ["read_yaml"]


PLUGIN_TAG = "tag:yaml.org,2002:python/name:meddlr_greedy.PLUGIN"

# A config has some hundred values, and a chain of a few files. Far above that, a file is made to do harm.
_MAX_BYTES = 2**18
_MAX_VALUES = 10_000  # each alias counted as what it stands for
_MAX_DEPTH = 50
_MAX_BASES = 20
_INTEGERS_BELOW = 2**63

_TEXT_TAG, _INTEGER_TAG, _MERGE_TAG = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "merge"))
# What YAML knows and no key of a config takes.
_REFUSED_TAGS = {
    "timestamp": "a date",
    "binary": "binary data",
    "set": "a set",
    "omap": "an ordered mapping",
    "pairs": "pairs",
}


class _ConfigLoader(yaml.SafeLoader):
    """Safe YAML. Of all python tags it reads exactly one, the plugin's own, and as a string."""

    def get_single_node(self) -> Any:
        """The tree of the file, before values are made of it."""
        tree = super().get_single_node()
        if tree is not None:
            _check_size(tree)
        return tree


def _check_size(tree: yaml.Node) -> None:
    """Refuses a tree that is too deep, or too large once each alias is what it stands for.

    Raises:
        UserError: names the line.
    """
    sizes: Dict[int, int] = {}  # of the nodes that are done; an alias is the very node it stands for

    def size(node: yaml.Node, above: Sequence[int]) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in above:
            raise UserError(f"{_place(node)}: an alias inside of what it stands for, which is not read")
        if len(above) > _MAX_DEPTH:
            raise UserError(f"{_place(node)}: nested deeper than {_MAX_DEPTH} levels, which is not read")
        total = 1 + sum(size(child, (*above, id(node))) for child in _children(node))
        if total > _MAX_VALUES:
            raise UserError(
                f"{_place(node)}: more than {_MAX_VALUES} values (each alias counted as what it stands for), which are"
                " not read"
            )
        sizes[id(node)] = total
        return total

    size(tree, ())


def _children(node: yaml.Node) -> List[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _place(node: yaml.Node) -> str:
    return f"{node.start_mark.name}, line {node.start_mark.line + 1}"


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Dict[str, Any]:
    first: Dict[str, yaml.Node] = {}
    for key, _ in node.value:
        if key.tag not in (_TEXT_TAG, _INTEGER_TAG, _MERGE_TAG):
            raise UserError(f"{_place(key)}: the name of a key is no text ({key.tag.split(':')[-1]}), put it in quotes")
        if first.setdefault(key.value, key) is not key:
            raise UserError(f"{_place(first[key.value])}: key '{key.value}' stands twice in its section")
    loader.flatten_mapping(node)
    return {
        str(loader.construct_object(key, deep=True)): loader.construct_object(v, deep=True) for key, v in node.value
    }


def _refuse_python(_loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    raise UserError(
        f"{_place(node)}: tag '!!python/{suffix}' is not read, allowed is '!!python/name:meddlr_greedy.PLUGIN'"
    )


def _refuse_kind(_loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    kind = _REFUSED_TAGS[node.tag.split(":")[-1]]
    found = f" {node.value!r}" if isinstance(node, yaml.ScalarNode) and len(node.value) < 50 else ""
    raise UserError(
        f"{_place(node)}: found{found}, to YAML {kind}; allowed are texts (in quotes), numbers, lists and mappings"
    )


def _integer(loader: yaml.SafeLoader, node: yaml.Node) -> int:
    value = loader.construct_yaml_int(node)
    if abs(value) >= _INTEGERS_BELOW:
        raise UserError(f"{_place(node)}: found an integer of {value.bit_length()} bits, allowed are 64")
    return value


_ConfigLoader.add_constructor(_INTEGER_TAG, _integer)
_ConfigLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
_ConfigLoader.add_constructor(PLUGIN_TAG, lambda _loader, _node: "meddlr_greedy")
_ConfigLoader.add_multi_constructor("tag:yaml.org,2002:python/", _refuse_python)
for _kind in _REFUSED_TAGS:
    _ConfigLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _refuse_kind)


def read_yaml(path: str, below: Sequence[str] = ()) -> Dict[str, Any]:
    """Reads the mapping in a config file, merged over its ``_BASE_``.

    Args:
        path: The file.
        below: The resolved paths of the files that name it as their base, directly or through others.

    Returns:
        Dict[str, Any]: Keys to values; sections are mappings themselves. Values are texts, numbers, True, False, None,
        and lists and mappings of them.

    Raises:
        UserError: for a file that is missing or no YAML mapping, a python tag, a value of another kind, a circle of
            bases, or a file far larger than a config.
    """
    where = f"--config-file {path}"
    with reading(where, "a YAML file"):
        if os.path.realpath(path) in below:
            raise UserError(f"{where}: its _BASE_ leads back to itself")
        if len(below) > _MAX_BASES:
            raise UserError(f"{where}: the base of {len(below)} files one after the other, allowed are {_MAX_BASES}")
        values = _parsed(path, where)
    if not isinstance(values, dict):
        raise UserError(f"{where}: found {type(values).__name__}, allowed is a mapping")
    base = values.pop("_BASE_", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{where}: _BASE_: found {base!r}, allowed is the path of a file")
    base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    return _merged(read_yaml(base, (*below, os.path.realpath(path))), values)


def _parsed(path: str, where: str) -> Any:
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{where}: no regular file")
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UserError(f"{where}: larger than {_MAX_BYTES // 1024} kB, which no config is")
        loader = _ConfigLoader(content.decode())
        loader.name = path  # for messages
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = first_line(error) if isinstance(error, RecursionError) else error
        raise UserError(f"{where}: no valid YAML: {reason}") from None


def _merged(base: Dict[str, Any], over: Dict[str, Any]) -> Dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out
