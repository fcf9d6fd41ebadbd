"""How processes agree on the name of their attempt."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.rendezvous import answer_requests, begin_attempt, check_is_first, wait_for_the_others
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


def begin_and_tell(connect, rank):
    """The line that tells of a second process; None where it takes its place."""
    try:
        begin_attempt(connect(), rank)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("together", [True, False])
def test_of_two_processes_with_one_rank_one_says_so(connect, rank, together):
    store = begin_attempt(connect(), 0)
    with ThreadPoolExecutor(2) as threads:
        two = [threads.submit(begin_and_tell, connect, rank)]
        while not (together or two[0].done()):
            answer_requests(store, world_size=3)
        two.append(threads.submit(begin_and_tell, connect, rank))
        while not all(one.done() for one in two):
            answer_requests(store, world_size=3)
            time.sleep(0.01)
    lines = [one.result() for one in two if one.result()]
    assert len(lines) == 1 and lines[0].startswith(f"RANK: found {rank} in two processes of a job")
    assert store.failure_status() == 2


def test_a_process_that_lives_is_found_where_nobody_answers_any_more(connect):
    """All have joined long ago; a stray one comes."""
    store = begin_attempt(connect(), 0)
    with ThreadPoolExecutor(1) as threads:
        stray = threads.submit(begin_and_tell, connect, 1)
        while not stray.done():
            store.write_heartbeat(1, repr(time.time()))
            time.sleep(0.01)
    assert "RANK: found 1 in two processes" in stray.result() and store.failure_status() == 2


def test_a_second_first_process_is_found(connect):
    store = begin_attempt(connect(), 0)
    check_is_first(store)
    second = begin_attempt(connect(), 0)
    with pytest.raises(UserError, match="RANK: found 0 in two processes"):
        check_is_first(store)
    assert second.failure_status() == 2


def test_the_first_process_waits_for_the_others(connect):
    store = begin_attempt(connect(), 0)
    other = KeyValueStore(connect().connection, store.attempt)
    threading.Timer(0.3, other.write_heartbeat, (1, "now")).start()
    began = time.monotonic()
    wait_for_the_others(store, world_size=2, seconds=60)
    assert store.heartbeat(1) == "now" and time.monotonic() - began < 60
    wait_for_the_others(store, world_size=3, seconds=0.1)
    assert store.heartbeat(2) is None
