"""What a trace counts beside the storages that operations make."""

import pytest
import torch
import torch.nn.functional as F

from meddlr_greedy.planning.trace import traced

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
