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
from meddlr_greedy.modeling.regularizers.padding import Padding
from meddlr_greedy.modeling.regularizers.spatial_convolution import gradients_of_convolution
from meddlr_greedy.modeling.regularizers.temporal_convolution import products, relu_and_convolution

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
        origin: What it was made of, which is kept.
        weight: (out_channels, channels, k, k).
        bias: (out_channels).
        pad: The padding.
        by_products: Whether the gradient of the weight comes from products.

    Returns:
        torch.Tensor: (B T, out_channels, H, W), smaller where zeros do not pad it.
    """
    return _ConvolutionOfRelu.apply(x, weight, bias, *origin, pad, by_products)


def frames_of(x: torch.Tensor) -> torch.Tensor:
    """(B, channels, T, H, W) to (B T, channels, H, W)."""
    return x.permute(0, 2, 1, 3, 4).flatten(end_dim=1)


class _ConvolutionOfRelu(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        *others: Any,
    ) -> torch.Tensor:
        *origin, pad, by_products = others
        ctx.save_for_backward(weight, bias, *origin)
        ctx.pad, ctx.zeros, ctx.by_products = pad, pad.zeros, by_products
        ctx.size, ctx.on_tile = x.shape[3:], here()
        return F.conv2d(frames_of(F.relu(pad(x))), weight, bias, padding=ctx.zeros)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tuple[Optional[torch.Tensor], ...]:  # type: ignore[override]
        weight, bias, *origin = ctx.saved_tensors
        derivatives_are_wanted = torch.is_grad_enabled()
        x = (relu_and_convolution if derivatives_are_wanted else products)(*origin)
        x = x.unflatten(2, ctx.size).permute(0, 4, 1, 2, 3)
        with ctx.on_tile(), torch.enable_grad():
            x = x if x.requires_grad else x.requires_grad_()
            convolved = frames_of(F.relu(ctx.pad(x)))
        wanted, nothing = ctx.needs_input_grad[:3], (None,) * (len(ctx.needs_input_grad) - 3)
        if derivatives_are_wanted:
            out = F.conv2d(convolved, weight, bias, padding=ctx.zeros)
            inputs = [tensor for tensor, is_wanted in zip((x, weight, bias), wanted) if is_wanted]
            found = iter(torch.autograd.grad(out, inputs, grad, create_graph=True))
            return (*(next(found) if is_wanted else None for is_wanted in wanted), *nothing)
        of_convolved, *others = gradients_of_convolution(
            grad, convolved.detach(), weight, ctx.zeros, wanted, ctx.by_products
        )
        of_x = None if of_convolved is None else torch.autograd.grad(convolved, x, of_convolved)[0]
        return (of_x, *others, *nothing)
