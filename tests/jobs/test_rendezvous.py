"""How processes agree on the name of their attempt."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from meddlr_greedy.jobs.rendezvous import answer_requests, begin_attempt, wait_for_the_others
from meddlr_greedy.jobs.store import KeyValueStore


@pytest.fixture
def connect():
    """connect(): the shared keys over another connection to one store."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return lambda: KeyValueStore(dist.TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False))


def test_others_take_the_name_of_the_new_attempt(connect):
    first = begin_attempt(connect(), 0)
    second = begin_attempt(connect(), 0)
    assert second.attempt != first.attempt
    with ThreadPoolExecutor(2) as threads:
        others = [threads.submit(begin_attempt, connect(), rank) for rank in (1, 2)]
        while not all(other.done() for other in others):
            answer_requests(second, world_size=3)
            time.sleep(0.01)
    assert {other.result().attempt for other in others} == {second.attempt}


def test_the_first_process_waits_for_the_others(connect):
    store = begin_attempt(connect(), 0)
    other = KeyValueStore(connect().connection, store.attempt)
    threading.Timer(0.3, other.write_heartbeat, (1, "now")).start()
    began = time.monotonic()
    wait_for_the_others(store, world_size=2, seconds=60)
    assert store.heartbeat(1) == "now" and time.monotonic() - began < 60
    wait_for_the_others(store, world_size=3, seconds=0.1)
    assert store.heartbeat(2) is None
