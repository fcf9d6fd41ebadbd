"""The thread that keeps a process in touch with its job, whatever the main thread is waiting for."""

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Optional

from meddlr_greedy.errors import PreemptedError, UserError
from meddlr_greedy.jobs.end_request import INTERRUPTED, SIGNALS, TWICE, outside_the_training
from meddlr_greedy.jobs.failure import FailureHandler, Member
from meddlr_greedy.jobs.rendezvous import answer_requests, check_is_first
from meddlr_greedy.jobs.store import JOIN_S, KeyValueStore

__all__ = ["HEARTBEAT_S", "Watch"]

#: Time between two heartbeats.
HEARTBEAT_S = 1.0
#: Time without a heartbeat after which a process counts as lost. A dead one is noticed sooner: its connections close.
SILENCE_S = 15.0
#: The longest time between two looks that counts: where this process was stopped or slow, so were the others.
_LONGEST_LOOK_S = 2 * HEARTBEAT_S


class Watch:
    """Sends heartbeats, watches those of the next rank, and ends the process when the job has failed.

    It is made in the main thread.

    Args:
        member: This process.
        store: The keys of the attempt, over a connection of the watch's own.
    """

    def __init__(self, member: Member, store: KeyValueStore):
        self._member, self._store = member, store
        self._failure = FailureHandler(member, store)
        self._signals = _pipe_of_signals()
        self._watched_rank = (member.rank + 1) % member.world_size
        self._last_heartbeat: Optional[str] = None
        self._silent_s, self._last_look = 0.0, time.monotonic()

    def start(self) -> None:
        """Starts the thread; it runs until the process has left the job, or ends the process."""
        threading.Thread(target=self._run, daemon=True, name="watch").start()

    def _run(self) -> None:
        member, store = self._member, self._store
        with self._failure.store_may_be_gone():
            while not member.ended.wait(HEARTBEAT_S if member.connected.is_set() else HEARTBEAT_S / 5):
                self._act_on_signals()
                if member.launcher is not None and os.getppid() != member.launcher:
                    self._failure.end(f"the launcher (process {member.launcher}): lost (killed?)", 1)
                if member.rank == 0 and not member.connected.is_set():
                    self._receive_others()
                store.write_heartbeat(member.rank, repr(time.time()))
                status = store.failure_status()
                if status is not None:
                    self._failure.leave(status)
                member.end_request.exchange(store)
                self._check_watched_process()

    def _receive_others(self) -> None:
        try:
            check_is_first(self._store)
        except UserError as error:
            self._failure.end(str(error), error.exit_status)
        answer_requests(self._store, self._member.world_size)

    def _check_watched_process(self) -> None:
        heartbeat = self._store.heartbeat(self._watched_rank)
        now = time.monotonic()
        self._silent_s += min(now - self._last_look, _LONGEST_LOOK_S)
        self._last_look = now
        if heartbeat != self._last_heartbeat:
            self._last_heartbeat, self._silent_s = heartbeat, 0.0
        if self._silent_s > (JOIN_S if heartbeat is None else SILENCE_S):
            name = self._store.process_name(self._watched_rank)
            why = f"lost (no heartbeat for {SILENCE_S:.0f} s)"
            why = f"has not come within {JOIN_S:.0f} s; were all processes started?" if heartbeat is None else why
            self._failure.end(f"{name}: {why}", 1)

    def _act_on_signals(self) -> None:
        """Ends the job where no checkpoint is written: before the training, and on a second Ctrl-C.

        The main thread may be waiting inside torch.
        """
        with suppress(BlockingIOError):
            for number in os.read(self._signals, 100):
                if number in SIGNALS and not self._member.trains:
                    self._failure.end(outside_the_training(number), PreemptedError.exit_status)
                if self._member.end_request.insists(number):
                    self._failure.end(TWICE, INTERRUPTED)


def _pipe_of_signals() -> int:
    """A pipe in which Python writes the number of each signal at once; its handlers wait for the main thread."""
    arrived, wake = os.pipe()
    os.set_blocking(arrived, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return arrived
