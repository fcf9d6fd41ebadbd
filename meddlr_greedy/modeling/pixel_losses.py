r"""Losses that are sums over pixels, so that they can be taken tile by tile.

A loss is the mean over examples of :math:`f(S)`, with S the sum over the pixels of the example of a function of image
and target there. The gradient of f is :math:`f'(S) \, \partial S`, and that of S adds up over tiles. Losses of windows
(SSIM), of k-space and of a user are no such losses.
"""

from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Tuple

import torch
from meddlr.modeling.loss_computer import EPS, perp_loss
from meddlr.ops import complex as cplx

__all__ = ["PixelLoss", "SeparableLoss", "pixel_loss", "scale_of"]

#: "mean" and "std" of the examples of a batch, where it has them.
Scale = Mapping[str, Any]


class PixelLoss(NamedTuple):
    """A loss as a function of sums over pixels; images are complex, (B, H, W, [T,] M)."""

    #: (pred, target) of some pixels: the sum over them, a scalar
    summed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    #: f: (sum over all pixels of one example, its whole target): a scalar; None is the sum over the number of pixels
    of_sum: Optional[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = None


def pixel_loss(name: str) -> Optional[PixelLoss]:
    """The loss that meddlr calls ``name`` as a function of sums over pixels; None where it is none."""
    return _LOSSES.get(name)


def _modulus(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return cplx.abs(pred - target).sum()


def _perpendicular(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return perp_loss(pred, target)["perp_loss"] * pred.numel()


def _square(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(pred - target).square().sum()


def _rmse(square: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.sqrt(square / target.numel())


def _psnr(square: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return 20 * torch.log10(cplx.abs(target).max() / (_rmse(square, target) + EPS))


def _nrmse(square: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return _rmse(square, target) / torch.sqrt(torch.mean(cplx.abs(target) ** 2))


_LOSSES = {
    "l1": PixelLoss(_modulus),
    "mag_l1": PixelLoss(_modulus),
    "perp_loss": PixelLoss(_perpendicular),
    "l2": PixelLoss(_square, _rmse),
    "psnr": PixelLoss(_square, _psnr),
    "nrmse": PixelLoss(_square, _nrmse),
}


def scale_of(inputs: Mapping[str, Any], examples: slice) -> Scale:
    """What a batch says of the scale of some of its examples."""
    return {key: inputs[key][examples] for key in ("mean", "std") if key in inputs}


class SeparableLoss(NamedTuple):
    """A loss of a batch, taken group by group of its examples, and of each part by part of the image."""

    pixels: PixelLoss
    #: (scale, pred, target) of any pixels: both on the scale of the loss
    renormalized: Callable[[Scale, torch.Tensor, torch.Tensor], Tuple[torch.Tensor, ...]]

    def groups(self, num_examples: int) -> List[slice]:
        """The examples whose gradients have one factor: all, or (where it depends on the sum) each on its own."""
        if self.pixels.of_sum is None:
            return [slice(0, num_examples)]
        return [slice(b, b + 1) for b in range(num_examples)]

    def summed(self, pred: torch.Tensor, target: torch.Tensor, scale: Scale) -> torch.Tensor:
        """The sum over some pixels of a group: complex (B, h, w, [T,] M) to a scalar."""
        return self.pixels.summed(*self.renormalized(scale, pred, target))

    def of_sum(self, total: torch.Tensor, target: torch.Tensor, scale: Scale) -> Tuple[torch.Tensor, torch.Tensor]:
        """The mean loss of a group, for the sum over all its pixels, and the derivative with respect to the sum."""
        if self.pixels.of_sum is None:
            return total / target.numel(), torch.full_like(total, 1 / target.numel())
        total = total.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.pixels.of_sum(total, self.renormalized(scale, target, target)[1])
        return loss.detach(), torch.autograd.grad(loss, total)[0]
