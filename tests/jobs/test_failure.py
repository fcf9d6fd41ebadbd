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


LOST_TO_NCCL = [
    "remote process exited or there was a network error\nncclRemoteError: A call failed possibly due to a network error"
    " or a remote process exiting prematurely.\nLast error:\nNET/IB: Got completion from peer with status=12",
    "system error\nncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error."
    "\nLast error:\nsocketProgress: Connection closed by remote peer node2<41234>",
    "system error\nLast error:\nsocketTryAccept: Accept failed: Software caused connection abort",
    "NCCL communicator was aborted on rank 1.",
]
WRONG_FOR_NCCL = [
    "invalid usage\nncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\nDuplicate GPU"
    " detected : rank 0 and rank 1 both on CUDA device 1b000",
    "internal error\nncclInternalError: Internal check failed.\nLast error:\nBootstrap : no socket interface found",
    "system error\nncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error."
    "\nLast error:\nError: failed to extend /dev/shm/nccl-Xa1b2c to 33030532 bytes",
    "system error\nLast error:\nsocketPollConnect: Connect to 10.0.0.7<40001> returned No route to host",
    "invalid argument\nncclInvalidArgument: Invalid value for an argument.\nLast error:\nInvalid config",
    "unhandled cuda error\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2",
]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc] Read error: Connection reset by peer"), True),
        (RuntimeError("shapes do not fit"), False),
        *((RuntimeError(f"NCCL error in: NCCLUtils.cpp:77, {words}"), True) for words in LOST_TO_NCCL),
        *((RuntimeError(f"NCCL error in: NCCLUtils.cpp:77, {words}"), False) for words in WRONG_FOR_NCCL),
        (torch.cuda.OutOfMemoryError("NCCL"), False),
        (ValueError("Connection closed"), False),
    ],
)
def test_lost_connections_are_told_by_what_torch_says(error, expected):
    assert is_lost_connection(error) == expected
