"""The key-value store of a job."""

import threading

import pytest
import torch.distributed as dist

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs import store as store_module
from meddlr_greedy.jobs.environment import Environment
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
    assert other.wait_for("key") == "value" == other.read("key")  # a write arrives when it does


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
    assert not store.record_failure("out of disk", 2), "a process says the same twice"
    assert other.failure_status() == store.failure_status() == 2


def test_processes_are_named_with_their_modules(connect):
    store = KeyValueStore(connect(), "a")
    store.write_modules(1, "modules 3 to 4")
    assert store.process_name(0) == "rank 0" and store.process_name(1) == "rank 1 (modules 3 to 4)"


def environment(address, port, launcher_holds_store=True):
    return Environment(2, 1, 1, address, port, launcher_holds_store)


@pytest.mark.parametrize("address", ["127.0.0.1", "no-host.invalid", "two words", "::", "a" * 300, "\u2603", "-"])
@pytest.mark.parametrize("launcher_holds_store", [True, False])
def test_nobody_answers(monkeypatch, capfd, address, launcher_holds_store):
    monkeypatch.setattr(store_module, "_AGENT_S" if launcher_holds_store else "JOIN_S", 0.01)
    with pytest.raises(
        UserError, match=f"MASTER_ADDR: nobody answers at {address}:1 within 0 s .*; allowed is the host"
    ):
        store_module.connect(environment(address, 1, launcher_holds_store))
    assert capfd.readouterr().err == "", "torch prints frames of C++"


def test_a_port_in_use(connect, capfd):
    port = connect().port
    with pytest.raises(UserError, match=f"MASTER_PORT: found {port}, which is in use by another process"):
        store_module.connect(environment("127.0.0.1", port), starts_store=True)
    assert capfd.readouterr().err == ""


def test_the_store_bears_that_one_looks_for_it(connect, capfd):
    port = connect().port
    for _ in range(3):
        store_module._wait_for_answer("127.0.0.1", port, 1)
    store = KeyValueStore(store_module.connect(environment("127.0.0.1", port)))
    store.write("key", "value")
    assert store.read("key") == "value" and capfd.readouterr().err == ""
