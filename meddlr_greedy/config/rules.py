"""What the schema says about a key beside its default: its meaning, the values it allows, where it acts."""

import ast
import math
from dataclasses import dataclass, field
from typing import Any, Callable, Tuple

__all__ = [
    "KeyRule",
    "is_bool",
    "is_count",
    "is_factors",
    "is_finite_from_0",
    "is_import_names",
    "is_memory",
    "is_modules",
    "is_name",
    "is_names",
    "is_number",
    "is_one_of",
    "is_partition",
    "is_positive",
    "is_subset_of",
    "is_text",
    "is_tile",
    "key",
    "literal",
    "section",
]


@dataclass(frozen=True)
class KeyRule:
    """What the schema says about a key beside its default.

    Attributes:
        meaning: What it does, for the documentation.
        allowed: Which values are allowed, for messages.
        is_allowed: Whether a value is.
        one_per_module: The value is a list with one element for each module, or empty.
        depends_on_modules: Its value, or whether it is allowed, depends on the number of modules. A plan for another
            number of modules forgets it.
        needs_greedy: A network that is not wrapped by ``GreedyUnrolled`` would ignore it.
        acts_in_trainer: The trainer acts on it, not the network; meddlr's own trainer does not know it.
        needs_whole_network: A process has to hold all modules; it cannot act over a chain of processes.
        needs_trait: A trait of the network (:class:`~meddlr_greedy.modeling.contract.NetworkTraits`) without which it
            would be ignored.
        needs_regularizer: An attribute of the regularizer's class (``MODEL.UNROLLED.BLOCK_ARCHITECTURE``) without which
            it would be ignored.
        methods: Values that are memory methods; the table of what can be combined has a row for each.
        not_with: Names of keys beside it in the schema, of which none may be set with it.
    """

    meaning: str
    allowed: str
    is_allowed: Callable[[Any], bool]
    one_per_module: bool = False
    depends_on_modules: bool = False
    needs_greedy: bool = False
    acts_in_trainer: bool = False
    needs_whole_network: bool = False
    needs_trait: str = ""
    needs_regularizer: str = ""
    methods: Tuple[Any, ...] = ()
    not_with: Tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether a value is allowed; an integer that no float can hold is not."""
        try:
            return self.is_allowed(value)
        except OverflowError:
            return False


def key(default: Any, meaning: str, allowed: str, is_allowed: Callable[[Any], bool], **where: Any) -> Any:
    """Defines a key of the schema, as a field of a dataclass.

    Args:
        default: Its value where a config does not set it.
        meaning: What it does, for the documentation; line breaks and indentation are dropped.
        allowed: Which values are allowed, for messages.
        is_allowed: Whether a value is.
        **where: The other attributes of :class:`KeyRule`.

    Returns:
        The field, with the rule as its metadata.
    """
    rule = KeyRule(" ".join(meaning.split()), allowed, is_allowed, **where)
    return field(default=default, metadata={"rule": rule})


def section(kind: type) -> Any:
    """Defines a section of the schema, as a field of a dataclass.

    Args:
        kind: The dataclass of the keys in the section.
    """
    return field(default_factory=kind, metadata={"section": kind})


def literal(value: Any) -> Any:
    """What is written as text, also inside a list: to YAML, (2, 3) and 1e-3 are text."""
    if isinstance(value, list):
        return [literal(element) for element in value]
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # the last two: nested very deeply
        return value


def is_int(value: Any) -> bool:
    """Whether a value is an integer; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether a value is an integer from 0, of 31 bits at most."""
    return is_int(value) and 0 <= value < 2**31


def is_positive(value: Any) -> bool:
    """Whether a value is an integer from 1, of 31 bits at most."""
    return is_count(value) and value >= 1


def is_number(value: Any) -> bool:
    """Whether a value is an integer or a float; True and False are neither, infinity and NaN are floats."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_bool(value: Any) -> bool:
    """Whether a value is True or False; 0 and 1 are not."""
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Whether a value is text, possibly empty."""
    return isinstance(value, str)


def is_name(value: Any) -> bool:
    """Whether a value is text with at least one character."""
    return isinstance(value, str) and bool(value)


def is_modules(value: Any) -> bool:
    """Whether a value cuts a network: the number of modules, or a list with the number of steps of each."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(is_positive(size) for size in value)
    return is_positive(value)


def is_names(value: Any) -> bool:
    """Whether a value is a list of names, possibly empty."""
    return isinstance(value, (list, tuple)) and all(is_name(name) for name in value)


def is_import_names(value: Any) -> bool:
    """Whether a value is a list of dotted module names, as an import statement takes them."""
    return is_names(value) and all(part.isidentifier() for name in value for part in name.split("."))


def is_factors(value: Any) -> bool:
    """Whether a value is a list of finite numbers above 0, possibly empty."""
    return isinstance(value, (list, tuple)) and all(is_number(factor) and 0 < factor < math.inf for factor in value)


def is_tile(value: Any) -> bool:
    """Whether a value is the size of a tile: a list of two non-negative integers."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(is_count(size) for size in value)


def is_memory(value: Any) -> bool:
    """Whether a value is "auto" or a non-negative integer."""
    return value == "auto" or is_count(value)


def is_partition(value: Any) -> bool:
    """Whether a value is "auto" or a non-empty list of positive integers."""
    return value == "auto" or (isinstance(value, (list, tuple)) and is_modules(value))


def is_one_of(*allowed: str) -> Callable[[Any], bool]:
    """Returns the test whether a value is one of the strings ``allowed``."""
    return lambda value: isinstance(value, str) and value in allowed


def is_subset_of(*allowed: str) -> Callable[[Any], bool]:
    """Returns the test whether a value is a list of some of the strings ``allowed``, each at most once."""
    return lambda value: is_names(value) and set(value) <= set(allowed) and len(set(value)) == len(value)


def is_finite(value: Any) -> bool:
    """Whether a value is a number, and neither infinite nor NaN."""
    return is_number(value) and math.isfinite(value)


def is_finite_from_0(value: Any) -> bool:
    """Whether a value is a finite number from 0."""
    return is_finite(value) and value >= 0
