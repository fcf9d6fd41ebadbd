"""How a run can end early, told in one line.

:class:`UserError` is raised wherever input from outside (a config key, a file, a command line) is wrong.
Entry points are wrapped by :func:`exit_with_one_line`, which prints the line and ends with the exception's status;
anything else that goes wrong is a fault of the program and keeps its traceback.
"""

import difflib
import functools
import os
import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, TypeVar

__all__ = [
    "NonFiniteLossError",
    "OneLineError",
    "PreemptedError",
    "UserError",
    "check",
    "did_you_mean",
    "exit_with_one_line",
    "naming",
    "print_error",
]

_T = TypeVar("_T")


class OneLineError(Exception):
    """An end that is told in one line, with the exit status of its class."""

    exit_status = 1

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class UserError(OneLineError, ValueError):
    """A mistake in what the user gave: names the file or key, what was found, and what is allowed."""

    exit_status = 2


class NonFiniteLossError(OneLineError, ArithmeticError):
    """The loss of a module is NaN or infinite; raised before the update.

    It has an exit status of its own, so that a program that starts trainings can tell divergence from other failures.
    """

    exit_status = 3


class PreemptedError(OneLineError):
    """A signal asked the run to end; it can be requeued (the status is sysexits' "temporary failure")."""

    exit_status = os.EX_TEMPFAIL


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Turns a ValueError of meddlr about a config value into a :class:`UserError` that names the key."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Returns ``"; did you mean 'X'?"`` for the nearest allowed name, or an empty string."""
    by_lower_case = {candidate.lower(): candidate for candidate in allowed}
    near = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1, cutoff=0.6)
    return f"; did you mean '{by_lower_case[near[0]]}'?" if near else ""


def exit_with_one_line(main: Callable[..., _T]) -> Callable[..., _T]:
    """Wraps an entry point: the exceptions of this file become one line on stderr and their exit status."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except OneLineError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_status)

    return wrapped


def print_error(line: str, details: str = "") -> None:
    """Prints a line on stderr that begins with ``error:``, below ``details``.

    It is one write, so that lines of several processes do not mix.
    """
    os.write(2, f"{details}error: {' '.join(line.split())}\n".encode())


def check(condition: bool, option: str, found: Any, allowed: str) -> None:
    """Raises a UserError about a command-line option unless ``condition``."""
    if not condition:
        raise UserError(f"{option}: found {found}, allowed {allowed}")
