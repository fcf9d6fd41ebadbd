"""How batches travel from one process to the next."""

from collections import deque

import pytest
import torch

from meddlr_greedy.parallel import channel
from meddlr_greedy.parallel.channel import Receiver, Sender
from tests.helpers import jobs
from tests.helpers.jobs import assert_one_line, ended_well


def send_and_receive(job, depth):
    device = torch.device("cpu")
    torch.manual_seed(0)
    image = torch.randn(2, 3, 4, 5, dtype=torch.complex64)
    messages = [
        {"a": image.permute(0, 3, 1, 2), "b": torch.tensor(3.0), "name": "x", "dims": (1, 2)},
        {"a": image[:, :2].conj(), "empty": torch.zeros(0, 4), "mask": torch.ones(1, 1).bool().expand(3, 4)},
        *({"n": torch.full((i,), i)} for i in range(1, 9)),
    ]
    if job.rank == 0:
        sender = Sender(1, depth, device)
        for message in messages:
            sender.put(message)
        sender.close()
        return
    receiver = Receiver(0, depth, device)
    for sent in messages:
        received = receiver.get()
        assert received.keys() == sent.keys()
        for key, value in sent.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(received[key], value) and received[key].dtype == value.dtype
                assert received[key].stride() == strides(value)
            else:
                assert received[key] == (list(value) if isinstance(value, tuple) else value)
    assert received["n"].tolist() == [8] * 8


def strides(tensor):
    """Those of a copy without gaps in memory whose axes are in the same order."""
    return torch.empty_like(tensor, memory_format=torch.preserve_format).stride()


@pytest.fixture
def wire(monkeypatch):
    """In the place of another process: what is sent is what is received next."""
    sent = deque()
    monkeypatch.setattr(channel.dist, "send", lambda tensor, peer, group, tag: sent.append(tensor.clone()))
    monkeypatch.setattr(channel.dist, "recv", lambda tensor, peer, group, tag: tensor.copy_(sent.popleft()))
    return sent


PLAIN = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)


@pytest.mark.parametrize(
    "tensor",
    [
        PLAIN,
        PLAIN.permute(0, 3, 1, 2),
        PLAIN.permute(3, 2, 1, 0),
        PLAIN.contiguous(memory_format=torch.channels_last),
        PLAIN[:, 1:, ::2].transpose(1, 3),
        torch.complex(PLAIN, -PLAIN).mT.conj(),
        PLAIN.bfloat16().permute(1, 0, 2, 3),
    ],
    ids=["plain", "moved", "reversed", "channels last", "part", "conjugated", "bfloat16"],
)
def test_a_tensor_arrives_with_its_strides(wire, tensor):
    channel.send({"a": tensor, "name": "x"}, peer=1)
    received = channel.receive(peer=0)
    assert not wire and received["name"] == "x"
    assert received["a"].dtype == tensor.dtype and torch.equal(received["a"], tensor)
    assert received["a"].stride() == strides(tensor)


@pytest.mark.parametrize("depth", [1, 4])
def test_messages_arrive_as_they_left(start_job, depth):
    ended_well(start_job(2, jobs.call, send_and_receive, depth))


def send_what_cannot_be_sent(job):
    if job.rank == 0:
        sender = Sender(1, 2, torch.device("cpu"))
        sender.put({"a": object()})
        sender.close()
    else:
        Receiver(0, 2, torch.device("cpu")).get()


def test_another_failure_in_a_channel_is_no_lost_peer(start_job):
    job = start_job(2, jobs.call, send_what_cannot_be_sent)
    assert job.wait() == [1, 1], job.text()
    assert_one_line(job.text(), "rank 0: unexpected TypeError")
