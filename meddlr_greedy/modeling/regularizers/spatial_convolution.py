r"""The convolution in the plane, whose weight gets its gradient from matrix products.

Forward and the gradient of the image are torch's. For the gradient of the weight, the k pixels of a row that a kernel
sees at once lie side by side, as the columns of one matrix. Its rows from the i-th line of the image on meet the
gradient of the output::

    columns[h, w] = (x[h, w], ..., x[h, w + k - 1])                    x with its padding
    gradient of W[i] = sum_{h, w} g[h, w]^T columns[h + i, w]          for i = 0, ..., k - 1

The columns are made a few lines at a time, so that they stay in the processor's cache. On a CPU, torch's own takes
longer where there are many channels, and rounds more.
"""

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F

from meddlr_greedy.modeling.regularizers.differentiable_gradients import differentiable_gradients

__all__ = ["convolution", "gradients_of_convolution"]

# Columns that are there at once.
_NUMBERS_OF_COLUMNS = 2**19


def convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor], padding: Tuple[int, int]
) -> torch.Tensor:
    """``F.conv2d``, with the same bits; the gradient of the weight differs from its gradient by rounding.

    Args:
        x: (frames, channels, H, W), real, channels last in memory.
        weight: (out_channels, channels, k, l).
        bias: (out_channels).
        padding: Zeros at both ends of H and W.

    Returns:
        torch.Tensor: (frames, out_channels, H + 2 padding[0] - k + 1, W + 2 padding[1] - l + 1).
    """
    return _Convolution.apply(x, weight, bias, padding)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: Tuple[int, int]
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tuple[Optional[torch.Tensor], ...]:  # type: ignore[override]
        x, weight, bias = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        grad = grad.to(x.dtype)  # autocast may have convolved in another one
        if torch.is_grad_enabled():  # derivatives of the gradient are wanted
            out = F.conv2d(x, weight, bias, padding=ctx.padding)
            return (*differentiable_gradients(out, (x, weight, bias), wanted, grad), None)
        return (*gradients_of_convolution(grad, x, weight, ctx.padding, wanted), None)


def gradients_of_convolution(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: Tuple[int, int],
    wanted: Tuple[bool, bool, bool],
    by_products: bool = True,
) -> Tuple[Optional[torch.Tensor], ...]:
    """Of :func:`convolution`; ``by_products`` False: of ``F.conv2d``.

    Args:
        grad: Of the output.
        x: As of the convolution.
        weight: As of the convolution.
        padding: As of the convolution.
        wanted: Whether the gradients of x, weight and bias are wanted.
        by_products: Whether the gradients of weight and bias are those of products.

    Returns:
        The gradients, None where it is not wanted.
    """
    of_x, of_weight, of_bias = wanted
    by_torch = (of_x, of_weight and not by_products, of_bias and not by_products)
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], (1, 1), padding, (1, 1), False, (0, 0), 1, by_torch
    )
    if not by_products:
        return found
    return (
        found[0],
        _gradient_of_weight(grad, x, weight, padding) if of_weight else None,
        grad.permute(0, 2, 3, 1).flatten(end_dim=-2).sum(dim=0) if of_bias else None,
    )


def _gradient_of_weight(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, padding: Tuple[int, int]
) -> torch.Tensor:
    out_channels, channels, k, k_along = weight.shape
    gradient = grad.new_zeros(k, out_channels, k_along * channels)
    for of_frame, frame in zip(grad.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)):
        _add_gradient_of_frame(gradient, of_frame, frame, k_along, padding)
    return gradient.view(k, out_channels, k_along, channels).permute(1, 3, 0, 2)


def _add_gradient_of_frame(
    gradient: torch.Tensor, grad: torch.Tensor, frame: torch.Tensor, k_along: int, padding: Tuple[int, int]
) -> None:
    """Of ``grad`` (height, width, out_channels) and ``frame`` (H, W, channels)."""
    rows, columns = padding
    seen = F.pad(frame, (0, 0, columns, columns, rows, rows)).unfold(1, k_along, 1).movedim(-1, -2)
    (height, width), (k, out_channels, _), numbers_of_line = grad.shape[:2], gradient.shape, seen[0].numel()
    # Few operations for each block of lines: a plan follows them all.
    transposed = grad.reshape(-1, out_channels).t().expand(k, -1, -1)
    lines = max(1, _NUMBERS_OF_COLUMNS // numbers_of_line)
    for first in range(0, height, lines):
        last = min(first + lines, height)
        side_by_side = seen[first : last + k - 1].reshape(-1, numbers_of_line).contiguous()
        # Of the lines that are seen, the i-th row of the kernel meets those from the i-th on: k views that overlap.
        pixels, numbers = (last - first) * width, numbers_of_line // width
        met = side_by_side.as_strided((k, pixels, numbers), (numbers_of_line, numbers, 1))
        gradient.baddbmm_(transposed[..., first * width : last * width], met)
        del side_by_side, met  # before the next ones are made
