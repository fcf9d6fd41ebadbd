"""How a run can end early, told in one line.

:class:`UserError` is raised wherever input from outside (a config key, a file, a command line) is wrong.
Entry points are wrapped by :func:`exit_with_one_line`, which prints the line and ends with the exception's status.
Anything else that goes wrong is a fault of the program: it has one line, too, and status 1. Tracebacks are printed with
``--debug`` alone (:func:`show_tracebacks`), and are kept in the log of the output folder (:func:`log_causes`).

A signal that asks for the end is an exception too (:class:`EndedBySignal`): files half-written are removed on its way
up, and what :func:`at_end` was given is done, as at every other end.
"""

import atexit
import difflib
import errno
import functools
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from typing import Any, Callable, Iterable, Iterator, List, Tuple, TypeVar, Union

from meddlr_greedy.signals import handling_signals

__all__ = [
    "EndedBySignal",
    "NonFiniteLossError",
    "OneLineError",
    "PreemptedError",
    "UserError",
    "at_end",
    "check",
    "did_you_mean",
    "end_command",
    "exit_with_one_line",
    "explained",
    "first_line",
    "is_out_of_memory",
    "keep_cause",
    "log_causes",
    "naming",
    "no_room",
    "print_error",
    "shortened",
    "show_tracebacks",
    "traceback_to_show",
]

_T = TypeVar("_T")

# Tracebacks of what is told in one line. It has handlers where an output folder has a log.
_causes = logging.getLogger("meddlr_greedy.causes")
_causes.propagate = False
_causes.addHandler(logging.NullHandler())

# What is left to do when the running command ends, last come, first done.
_at_end: List[Callable[[], Any]] = []

_tracebacks_shown = False

# What the file system says of a place where nothing can be written, and not of the program.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

# What torch's DataLoader says, from wherever the main thread happens to be.
_KILLED_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
# What torch.save says where its file cannot be written; it does not tell why.
_TORCH_CANNOT_WRITE = ("inline_container.cc", "PytorchStreamWriter failed", "iostream error")

_END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Schedulers and shells may send a signal twice. One that comes later than this ends the process at once.
_CLEANING_S = 10.0


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


