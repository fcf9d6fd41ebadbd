"""What a process does when it, or another process of its job, fails: one line says why, and all processes end.

The process that fails first records why in the key-value store, and prints it. All others see that within a second
(:mod:`meddlr_greedy.jobs.watch`), and end with the same exit status, whatever they are waiting for.
"""

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Iterator, NoReturn, Optional

from meddlr_greedy.errors import (
    PreemptedError,
    end_command,
    explained,
    first_line,
    is_out_of_memory,
    keep_cause,
    print_error,
    traceback_to_show,
)
from meddlr_greedy.jobs.end_request import JobEndRequest
from meddlr_greedy.jobs.rendezvous import wait_for_the_others
from meddlr_greedy.jobs.store import KeyValueStore

__all__ = ["END_S", "FailureHandler", "Member", "PeerLostError", "is_lost_connection", "report_failure"]

#: How long to wait for a better explanation before a lost connection is reported as such.
GRACE_S = 3.0
#: How long processes may take to end by themselves once one has failed.
END_S = 8.0


# What NCCL's errors say where a process or the network between two is lost, and where something else is wrong: two
# processes on one GPU, no network interface, an address that nobody listens at, too little shared memory, a bug.
_LOST_IN_NCCL = (
    *("ncclRemoteError", "remote process exited", "communicator was aborted", "closed by remote peer"),
    *("onnection closed", "onnection reset", "Broken pipe", "connection abort", "collective operation timeout"),
)
_WRONG_FOR_NCCL = ("Duplicate GPU", "ncclInvalid", "no socket interface", "/dev/shm", "Connection refused", "No route")


class PeerLostError(ConnectionError):
    """The connection to a process broke.

    Attributes:
        rank: Of that process.
    """

    def __init__(self, rank: int, cause: Any):
        super().__init__(str(cause))
        self.rank = rank


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error of torch.distributed says that the other side is gone, and not that it was set up wrongly."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    text = str(error)
    if "NCCL" in text or "nccl" in text:
        return any(words in text for words in _LOST_IN_NCCL) and not any(words in text for words in _WRONG_FOR_NCCL)
    return any(words in text for words in ("onnection closed", "onnection reset", "Broken pipe", "gloo"))


def report_failure(store: KeyValueStore, line: str, status: int, details: str = "") -> None:
    """Records why the job failed, and prints it below ``details``, unless another process was first."""
    if store.record_failure(line, status):
        print_error(line, details)


@dataclass
class Member:
    """What the threads of a process share about its part in the job.

    Attributes:
        rank: Number of the process, from 0.
        world_size: Number of processes.
        linger_s: How long the process waits before it exits, so that the others can read the store that it holds.
        launcher: The parent process, where it is a launcher that runs the store; else None.
        end_request: Whether a signal asked any process of the job to end.
        trains: Whether a signal asks for the end after an iteration; else it ends the process at once.
        connected: Set when the processes are connected by torch.distributed.
        ended: Set when the process has left the job well.
        told: Held by the thread that tells of a lost store.
    """

    rank: int
    world_size: int
    linger_s: float = 0.0
    launcher: Optional[int] = None
    end_request: JobEndRequest = field(default_factory=JobEndRequest)
    trains: bool = False
    connected: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    told: threading.Lock = field(default_factory=threading.Lock)


class FailureHandler:
    """Ends the process together with the others of its job.

    Args:
        member: This process.
        store: The keys of the attempt, over a connection of the calling thread.
    """

    def __init__(self, member: Member, store: KeyValueStore):
        self._member, self._store = member, store

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Inside the block, an exception ends all processes of the job; one line says why, with rank and modules."""
        try:
            yield
        except PeerLostError as error:
            self.fail_for_lost_peer(error.rank, first_line(error))
        except PreemptedError as end:  # all processes end so, each by itself
            if self._member.rank == self._member.world_size - 1:
                print_error(str(end))
            self.leave(end.exit_status)
        except Exception as error:  # noqa: BLE001 (whatever it is, the others must not wait for this process)
            if is_lost_connection(error):
                self._wait_for_another_report()
            line, status = explained(error)
            keep_cause(line, error)
            self.fail(line, status, traceback_to_show(error))

    def fail(self, message: str, status: int, details: str = "") -> None:
        """Ends the process and with it the job; says why unless another process was first."""
        with self.store_may_be_gone():
            line = f"{self._store.process_name(self._member.rank)}: {message}"
            report_failure(self._store, line, status, details)
        self.leave(status)

    def fail_for_lost_peer(self, rank: int, cause: str) -> None:
        """Ends the process and with it the job, because the connection to another process broke."""
        self._wait_for_another_report()
        with self.store_may_be_gone():
            line = f"{self._store.process_name(rank)}: lost (killed, or out of reach: {cause})"
            report_failure(self._store, line, 1)
        self.leave(1)

    def end(self, line: str, status: int) -> NoReturn:
        """Ends the process and with it the job, for what concerns no process in particular."""
        with self.store_may_be_gone():
            report_failure(self._store, line, status)
        self.leave(status)

    @contextmanager
    def store_may_be_gone(self) -> Iterator[None]:
        """Inside the block, a lost store ends the process: the process which held the store is lost, too."""
        try:
            yield
        except RuntimeError as error:
            if self._member.ended.is_set():
                return
            # Nobody can agree any more on who says it, and in this process two threads may come here.
            if self._member.rank == 1 and self._member.told.acquire(blocking=False):
                who = "rank 0" if self._member.launcher is None else "the launcher"
                print_error(f"{who}: lost, with the job's store (killed, or out of reach: {first_line(error)})")
            self.leave(1)

    def leave(self, status: int) -> NoReturn:
        """Ends the process with an exit status."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a full disk, or closed
                stream.flush()
        if self._member.rank == 0 and not self._member.connected.is_set():
            # The others may still be on their way; they have to join to read why this attempt is over.
            wait_for_the_others(self._store, self._member.world_size, END_S)
        time.sleep(self._member.linger_s)
        end_command()
        # Not sys.exit: threads of torch that wait for a lost process would keep this one.
        os._exit(status)

    def _wait_for_another_report(self) -> None:
        """Ends the process if another one says why in the next seconds: it knows better than a broken connection."""
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            with self.store_may_be_gone():
                status = self._store.failure_status()
                if status is not None:
                    self.leave(status)
            time.sleep(0.1)
