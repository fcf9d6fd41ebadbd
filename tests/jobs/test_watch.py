"""The watch over another process: what counts as its silence."""

import signal
from types import SimpleNamespace

import pytest

from meddlr_greedy.jobs import watch as watch_module
from meddlr_greedy.jobs.failure import Member
from meddlr_greedy.jobs.watch import Watch


class Ended(Exception):
    """The process has ended."""


@pytest.fixture
def looks(monkeypatch):
    """looks(heartbeats, seconds): the watch of rank 0 reads those of rank 1, with ``seconds`` between two."""
    clock = [0.0]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: clock[0])

    def end(line, status):
        raise Ended(line)

    def looks(heartbeats, seconds):
        watch = Watch(Member(0, 2), SimpleNamespace(process_name="rank {}".format))
        watch._failure.end = end
        for heartbeat in heartbeats:
            clock[0] += seconds
            watch._store.heartbeat = lambda rank, heartbeat=heartbeat: heartbeat
            watch._check_watched_process()

    yield looks
    signal.set_wakeup_fd(-1)


def test_a_process_is_silent_for_a_while(looks):
    looks(["1"] * 15, seconds=1)
    with pytest.raises(Ended, match=r"rank 1: lost \(no heartbeat for 15 s\)"):
        looks(["1"] * 20, seconds=1)


def test_a_process_does_not_come(looks):
    looks([None] * 300, seconds=1)
    with pytest.raises(Ended, match="rank 1: has not come within 300 s; were all processes started"):
        looks([None] * 301, seconds=1)


def test_time_in_which_all_were_stopped_does_not_count(looks):
    """A machine that slept, or Ctrl-Z: the other process comes back as late as this one."""
    looks(["1", "1", "2", "2"], seconds=1000)
