"""How a run can end early, told in one line.

:class:`UserError` is raised wherever input from outside (a config key, a file, a command line) is wrong.
Entry points are wrapped by :func:`exit_with_one_line`, which prints the line and ends with the exception's status.
Anything else that goes wrong is a fault of the program: it has one line, too, and status 1. Tracebacks are printed with
``--debug`` alone (:func:`show_tracebacks`), and are kept in the log of the output folder (:func:`log_causes`).
"""

import difflib
import errno
import functools
import logging
import os
import re
import sys
import traceback
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, List, Tuple, TypeVar, Union

__all__ = [
    "NonFiniteLossError",
    "OneLineError",
    "PreemptedError",
    "UserError",
    "check",
    "did_you_mean",
    "exit_with_one_line",
    "explained",
    "first_line",
    "keep_cause",
    "log_causes",
    "naming",
    "print_error",
    "show_tracebacks",
    "traceback_to_show",
]

_T = TypeVar("_T")

# Tracebacks of what is told in one line. It has handlers where an output folder has a log.
_causes = logging.getLogger("meddlr_greedy.causes")
_causes.propagate = False
_causes.addHandler(logging.NullHandler())

_logs: List[logging.Handler] = []

_tracebacks_shown = False

# What the file system says of a place where nothing can be written, and not of the program.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

# What torch's DataLoader says, from wherever the main thread happens to be.
_KILLED_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")


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
    """Wraps an entry point: whatever ends it early becomes one line on stderr, and an exit status."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        global _tracebacks_shown
        _tracebacks_shown = False
        try:
            return main(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (a user is shown no traceback)
            line, status = explained(error)
            keep_cause(line, error)
            print(f"{traceback_to_show(error)}error: {line}", file=sys.stderr)
            sys.exit(status)
        finally:
            while _logs:
                handler = _logs.pop()
                _causes.removeHandler(handler)
                handler.close()

    return wrapped


def explained(error: BaseException) -> Tuple[str, int]:
    """The line that tells of an error, and the exit status."""
    if isinstance(error, OneLineError):
        return str(error), error.exit_status
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # on the CPU, torch says it so
        return f"out of memory: {first_line(error)}", 1
    if isinstance(error, RuntimeError) and (worker := _KILLED_WORKER.search(str(error))):
        hint = "out of memory, perhaps; lower DATALOADER.NUM_WORKERS, and continue a training with --resume"
        return f"a worker of the DataLoader (process {worker[1]}) was killed: {hint}", 1
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return f"{f'{error.filename}: ' if error.filename else ''}cannot be written ({error.strerror})", 2
    return f"unexpected {type(error).__name__}: {first_line(error)}; --debug shows where it arose", 1


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where it has none."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def show_tracebacks() -> None:
    """Below here, the running command prints tracebacks of errors (``--debug``)."""
    global _tracebacks_shown
    _tracebacks_shown = True


def traceback_to_show(error: BaseException) -> str:
    """The traceback of an error and of its causes where the user asked for it, else an empty string."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)) if _tracebacks_shown else ""


def log_causes(path: Union[str, "os.PathLike[str]"]) -> None:
    """Until the running command ends, appends the tracebacks of errors to a file, which is made for the first."""
    handler = logging.FileHandler(path, delay=True, errors="backslashreplace")
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
    _causes.addHandler(handler)
    _logs.append(handler)


def keep_cause(line: str, error: BaseException) -> None:
    """Writes an error that is told in one line to the log, with its traceback and those of its causes."""
    _causes.error("error: %s", line, exc_info=error)


def print_error(line: str, details: str = "") -> None:
    """Prints a line on stderr that begins with ``error:``, below ``details``.

    It is one write, so that lines of several processes do not mix.
    """
    os.write(2, f"{details}error: {' '.join(line.split())}\n".encode())


def check(condition: bool, option: str, found: Any, allowed: str) -> None:
    """Raises a UserError about a command-line option unless ``condition``."""
    if not condition:
        raise UserError(f"{option}: found {found}, allowed {allowed}")
