"""Texts of a config in which other keys are named: ``OUTPUT_DIR: f"results/{SOLVER.OPTIMIZER}"``.

meddlr fills them in by running them as Python code, whatever they are. Here the values are put in and nothing is run,
so that meddlr finds none.
"""

import re
from typing import Any

from meddlr.config import CfgNode

from meddlr_greedy.errors import UserError, shortened

__all__ = ["fill_in_templates", "value_at"]

_TEMPLATE = re.compile(r"""f(["'])(?P<text>.*)\1""", re.DOTALL)
_ALLOWED = re.compile(r"""(?:[^"'\\{}]|\{[A-Za-z0-9_.]+\})*""")


def fill_in_templates(cfg: CfgNode) -> None:
    """Puts the values of the named keys into all texts of the form ``f"..."``.

    Lists are written as ``1-2``, mappings as ``key=value-key=value``.

    Raises:
        UserError: A text names a key that there is not, or holds anything but text and names of keys.
    """
    _fill_in(cfg, cfg, "")


def _fill_in(cfg: CfgNode, value: Any, key: str) -> Any:
    if isinstance(value, CfgNode):
        for name in value:
            value[name] = _fill_in(cfg, value[name], f"{key}.{name}" if key else name)
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(_fill_in(cfg, element, key) for element in value)
    if isinstance(value, dict):
        return {name: _fill_in(cfg, element, key) for name, element in value.items()}
    template = _TEMPLATE.fullmatch(value) if isinstance(value, str) else None
    return value if template is None else _filled_in(cfg, template["text"], key)


def _filled_in(cfg: CfgNode, text: str, key: str) -> str:
    if not _ALLOWED.fullmatch(text):
        raise UserError(
            f"{key}: found f{shortened(text)}, allowed between the quotes are text without quotes and backslashes, and"
            " names of keys: {SOLVER.OPTIMIZER}"
        )
    return re.sub(r"\{(.*?)\}", lambda match: _as_text(_named(cfg, match[1], key)), text)


def _named(cfg: CfgNode, name: str, key: str) -> Any:
    try:
        value = value_at(cfg, name)
    except KeyError:
        raise UserError(f"{key}: names the key {name}, which is unknown") from None
    if isinstance(value, str) and _TEMPLATE.fullmatch(value):
        raise UserError(f"{key}: names the key {name}, whose value names keys itself")
    return value


def value_at(cfg: CfgNode, name: str) -> Any:
    """The value or the section of a dotted key.

    Raises:
        KeyError: There is no such key.
    """
    found: Any = cfg
    for part in name.split("."):
        if not isinstance(found, CfgNode):
            raise KeyError(name)
        found = found[part]
    return found


def _as_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "-".join(map(_as_text, value))
    if isinstance(value, dict):
        return "-".join(f"{name}={_as_text(element)}" for name, element in value.items())
    return str(value)
