"""A convolution after a ReLU that keeps neither its input nor the image before: backward makes both again.

The image came from products along time. What these were made of is kept for their own backward anyway, and where it has
few channels, to multiply it again costs next to nothing. So the input, with many channels, need not be kept beside it.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Iterator, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F

from meddlr_greedy.modeling.regularizers.current_tile import here
from meddlr_greedy.modeling.regularizers.differentiable_gradients import differentiable_gradients
from meddlr_greedy.modeling.regularizers.padding import Padding
from meddlr_greedy.modeling.regularizers.spatial_convolution import gradients_of_convolution
from meddlr_greedy.modeling.regularizers.temporal_convolution import behind_relu, relu_and_convolution

__all__ = ["Origin", "convolution_of_relu", "frames_of", "is_kept_exactly", "rounding_what_is_kept"]

_is_exact: ContextVar[bool] = ContextVar("what is kept is exact", default=True)


@contextmanager
def rounding_what_is_kept() -> Iterator[None]:
    """Inside the block, what is kept for backward is rounded: of it, something else would be recomputed."""
    before = _is_exact.set(False)
    try:
        yield
    finally:
        _is_exact.reset(before)


def is_kept_exactly() -> bool:
    """Whether what backward would make again of what is kept now has the bits of forward."""
    return _is_exact.get()


class Origin(NamedTuple):
    """What an image was made of: the arguments of ``relu_and_products``, ReLU done."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


def convolution_of_relu(
    x: torch.Tensor, origin: Origin, weight: torch.Tensor, bias: torch.Tensor, pad: Padding, by_products: bool
) -> torch.Tensor:
    """Padding, ReLU and convolution in the plane, with the same bits as one by one.

    Args:
        x: (B, channels, T, H, W), of which nothing is kept.
        origin: What x was made of, which is kept.
        weight: (out_channels, channels, k, k).
        bias: (out_channels).
        pad: The padding.
        by_products: Whether the gradient of the weight comes from products.

    Returns:
        torch.Tensor: (B T, out_channels, H, W), smaller where zeros do not pad it.
    """
    # Padded by autograd, so that the gradients of x from all of its uses are added in the order of always.
    return _ConvolutionOfRelu.apply(pad(x), weight, bias, *origin, x.shape[3:], pad, by_products)


def frames_of(x: torch.Tensor) -> torch.Tensor:
    """(B, channels, T, H, W) to (B T, channels, H, W) with channels last in memory, in whatever order they were."""
    return x.permute(0, 2, 3, 4, 1).flatten(end_dim=1).contiguous().permute(0, 3, 1, 2)


class _ConvolutionOfRelu(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, padded: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *others: Any
    ) -> torch.Tensor:
        *origin, ctx.size, ctx.pad, ctx.by_products = others
        ctx.save_for_backward(weight, bias, *origin)
        ctx.zeros, ctx.on_tile = ctx.pad.zeros, here()
        return F.conv2d(frames_of(F.relu(padded)), weight, bias, padding=ctx.zeros)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tuple[Optional[torch.Tensor], ...]:  # type: ignore[override]
        weight, bias, *origin = ctx.saved_tensors
        derivatives_are_wanted = torch.is_grad_enabled()
        x = (relu_and_convolution if derivatives_are_wanted else behind_relu)(*origin)
        with ctx.on_tile():
            padded = ctx.pad(x.unflatten(2, ctx.size).permute(0, 4, 1, 2, 3))
        relu = F.relu(padded)
        wanted, nothing = ctx.needs_input_grad[:3], (None,) * (len(ctx.needs_input_grad) - 3)
        if derivatives_are_wanted:
            out = F.conv2d(frames_of(relu), weight, bias, padding=ctx.zeros)
            return (*differentiable_gradients(out, (padded, weight, bias), wanted, grad), *nothing)
        of_relu, *others = gradients_of_convolution(grad, frames_of(relu), weight, ctx.zeros, wanted, ctx.by_products)
        if of_relu is not None:
            of_relu = of_relu.unflatten(0, (len(x), -1)).permute(0, 2, 1, 3, 4)
            of_relu = torch.ops.aten.threshold_backward(of_relu, relu, 0)
        return (of_relu, *others, *nothing)
