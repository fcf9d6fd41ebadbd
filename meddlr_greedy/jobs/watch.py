"""The thread that keeps a process in touch with its job, whatever the main thread is waiting for."""

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Optional

from meddlr_greedy.jobs.end_request import end_at_once
from meddlr_greedy.jobs.failure import FailureHandler, Member, report_failure
from meddlr_greedy.jobs.rendezvous import answer_requests
from meddlr_greedy.jobs.store import JOIN_S, KeyValueStore

__all__ = ["HEARTBEAT_S", "Watch"]

#: Time between two heartbeats.
HEARTBEAT_S = 1.0
#: Time without a heartbeat after which a process counts as lost. A dead one is noticed sooner: its connections close.
SILENCE_S = 15.0


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
        self._last_seen = time.monotonic()

    def start(self) -> None:
        """Starts the thread; it runs until the process has left the job, or ends the process."""
        threading.Thread(target=self._run, daemon=True, name="watch").start()

    def _run(self) -> None:
        member, store = self._member, self._store
        with self._failure.store_may_be_gone():
            while not member.ended.wait(HEARTBEAT_S if member.connected.is_set() else HEARTBEAT_S / 5):
                self._act_on_signals()
                if member.rank == 0 and not member.connected.is_set():
                    answer_requests(store, member.world_size)
                store.write_heartbeat(member.rank, repr(time.time()))
                status = store.failure_status()
                if status is not None:
                    self._failure.leave(status)
                member.end_request.exchange(store)
                self._check_watched_process()

    def _check_watched_process(self) -> None:
        heartbeat = self._store.heartbeat(self._watched_rank)
        if heartbeat != self._last_heartbeat:
            self._last_heartbeat, self._last_seen = heartbeat, time.monotonic()
        patience_s = JOIN_S if heartbeat is None else SILENCE_S
        if time.monotonic() - self._last_seen > patience_s:
            name = self._store.process_name(self._watched_rank)
            report_failure(self._store, f"{name}: lost (no heartbeat for {patience_s:.0f} s)", 1)
            self._failure.leave(1)

    def _act_on_signals(self) -> None:
        """Before the training, ends the process on a signal: the main thread may be waiting inside torch."""
        with suppress(BlockingIOError):
            arrived = set(os.read(self._signals, 100)) & {signal.SIGTERM, signal.SIGUSR1}
            if arrived and not self._member.trains:
                end_at_once(arrived.pop())


def _pipe_of_signals() -> int:
    """A pipe in which Python writes the number of each signal at once; its handlers wait for the main thread."""
    arrived, wake = os.pipe()
    os.set_blocking(arrived, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return arrived
