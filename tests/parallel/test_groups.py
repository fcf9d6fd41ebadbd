"""Groups of processes are connected in one order, by main threads, before other threads use them."""

import itertools
import threading

import pytest
import torch

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.failure import is_lost_connection
from meddlr_greedy.parallel import groups
from meddlr_greedy.parallel.channel import Receiver, Sender
from meddlr_greedy.parallel.groups import Groups, connecting_order
from meddlr_greedy.parallel.place import Place
from tests.helpers import jobs
from tests.helpers.jobs import ended_well

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("replicas", "stages", "expected"),
    [
        (1, 2, [(0, 1)]),
        (1, 3, [(0, 1), (1, 2)]),
        (1, 5, [(0, 1), (2, 3), (1, 2), (3, 4)]),
        (3, 1, [(0, 1, 2)]),
        (2, 3, [(0, 1), (3, 4), (1, 2), (4, 5), (0, 3), (1, 4), (2, 5)]),
    ],
)
def test_order(replicas, stages, expected):
    for rank in range(replicas * stages):
        assert connecting_order(Place(rank, replicas, stages)) == expected


class FakeNccl:
    """In the place of torch.distributed, for processes that are threads here.

    As NCCL does it: a group connects when all of its processes use it for the first time, and a process that waits for
    one group does nothing else. Whoever waits longer than ``patience_s`` would wait for ever.
    """

    def __init__(self, patience_s=20.0):
        self.patience_s = patience_s
        self.log, self.made = [], {}
        self._barriers, self._lock = {}, threading.Lock()

    def new_group(self, ranks):
        with self._lock:
            group = tuple(ranks)
            self._barriers.setdefault(group, threading.Barrier(len(group)))
            self.made.setdefault(threading.current_thread().name, []).append(group)
            return group

    def use(self, token, *peer, group):
        with self._lock:
            self.log.append((threading.current_thread().name, group))
        self._barriers[group].wait(self.patience_s)

    send = recv = all_reduce = use


def as_processes(num, run):
    """Calls ``run(rank)`` in ``num`` threads; returns what each gave or raised."""
    found = [None] * num

    def guarded(rank):
        try:
            found[rank] = run(rank)
        except Exception as error:  # the test looks at it
            found[rank] = error

    threads = [threading.Thread(target=guarded, args=(rank,), name=str(rank)) for rank in range(num)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize(("replicas", "stages"), [(1, 3), (3, 1), (2, 2), (2, 3), (1, 6)])
def test_processes_connect_their_groups_in_one_order(monkeypatch, replicas, stages):
    nccl = FakeNccl()
    monkeypatch.setattr(groups, "dist", nccl)
    num = replicas * stages
    found = as_processes(num, lambda rank: Groups.make(Place(rank, replicas, stages), CPU))
    order = connecting_order(Place(0, replicas, stages))
    for rank, own in enumerate(found):
        assert isinstance(own, Groups), own
        assert nccl.made[str(rank)] == order  # each group is made by all
        used = [group for name, group in nccl.log if name == str(rank)]
        assert used == [ranks for ranks in order if rank in ranks]
        stage = rank % stages
        assert own.receiving == ((rank - 1, rank) if stage else None)
        assert own.sending == ((rank, rank + 1) if stage < stages - 1 else None)
        assert own.replicas == (tuple(range(stage, num, stages)) if replicas > 1 else None)


def test_in_another_order_they_would_wait_for_ever(monkeypatch):
    """What the order is for: three processes, each of which begins with another one of its two groups."""
    nccl = FakeNccl(patience_s=0.5)
    monkeypatch.setattr(groups, "dist", nccl)
    pairs = [(0, 1), (1, 2), (0, 2)]

    def connect(rank, wanted):
        for pair in wanted:
            if rank in pair:
                nccl.use(None, group=nccl.new_group(pair))

    def orders(rank):
        connect(rank, pairs[rank:] + pairs[:rank])

    assert any(isinstance(error, threading.BrokenBarrierError) for error in as_processes(3, orders))
    assert as_processes(3, lambda rank: connect(rank, pairs)) != [] and FakeNccl().log == []


def test_without_nccl_only_replicas_have_groups(monkeypatch):
    nccl = FakeNccl()
    monkeypatch.setattr(groups, "dist", nccl)
    found = as_processes(6, lambda rank: Groups.make(Place(rank, 2, 3), None))
    assert nccl.log == [] and nccl.made["0"] == [(0, 3), (1, 4), (2, 5)]
    assert [own.replicas for own in found] == [(0, 3), (1, 4), (2, 5)] * 2
    assert all(own.receiving is own.sending is None for own in found)
    assert as_processes(2, lambda rank: Groups.make(Place(rank, 1, 2), None)) == [Groups()] * 2


def pass_on(job):
    """Three real processes: groups of their own for each way, then threads that use both at a time."""
    place = Place(job.rank, 1, 3)
    own = Groups.make(place, CPU)
    assert threading.active_count() < 10 and not any(
        thread.name in ("Sender", "Receiver") for thread in threading.enumerate()
    )
    receiver = Receiver(job.rank - 1, 2, CPU, group=own.receiving) if own.receiving else None
    sender = Sender(job.rank + 1, 2, CPU, group=own.sending) if own.sending else None
    for i in itertools.count():
        message = {"x": torch.full((3,), float(i))} if receiver is None else receiver.get()
        if message.get("kind") == "end" or i == 20:
            break
        assert message["x"].tolist() == [i] * 3
        if sender is not None:
            sender.put(message)
    if sender is not None:
        sender.close()
    assert i == 20


def test_three_processes_pass_messages_on_in_groups(start_job):
    ended_well(start_job(3, jobs.call, pass_on))


# ---- what cannot be connected

DUPLICATE = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, invalid usage (run with NCCL_DEBUG=WARN for"
    " details), NCCL version 2.27.5\nncclInvalidUsage: This usually reflects invalid usage of NCCL library.\n"
    "Last error:\nDuplicate GPU detected : rank 0 and rank 1 both on CUDA device 1b000"
)
REMOTE = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, remote process exited or there was a network"
    " error, NCCL version 2.27.5\nncclRemoteError: A call failed possibly due to a network error or a remote process"
    " exiting prematurely.\nLast error:\nsocketProgress: Connection closed by remote peer m1<43210>"
)


@pytest.mark.parametrize(("text", "kind"), [(DUPLICATE, UserError), (REMOTE, RuntimeError)])
def test_a_wrong_set_up_is_told_in_one_line_and_a_lost_process_as_such(monkeypatch, text, kind):
    class Failing(FakeNccl):
        def send(self, *args, **kwargs):
            raise RuntimeError(text)

    monkeypatch.setattr(groups, "dist", Failing())
    with pytest.raises(kind) as error:
        Groups.make(Place(0, 1, 2), CPU)
    assert is_lost_connection(error.value) == (kind is RuntimeError)
    if kind is UserError:
        assert "\n" not in str(error.value) and "Duplicate GPU detected" in str(error.value)
        assert "ranks 0, 1" in str(error.value) and "NCCL_SOCKET_IFNAME" in str(error.value)
