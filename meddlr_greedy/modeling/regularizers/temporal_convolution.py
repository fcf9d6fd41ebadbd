r"""ReLU and convolution along circular time: as torch's convolution, and as matrix products.

A kernel of k taps, with :math:`r = (k - 1) / 2`, is a sum of products of all pixels with one matrix for each tap. Time
is circular, so that each tap sees the frames in at most two runs, and nothing is padded::

    forward:   y[t] = b + sum_d relu(x)[t + d] W[d]          for d = -r, ..., r; times modulo the number of frames
    backward:  gradient of relu(x)[t] = sum_d g[t - d] W[d]^T,   of W[d] = sum_t relu(x)[t + d]^T g[t],   of b = sum g

With so long and narrow a kernel, the backward of torch's convolution takes several times as long, on a CPU and where
there are many channels on a GPU, and what it keeps are the padded frames. Its forward is the faster one where there are
few channels: there it is taken, before a backward of products.
"""

from contextlib import contextmanager
from typing import Any, Iterator, Optional, Tuple

import torch
import torch.nn.functional as F

from meddlr_greedy.modeling.regularizers.differentiable_gradients import differentiable_gradients
from meddlr_greedy.ops.devices import computing_device

__all__ = ["behind_relu", "relu_and_convolution", "relu_and_products"]

# Of fewer input channels, torch's forward is the faster one on a CPU: up to 2.8 times. By the shape alone, so that
# passes with a graph and without one give the same bits.
_FEWEST_CHANNELS_OF_PRODUCTS = 64

# Gradient of a ReLU from its output; "grad_input" may be the gradient itself.
_relu_backward = torch.ops.aten.threshold_backward.grad_input


def relu_and_convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """ReLU, then a convolution along circular time.

    Args:
        x: (B, T, pixels, channels).
        weight: (out_channels, channels, k, 1), k odd, with k // 2 at most T.
        bias: (out_channels).

    Returns:
        torch.Tensor: (B, T, pixels, out_channels).
    """
    # Padded before the ReLU, so that backward keeps one tensor (the ReLU's output is the next convolution's input).
    return _convolved(F.relu_(_padded(x, weight)), weight, bias)


def _padded(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    frames, reach = x.shape[1], weight.shape[2] // 2
    return torch.cat([x[:, frames - reach :], x, x[:, :reach]], dim=1)


def _convolved(padded: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.conv2d(padded.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)


def relu_and_products(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """:func:`relu_and_convolution` with a backward of matrix products, and a forward of them where they are faster.

    Args:
        x: (B, T, pixels, channels). **It is overwritten** by its ReLU, which backward needs: what made it must not need
            it in backward.
        weight: (out_channels, channels, k, 1), k odd; where it is longer than the cycle, it sees frames again.
        bias: (out_channels).

    Returns:
        torch.Tensor: (B, T, pixels, out_channels), contiguous.
    """
    assert not (x.is_leaf and x.requires_grad), "what is overwritten is wanted"
    return _ReluAndProducts.apply(x.contiguous(), weight, bias)


def behind_relu(relu_of_x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """:func:`relu_and_products` behind the ReLU, without a graph."""
    _, channels, taps, _ = weight.shape
    is_narrow = computing_device(relu_of_x).type == "cpu" and channels < _FEWEST_CHANNELS_OF_PRODUCTS
    if is_narrow and taps // 2 <= relu_of_x.shape[1]:
        return _convolved(_padded(relu_of_x, weight), weight, bias).contiguous()
    out = bias.expand(*relu_of_x.shape[:-1], -1).contiguous()
    with _rounding_as_convolutions(relu_of_x):
        for tap, matrix in _taps(weight.movedim(0, 1)):
            for here, there in _pairs(out, relu_of_x, tap):
                here.addmm_(there, matrix)
    return out


class _ReluAndProducts(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        x.relu_()
        # The weight as it is: hooks tell parameters from activations by their shape.
        ctx.save_for_backward(x, weight, bias)
        return behind_relu(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tuple[Optional[torch.Tensor], ...]:  # type: ignore[override]
        if torch.is_grad_enabled():  # derivatives of the gradient are wanted
            # The ReLU of a ReLU is that ReLU, and so is its derivative.
            out = relu_and_convolution(*ctx.saved_tensors)
            return differentiable_gradients(out, ctx.saved_tensors, ctx.needs_input_grad, grad)
        x, weight, _ = ctx.saved_tensors
        grad = grad.contiguous()
        of_x, of_weight, of_bias = ctx.needs_input_grad
        with _rounding_as_convolutions(x):
            return (
                _gradient_of_x(grad, x, weight) if of_x else None,
                _gradient_of_weight(grad, x, weight) if of_weight else None,
                grad.flatten(end_dim=-2).sum(dim=0) if of_bias else None,
            )


@contextmanager
def _rounding_as_convolutions(x: torch.Tensor) -> Iterator[None]:
    """On a GPU, products in the block may round to TF32 where torch lets convolutions do so."""
    if not x.is_cuda:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if torch.backends.cudnn.allow_tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _gradient_of_x(grad: torch.Tensor, relu_of_x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    gradient = torch.empty_like(relu_of_x)
    for i, (tap, matrix) in enumerate(_taps(weight)):
        for here, there in _pairs(gradient, grad, -tap):
            here.addmm_(there, matrix, beta=min(i, 1))  # the first tap meets each frame once
    return _relu_backward(gradient, relu_of_x, 0, grad_input=gradient)


def _gradient_of_weight(grad: torch.Tensor, relu_of_x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    gradient = torch.zeros_like(weight.permute(2, 3, 0, 1)[:, 0], memory_format=torch.contiguous_format)
    reach = len(gradient) // 2
    for i, matrix in enumerate(gradient):
        for here, there in _pairs(grad, relu_of_x, i - reach):
            matrix.addmm_(here.t(), there)
    return gradient.permute(1, 2, 0)[..., None]


def _taps(weight: torch.Tensor) -> Iterator[Tuple[int, torch.Tensor]]:
    """Of a kernel (a, b, k, 1): frames ahead of the output's frame, and the matrix (a, b) of each tap."""
    reach = weight.shape[2] // 2
    return enumerate(weight[..., 0].movedim(2, 0).contiguous(), start=-reach)


def _pairs(here: torch.Tensor, there: torch.Tensor, ahead: int) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
    """The pixels of frames, and those of the frames ``ahead`` of them in circular time.

    Args:
        here: (B, T, pixels, a), contiguous.
        there: (B, T, pixels, b), contiguous.
        ahead: Any number of frames.

    Yields:
        Matrices (frames of a run x pixels, a) and (..., b), which together are all frames: views.
    """
    frames = here.shape[1]
    shift = ahead % frames
    for a, b in zip(here, there):
        yield _rows(a[: frames - shift]), _rows(b[shift:])
        if shift:
            yield _rows(a[frames - shift :]), _rows(b[:shift])


def _rows(run: torch.Tensor) -> torch.Tensor:
    return run.view(-1, run.shape[-1])
