"""The request to end a run, and what a process does about it.

Schedulers ask with SIGTERM or SIGUSR1, a person at a terminal with Ctrl-C (SIGINT), and a terminal that is closed with
SIGHUP.
"""

import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator, Optional

from meddlr_greedy.errors import PreemptedError, end_command, print_error
from meddlr_greedy.signals import handling_signals

if TYPE_CHECKING:  # it imports torch, and this module has to work before
    from meddlr_greedy.jobs.store import KeyValueStore

__all__ = [
    "INTERRUPTED",
    "SIGNALS",
    "TWICE",
    "EndRequest",
    "JobEndRequest",
    "end_at_once",
    "outside_the_training",
]

#: The signals that ask for the end.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
#: What is told of a second Ctrl-C, and the exit status, which is that of shells.
TWICE = "SIGINT received twice: ended at once, without a checkpoint; continue from the last one with --resume"
INTERRUPTED = 128 + signal.SIGINT

_KEY = "end_signal"
#: Two SIGINT within this time are one: that of the terminal, and the same one handed on by a launcher.
_ONE_S = 0.5


def outside_the_training(number: int) -> str:
    """What is told of a signal when there is nothing to save."""
    return f"{signal.Signals(number).name} received outside the training; nothing is lost, continue with --resume"


def end_at_once(number: int, frame: Any = None) -> None:  # noqa: ARG001 (the signature of a handler)
    """A signal handler for the time outside the training, when there is nothing to save.

    It ends the process here. An exception would be lost where the signal happens to arrive inside somebody's
    ``except Exception`` (meddlr's report on the environment has several) or inside a callback of the interpreter.
    Of the processes of a job that have not met yet, the first one tells.
    """
    if os.environ.get("RANK", "0") == "0":
        print_error(outside_the_training(number))
    end_command()
    os._exit(PreemptedError.exit_status)


class EndRequest:
    """The request of a signal to end the run after the present iteration; as a bool, whether there is one.

    Attributes:
        signal: Number of the signal that asked for the end; 0 if none has.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._interrupted_at: Optional[float] = None

    def __bool__(self) -> bool:
        return self.signal != 0

    def arrived(self, number: int) -> None:
        """Records a signal; the first one counts. A second Ctrl-C ends the process."""
        if self.insists(number):
            print_error(TWICE)
            os._exit(INTERRUPTED)
        self.signal = self.signal or number

    def insists(self, number: int) -> bool:
        """Takes note of a signal; whether it is the second Ctrl-C."""
        if number != signal.SIGINT:
            return False
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
        return now - self._interrupted_at > _ONE_S

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the block, signals are recorded, and do nothing else."""
        with handling_signals(SIGNALS, lambda number, frame: self.arrived(number)):  # noqa: ARG005
            yield


class JobEndRequest(EndRequest):
    """The request to end in one process of a job, whose processes must all end after the same iteration.

    A signal may arrive in any process; the key-value store tells it to all others. Before each batch, the first process
    of a chain decides whether the run ends after it. The decision goes down the chain with the batch.

    Attributes:
        signal: Number of the signal for which the run ends after the present iteration, as decided; else 0.
        pending: Number of a signal that has arrived in any process, as far as this process knows; else 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pending = 0

    def arrived(self, number: int) -> None:
        """Records a signal that arrived in this process; the first one counts. Of a second Ctrl-C the watch knows."""
        self.pending = self.pending or number

    def exchange(self, store: "KeyValueStore") -> None:
        """Tells the other processes of a signal, or learns of one that arrived there."""
        known = int(store.read(_KEY) or 0)
        if self.pending and not known:
            store.write(_KEY, str(self.pending))
        self.pending = self.pending or known

    def decide(self, number: int) -> None:
        """Takes over the decision about the present iteration: the signal to end for, or 0."""
        self.signal = number
