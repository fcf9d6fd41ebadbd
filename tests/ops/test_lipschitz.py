"""The bound of a convolution's norm."""

import pytest
import torch
from torch import nn

from meddlr_greedy.ops.lipschitz import convolution_norm_bound


@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (3, 3), (5, 5)])
@pytest.mark.parametrize("channels", [(2, 6), (6, 2), (1, 1)])
def test_bound_of_a_convolution_is_an_upper_bound_and_near(channels, kernel):
    torch.manual_seed(0)
    weight = torch.randn(*channels, *kernel)
    shape = [64 if k > 1 else 1 for k in kernel]
    transfer = torch.fft.fft2(weight, s=shape).permute(2, 3, 0, 1)
    norm = torch.linalg.matrix_norm(transfer, 2).max()
    assert norm <= convolution_norm_bound(weight) * (1 + 1e-5) and convolution_norm_bound(weight) < 1.15 * norm
    # The norm of the convolution of an image with a zero border, by power iteration, from below.
    x = torch.randn(1, channels[1], 12, 12)
    for _ in range(30):
        y = nn.functional.conv2d(x / x.norm(), weight, padding=[k // 2 for k in kernel])
        x = nn.functional.conv_transpose2d(y, weight, padding=[k // 2 for k in kernel])
    assert y.norm() <= convolution_norm_bound(weight) * (1 + 1e-5)


def test_bound_of_a_convolution_has_a_gradient():
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolution_norm_bound, weight)
    zero = torch.zeros(3, 2, 3, 3, requires_grad=True)
    convolution_norm_bound(zero).backward()
    assert convolution_norm_bound(zero) < 1e-15 and zero.grad.isfinite().all()
