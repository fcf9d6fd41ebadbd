"""Bounds on what files and options may ask for: a wrong number is one line, and not a machine without memory.

A file that is damaged, or made to do harm, declares more than it holds. So nothing is allocated before what is declared
was compared with what is there.
"""

import math
import os
from typing import Any

from meddlr_greedy.errors import UserError, check

__all__ = [
    "LARGEST_LENGTH",
    "MOST_COILS",
    "MOST_SLICES",
    "check_declared",
    "check_memory",
    "check_whole",
    "in_digits",
    "in_units",
    "is_length",
]

#: Slices of one scan, and cardiac phases of one slice.
MOST_SLICES = 4096
#: Coils, measured, virtual or simulated.
MOST_COILS = 1024
#: Spacings in mm and times in ms lie between this and one over it.
LARGEST_LENGTH = 1e6

_EXPANSION = 100  # of what compression, or leaving out zeros, may save
_ALWAYS_ALLOWED = 64 << 20


def check_declared(where: Any, num_bytes: int, stored_bytes: int) -> None:
    """Checks that a file holds what it declares.

    Args:
        where: The file, and the place in it, for the message.
        num_bytes: What is declared.
        stored_bytes: What there is, perhaps compressed.

    Raises:
        UserError: It is more than compression explains.
    """
    limit = max(_ALWAYS_ALLOWED, _EXPANSION * stored_bytes)
    if num_bytes > limit:
        raise UserError(
            f"{where}: found {in_units(num_bytes)} declared where {in_units(stored_bytes)} are stored, "
            f"allowed up to {in_units(limit)}"
        )


def check_memory(where: Any, num_bytes: int) -> None:
    """Checks that an array fits into the memory of this machine.

    Raises:
        UserError: It does not.
    """
    memory = _memory()
    if num_bytes > memory:
        raise UserError(f"{where}: found {in_units(num_bytes)}, allowed up to the {in_units(memory)} of this machine")


def check_whole(option: str, value: int, least: int, most: int) -> None:
    """Checks a whole number that an option gives.

    Raises:
        UserError: It is not from ``least`` to ``most``.
    """
    check(least <= value <= most, option, in_digits(value), f"at least {least}, at most {most}")


def is_length(value: float) -> bool:
    """Whether a number can be a spacing in mm or a time in ms: neither NaN, nor out of all proportion."""
    return 1 / LARGEST_LENGTH <= value <= LARGEST_LENGTH


def in_units(num_bytes: int) -> str:
    """A number of bytes, for messages: "1.5 GiB"."""
    value, unit = float(min(num_bytes, 1 << 80)), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}"


def in_digits(value: int) -> str:
    """A whole number, for messages; of one with very many digits, how many."""
    digits = abs(value).bit_length() * math.log10(2)
    return str(value) if digits < 50 else f"a number of {digits:.0f} digits"


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not known on this system
        return 1 << 50
