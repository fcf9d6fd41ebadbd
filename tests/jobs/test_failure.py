"""What a process says when it fails."""

import pytest
import torch

from meddlr_greedy.jobs.failure import FailureHandler, Member, is_lost_connection


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 bytes"),
        MemoryError("8 bytes"),
    ],
)
def test_out_of_memory_is_told(error):
    handler = FailureHandler(Member(0, 2), store=None)
    said = []

    def fail(message, *_):
        said.append(message)
        raise EOFError

    handler.fail = fail
    with pytest.raises(EOFError), handler.ending_together():
        raise error
    assert said[0].startswith("out of memory")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc] Read error: Connection reset by peer"), True),
        (RuntimeError("shapes do not fit"), False),
        (torch.cuda.OutOfMemoryError("NCCL"), False),
        (ValueError("Connection closed"), False),
    ],
)
def test_lost_connections_are_told_by_what_torch_says(error, expected):
    assert is_lost_connection(error) == expected
