"""How the processes of a job meet, and agree on the name of their attempt.

The first process names the attempt. Every other one asks for the name under a key of its own, and waits for the reply.
So it cannot take the name of an earlier attempt, which may still be in the store. torchrun's count of restarts does not
name an attempt: machines that restart because another one failed do not count it.

Two processes with one RANK are found where they ask, or where they take their place in the attempt.
"""

import time
import uuid
from contextlib import suppress
from typing import NoReturn

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.store import JOIN_S, KeyValueStore

__all__ = ["answer_requests", "begin_attempt", "check_is_first", "wait_for_the_others"]


def begin_attempt(shared: KeyValueStore, rank: int) -> KeyValueStore:
    """The keys of the attempt that this process takes part in.

    Args:
        shared: The keys that all attempts share.
        rank: Of this process.

    Raises:
        UserError: The first process does not reply within ``JOIN_S``, or another process has this rank, too.
    """
    name = uuid.uuid4().hex
    if rank == 0:
        shared.write("attempt", name)
        return shared.current_attempt()
    request, earlier = f"rendezvous/request/{rank}", shared.current_attempt()
    heartbeat = earlier.heartbeat(rank)
    shared.write(request, name)
    deadline = time.monotonic() + JOIN_S
    while time.monotonic() < deadline:
        attempt = shared.read(f"rendezvous/reply/{name}")
        if attempt is not None:
            store = KeyValueStore(shared.connection, attempt)
            if not store.claim(f"place/{rank}", name):
                _refuse_second(store, rank)
            return store
        # A later request, or a process that has joined and lives: those of an earlier attempt have ended.
        if shared.read(request) != name or earlier.heartbeat(rank) != heartbeat:
            _refuse_second(shared.current_attempt(), rank)
        time.sleep(0.1)
    raise UserError(f"rank 0 has not come within {JOIN_S:.0f} s; were all processes started?")


def check_is_first(store: KeyValueStore) -> None:
    """For the first process of an attempt, until all are connected: that nobody else has begun another one.

    Raises:
        UserError: Another process has the rank 0, too.
    """
    current = store.current_attempt()
    if current.attempt != store.attempt:
        _refuse_second(current, 0)


def _refuse_second(store: KeyValueStore, rank: int) -> NoReturn:
    line = f"RANK: found {rank} in two processes of a job; allowed is a number of its own for each process"
    store.record_failure(line, UserError.exit_status)  # the others end, too, and this one says why
    raise UserError(line)


def answer_requests(store: KeyValueStore, world_size: int) -> None:
    """Tells the name of the attempt to all processes that have asked; for the first process."""
    shared = store.shared()
    for rank in range(1, world_size):
        name = shared.read(f"rendezvous/request/{rank}")
        if name is not None:  # perhaps of an earlier attempt: then a new request will come
            shared.write(f"rendezvous/reply/{name}", store.attempt)


def wait_for_the_others(store: KeyValueStore, world_size: int, seconds: float) -> None:
    """Waits until all processes have joined, but not longer than ``seconds``; for the first process."""
    deadline = time.monotonic() + seconds
    with suppress(RuntimeError):  # the store is gone
        while time.monotonic() < deadline:
            answer_requests(store, world_size)
            if all(store.heartbeat(rank) for rank in range(1, world_size)):
                return
            time.sleep(0.1)
