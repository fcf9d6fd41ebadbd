"""The key-value store of a job."""

import threading

import pytest
import torch.distributed as dist

from meddlr_greedy.jobs.store import KeyValueStore


@pytest.fixture
def connect():
    """connect(): another connection to one store."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return lambda: dist.TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False)


def test_keys_are_read_without_waiting(connect):
    store, other = KeyValueStore(connect(), "a"), KeyValueStore(connect(), "a")
    assert other.read("key") is None
    store.write("key", "value")
    assert other.read("key") == "value" == other.wait_for("key")


def test_a_key_is_waited_for(connect):
    store = KeyValueStore(connect())
    threading.Timer(0.2, KeyValueStore(connect()).write, ("key", "value")).start()
    assert store.wait_for("key") == "value"


def test_attempts_are_apart(connect):
    first = KeyValueStore(connect(), "first")
    first.write("key", "value")
    first.shared().write("attempt", "second")
    assert first.current_attempt().attempt == "second"
    assert first.current_attempt().read("key") is None and first.shared().read("key") is None


def test_the_first_failure_counts(connect):
    store, other = KeyValueStore(connect(), "a"), KeyValueStore(connect(), "a")
    assert other.failure_status() is None
    assert store.record_failure("out of disk", 2)
    assert not other.record_failure("lost", 1)
    assert other.failure_status() == store.failure_status() == 2


def test_processes_are_named_with_their_modules(connect):
    store = KeyValueStore(connect(), "a")
    store.write_modules(1, "modules 3 to 4")
    assert store.process_name(0) == "rank 0" and store.process_name(1) == "rank 1 (modules 3 to 4)"
