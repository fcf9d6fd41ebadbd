"""Signals that ask a process to end, and what handles them meanwhile."""

import signal
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Sequence

__all__ = ["handling_signals"]


@contextmanager
def handling_signals(numbers: Sequence[int], handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Inside the block, signals call ``handler`` with their number and the stack frame.

    A signal that is ignored (``nohup``) stays so. Outside the main thread it does nothing: there Python installs no
    handlers, so the caller's program handles signals.

    Args:
        numbers: The signals.
        handler: What they call.
    """
    previous = {}
    for number in numbers:
        try:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread
            break
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