class EndedBySignal(KeyboardInterrupt):  # noqa: N818 (no error)
    """SIGINT, SIGTERM or SIGHUP asked for the end.

    Attributes:
        signal: Its number.
    """

    def __init__(self, number: int):
        super().__init__(f"{signal.Signals(number).name} received; nothing is left half-written")
        self.signal = number


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Names the key in whatever meddlr raises about a config value, and makes one line of it.

    meddlr has no exception for it: a wrong value ends in a ValueError, an assertion, or a KeyError somewhere inside.
    So around what builds something from the config, and nothing else, any error counts as the value's fault.

    Raises:
        UserError: ``"<key>: <reason>"``.
    """
    try:
        yield
    except (OneLineError, OSError):  # a full disk, or a process that was lost
        raise
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
    except Exception as error:  # noqa: BLE001 (see above)
        if is_out_of_memory(error):
            raise
        line = f"{key}: not possible with these values ({type(error).__name__}: {first_line(error)})"
        keep_cause(line, error)
        raise UserError(line) from error


def shortened(value: Any, length: int = 120) -> str:
    """A value as Python writes it, cut where it is longer than a line takes."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "an integer of very many digits"
    return text if len(text) <= length else f"{text[:length]}..."


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
        before = len(_at_end)  # of a command that calls this one
        _print_any_text()
        try:
            with _ended_by_signals(), _threads_and_logs_in_one_line():
                return main(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (a user is shown no traceback)
            line, status = explained(error)
            keep_cause(line, error)
            print(f"{traceback_to_show(error)}error: {line}", file=sys.stderr)
            sys.exit(status)
        except KeyboardInterrupt as end:
            end = end if isinstance(end, EndedBySignal) else EndedBySignal(signal.SIGINT)
            print(f"{traceback_to_show(end)}error: {end}", file=sys.stderr)
            sys.exit(128 + end.signal)
        finally:
            end_command(before)

    return wrapped


def at_end(function: Callable[[], Any]) -> None:
    """Calls a function when the running command ends, in whatever way; that of the process, where there is none."""
    _at_end.append(function)


@atexit.register
def end_command(commands_before: int = 0) -> None:
    """Does now what :func:`at_end` was given; for ends that pass by Python's (``os._exit``).

    Args:
        commands_before: How much of it belongs to commands that called this one, and is left.
    """
    while len(_at_end) > commands_before:
        with suppress(OSError):
            _at_end.pop()()


def _print_any_text() -> None:
    """Names of files need not be text; printed, they are escaped, and no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with suppress(OSError):  # it flushes, and the disk may be full
                stream.reconfigure(errors="backslashreplace")


@contextmanager
def _threads_and_logs_in_one_line() -> Iterator[None]:
    """Inside the block, an error in another thread is one line, and one of a log's file none.

    Where there is no room for what a thread writes, the main thread learns of it, and tells it.
    """

    def tell(failed: Any) -> None:
        error = failed.exc_value
        if error is None or no_room(error):
            return
        line = f"in a thread: {explained(error)[0]}"
        keep_cause(line, error)
        print_error(line, traceback_to_show(error))

    hook, logging_raises = threading.excepthook, logging.raiseExceptions
    threading.excepthook, logging.raiseExceptions = tell, False
    try:
        yield
    finally:
        threading.excepthook, logging.raiseExceptions = hook, logging_raises


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Inside the block, the first SIGINT, SIGTERM or SIGHUP raises :class:`EndedBySignal`."""
    process, first = os.getpid(), [0.0]

    def handle(number: int, frame: Any) -> None:  # noqa: ARG001 (the signature of a handler)
        if os.getpid() != process:  # a process forked from here ends as it would without the handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not first[0]:
            first[0] = time.monotonic()
            raise EndedBySignal(number)
        elif time.monotonic() > first[0] + _CLEANING_S:
            os._exit(128 + number)

    with handling_signals(_END_SIGNALS, handle):
        yield


def explained(error: BaseException) -> Tuple[str, int]:
    """The line that tells of an error, and the exit status."""
    if isinstance(error, OneLineError):
        return str(error), error.exit_status
    if is_out_of_memory(error):
        return f"out of memory: {first_line(error)}", 1
    if isinstance(error, RuntimeError) and (worker := _KILLED_WORKER.search(str(error))):
        hint = "out of memory, perhaps; lower DATALOADER.NUM_WORKERS, and continue a training with --resume"
        return f"a worker of the DataLoader (process {worker[1]}) was killed: {hint}", 1
    reason = no_room(error)
    if reason:
        file_name = getattr(error, "filename", None)
        return f"{f'{file_name}: ' if file_name else ''}cannot be written ({reason})", 2
    return f"unexpected {type(error).__name__}: {first_line(error)}; --debug shows where it arose", 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of a GPU is used up."""
    # By name, since nothing here imports torch. Of the CPU's memory torch says it in a RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def no_room(error: BaseException) -> str:
    """Why nothing can be written, where an error says that of the file system and not of the program; else empty."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return os.strerror(error.errno)
    if isinstance(error, RuntimeError):
        if any(words in str(error) for words in _TORCH_CANNOT_WRITE):
            return "torch.save failed; is the disk full?"
        found = re.search(r"errno = (\d+)", str(error))  # HDF5, where it flushes on closing a file
        return os.strerror(int(found[1])) if found else ""
    return ""


def last_line(error: BaseException) -> str:
    """The last line of an error's message, where libraries say what was wrong; the name of its class without one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


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


class _Log(logging.FileHandler):
    """A log that is made for the first line, in a folder that is there; what cannot be logged is not worth a word."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        if os.path.isdir(os.path.dirname(self.baseFilename)):
            super().emit(record)

    def close(self) -> None:
        """Closes the file; what it still holds back may have no room."""
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 (logging's name)
        """Says nothing: the disk may be full, which is told elsewhere."""


def log_causes(path: Union[str, "os.PathLike[str]"]) -> None:
    """Until the running command ends, appends the tracebacks of errors to a file, which is made for the first."""
    handler = _Log(path, delay=True, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
    _causes.addHandler(handler)

    def close() -> None:
        _causes.removeHandler(handler)
        handler.close()

    at_end(close)


def keep_cause(line: str, error: BaseException) -> None:
    """Writes an error that is told in one line to the log, with its traceback and those of its causes."""
    _causes.error("error: %s", line, exc_info=error)


def print_error(line: str, details: str = "") -> None:
    """Prints a line on stderr that begins with ``error:``, below ``details``.

    It is one write, so that lines of several processes do not mix. Where stderr is a file on a full disk, nothing is
    printed, and nothing is raised: the process has to end all the same.
    """
    with suppress(OSError):
        os.write(2, f"{details}error: {' '.join(line.split())}\n".encode(errors="backslashreplace"))


def check(condition: bool, option: str, found: Any, allowed: str) -> None:
    """Raises a UserError about a command-line option unless ``condition``."""
    if not condition:
        raise UserError(f"{option}: found {found}, allowed {allowed}")
