"""What a command shows while it works: its messages, and how far it is.

On a terminal that is a bar, with the time that is left. Where stderr is no terminal (a log of a scheduler), a plain
line comes now and then, and the longer it takes, the more seldom.
"""

import logging
import sys
import time
from contextlib import contextmanager, suppress
from typing import Any, Callable, Iterable, Iterator, Optional, Set, TextIO

from tqdm import tqdm

__all__ = ["Followed", "Progress", "say", "show_messages", "without_bars"]

# Between two lines, at least: seconds, and the share of the time that has passed.
_BETWEEN_LINES_S, _BETWEEN_LINES = 30.0, 0.2


class Progress:
    """How far something is that is done in many equal parts; closed at the end of a ``with`` block.

    Args:
        total: The number of parts.
        what: What is done, for example "training".
        unit: What parts are called, for example "iterations".
        done: How many parts were done before.
        shown: Whether it is shown at all.
        clock: Gives the time in s.
    """

    def __init__(
        self,
        total: int,
        what: str,
        unit: str,
        done: int = 0,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.done, self._shown = total, done, shown
        self._what, self._unit, self._clock = what, unit, clock
        self._first = done
        self._begun = self._told_at = clock()
        self._told: Optional[int] = None
        self._note = ""
        self._bar: Optional[tqdm] = None
        if not shown:
            return
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=what, unit=f" {unit}", dynamic_ncols=True, file=sys.stderr)
        else:
            self._tell()

    def update(self, parts: int = 1, note: str = "") -> None:
        """Counts parts that are done.

        Args:
            parts: Their number.
            note: What else there is to show, for example the loss.
        """
        self.done += parts
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(parts)
        elif self._shown:
            time_now = self._clock()
            if time_now - self._told_at >= max(_BETWEEN_LINES_S, _BETWEEN_LINES * (time_now - self._begun)):
                self._tell()

    def close(self) -> None:
        """Ends the bar; without one, tells where it ended."""
        if self._bar is not None:
            self._bar.close()
        elif self._shown and self._told != self.done:
            self._tell()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _tell(self) -> None:
        self._told, self._told_at = self.done, self._clock()
        seconds = self._told_at - self._begun
        line = f"{self._what}: {self.done} of {self.total} {self._unit}"
        if self.done > self._first:
            line += f" in {tqdm.format_interval(seconds)}"
            if self.done < self.total:
                left = seconds / (self.done - self._first) * (self.total - self.done)
                line += f", about {tqdm.format_interval(left)} left"
        print(line + (f" ({self._note})" if self._note else ""), file=sys.stderr, flush=True)


class Followed:
    """Something to go through whose :class:`Progress` is shown.

    Args:
        parts: What to go through; it has a length.
        what: See :class:`Progress`.
        unit: See :class:`Progress`.
    """

    def __init__(self, parts: Any, what: str, unit: str):
        self._parts, self._what, self._unit = parts, what, unit

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Any]:
        with Progress(len(self), self._what, self._unit) as progress:
            for part in self._parts:
                yield part
                progress.update()


def say(text: str, file: Optional[TextIO] = None) -> None:
    """Prints a message above a bar; ``file`` is stdout where it is not given."""
    tqdm.write(text, file=file or sys.stdout)


@contextmanager
def without_bars(*modules: Any) -> Iterator[None]:
    """Inside the block, modules of others that go through parts with ``tqdm`` show no bars beside ours."""
    shown = [module.tqdm for module in modules]
    try:
        for module in modules:
            module.tqdm = lambda parts, **_: parts
        yield
    finally:
        for module, bar in zip(modules, shown):
            module.tqdm = bar


class _Console(logging.Handler):
    """Shows each message once, on stdout, above a bar."""

    def __init__(self, level: int):
        super().__init__(level)
        self._shown: Set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a message; what cannot be shown is in the log."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        if text in self._shown:
            return
        self._shown.add(text)
        with suppress(OSError, ValueError):  # nobody reads any longer
            say(text)
            sys.stdout.flush()


def show_messages(names: Iterable[str], level: int) -> None:
    """Shows what loggers say from a level on; what an earlier call for them asked is forgotten.

    Args:
        names: Of the loggers.
        level: Of the module ``logging``.
    """
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler for handler in logger.handlers if not isinstance(handler, _Console)]
        logger.addHandler(_Console(level))
