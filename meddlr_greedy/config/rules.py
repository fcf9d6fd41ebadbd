"""What the schema says of a key beside its default: its meaning, the values it allows, where it acts."""

import math
from dataclasses import dataclass, field
from typing import Any, Callable

__all__ = [
    "KeyRule",
    "is_bool",
    "is_count",
    "is_factors",
    "is_finite_from_0",
    "is_import_names",
    "is_modules",
    "is_name",
    "is_names",
    "is_number",
    "is_one_of",
    "is_partition",
    "is_positive",
    "is_text",
    "key",
    "section",
]


@dataclass(frozen=True)
class KeyRule:
    """What is to know of a key beside its default.

    Attributes:
        meaning: What it does, for the documentation.
        allowed: Which values are allowed, for messages.
        is_allowed: Whether a value is.
        one_per_module: The value is a list with one element for each module, or empty.
        counts_modules: The value is for one number of modules, and makes no sense for another.
        needs_greedy: A network that is not wrapped by ``GreedyUnrolled`` would ignore it.
        acts_in_trainer: The trainer acts on it, not the network; meddlr's own trainer does not know it.
        needs_whole_network: A process has to hold all modules; it cannot act over a chain of processes.
        suits_inversion: It may be combined with ``TRAINING`` "invertible".
    """

    meaning: str
    allowed: str
    is_allowed: Callable[[Any], bool]
    one_per_module: bool = False
    counts_modules: bool = False
    needs_greedy: bool = False
    acts_in_trainer: bool = False
    needs_whole_network: bool = False
    suits_inversion: bool = True


def key(default: Any, meaning: str, allowed: str, is_allowed: Callable[[Any], bool], **where: bool) -> Any:
    rule = KeyRule(" ".join(meaning.split()), allowed, is_allowed, **where)
    return field(default=default, metadata={"rule": rule})


def section(kind: type) -> Any:
    return field(default_factory=kind, metadata={"section": kind})


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    return is_int(value) and value >= 0


def is_positive(value: Any) -> bool:
    return is_int(value) and value >= 1


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def is_modules(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(is_positive(size) for size in value)
    return is_positive(value)


def is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(is_name(name) for name in value)


def is_import_names(value: Any) -> bool:
    return is_names(value) and all(part.isidentifier() for name in value for part in name.split("."))


def is_factors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(is_number(factor) and 0 < factor < math.inf for factor in value)


def is_partition(value: Any) -> bool:
    return value == "auto" or (isinstance(value, (list, tuple)) and is_modules(value))


def is_one_of(*allowed: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in allowed


def is_finite_from_0(value: Any) -> bool:
    return is_number(value) and 0 <= value < math.inf
