"""Batches on their way to a device, and constants that stay there."""

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from meddlr_greedy.ops.devices import kept_constant, to_device

CPU = torch.device("cpu")


def test_a_batch_on_its_device_is_not_copied():
    batch = {"x": torch.ones(3), "metadata": [{"slice_id": 1, "y": torch.zeros(2)}], "dims": (1, 2), "flag": True}
    moved = to_device(batch, CPU)
    assert moved is not batch and moved["x"] is batch["x"]
    assert moved["metadata"][0]["y"] is batch["metadata"][0]["y"]
    assert (moved["dims"], moved["flag"]) == ((1, 2), True)


def test_a_batch_goes_to_a_gpu_whole():
    with FakeTensorMode():
        moved = to_device({"x": torch.ones(3), "more": ([torch.ones(2)], "text")}, torch.device("cuda:0"))
        assert moved["x"].device == moved["more"][0][0].device == torch.device("cuda:0")
        assert moved["more"][1] == "text"


def numbers(size, factor, device):
    numbers.calls += 1
    return factor * torch.arange(size, device=device)


def test_a_constant_is_made_once_for_each_device():
    numbers.calls = 0
    first = kept_constant(numbers, 3, 2.0, device=CPU)
    assert first.tolist() == [0, 2, 4] and kept_constant(numbers, 3, 2.0, device=CPU) is first
    assert kept_constant(numbers, 4, 2.0, device=CPU).shape == (4,) and numbers.calls == 2
    with FakeTensorMode():  # has no values, and may be on a device that is not there
        fake = kept_constant(numbers, 3, 2.0, device=torch.device("cuda:0"))
        assert isinstance(fake, FakeTensor) and isinstance(kept_constant(numbers, 3, 2.0, device=CPU), FakeTensor)
    assert kept_constant(numbers, 3, 2.0, device=CPU) is first


def test_a_constant_that_evaluation_made_is_good_for_training():
    with torch.inference_mode():
        made = kept_constant(numbers, 5, 3.0, device=CPU)
    x = torch.ones(5, requires_grad=True)
    (x * made).sum().backward()
    assert torch.equal(x.grad, made)


def test_many_constants_are_not_kept_for_ever():
    numbers.calls = 0
    for size in range(600):
        kept_constant(numbers, size, 1.5, device=CPU)
    assert numbers.calls == 600
    assert kept_constant(numbers, 7, 1.5, device=CPU).tolist() == [1.5 * i for i in range(7)]
