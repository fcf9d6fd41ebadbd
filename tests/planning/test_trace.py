"""What a trace counts beside the storages that operations make."""

import math

import pytest
import torch
import torch.nn.functional as F

from meddlr_greedy.planning.trace import traced
from projects.cine.support.measuring import peak_bytes

LAST = torch.channels_last


@pytest.mark.parametrize(
    ("on_cuda", "dtype", "order", "copied"),
    [
        (False, torch.float32, LAST, False),
        (True, torch.float32, LAST, True),
        (True, torch.bfloat16, LAST, False),
        (True, torch.float32, torch.contiguous_format, False),
    ],
)
@pytest.mark.parametrize("channels", [(3, 8), (8, 3)])
def test_cudnn_copies_the_larger_side_of_a_convolution(channels, on_cuda, dtype, order, copied):
    few, many = channels
    with traced(on_cuda=on_cuda) as trace:
        x = torch.empty(2, few, 10, 12, dtype=dtype).to(memory_format=order).requires_grad_()
        weight = torch.empty(many, few, 3, 3, dtype=dtype).to(memory_format=order).requires_grad_()
        larger = 2 * 8 * 10 * 12 * x.itemsize if copied else 0
        trace.reset_peak()
        out = F.conv2d(x, weight, padding=1)
        assert trace.peak == trace.alive + larger
        grad = torch.empty_like(out)
        trace.reset_peak()
        found = torch.autograd.grad(out, (x, weight), grad)
        assert trace.peak == trace.alive + larger
        assert len(found) == 2


@pytest.mark.parametrize(("axes", "copies"), [((1,), 2), ((1, 2), 3)])
def test_an_image_is_rolled_axis_by_axis(axes, copies):
    image = (3, 64, 48)
    with traced() as trace:
        x = torch.empty(image)
        trace.reset_peak()
        torch.roll(x, (5,) * len(axes), axes)
    assert trace.peak == copies * 4 * math.prod(image)
    assert peak_bytes(lambda: torch.roll(torch.empty(image), (5,) * len(axes), axes), "cpu") == trace.peak
