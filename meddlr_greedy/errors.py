"""Mistakes a user can make, told in one line.

:class:`UserError` is raised wherever input from outside (a config key, a file, a command line) is wrong.
Entry points are wrapped by :func:`exit_on_user_error`, which prints the line and ends with exit status 2;
anything else that goes wrong is a fault of the program and keeps its traceback.
"""

import difflib
import functools
import sys
from typing import Callable, Iterable, TypeVar

__all__ = ["UserError", "exit_on_user_error", "did_you_mean"]

_T = TypeVar("_T")

EXIT_USER_ERROR = 2


class UserError(ValueError):
    """A mistake in what the user gave: names the file or key, what was found, and what is allowed."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Returns ``"; did you mean 'X'?"`` for the nearest allowed name, or an empty string."""
    near = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def exit_on_user_error(main: Callable[..., _T]) -> Callable[..., _T]:
    """Wraps an entry point: a :class:`UserError` becomes one line on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)

    return wrapped
