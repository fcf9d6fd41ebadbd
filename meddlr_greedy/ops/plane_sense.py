"""The SENSE signal model of 2D, part by part: that of cine with one frame."""

from typing import Optional

import torch
from torch import nn

from meddlr_greedy.ops.cine_sense import CineSenseModel

__all__ = ["PlaneSenseModel"]

_FRAMES = 3  # the axis T of cine


class PlaneSenseModel(nn.Module):
    """Multi-coil Cartesian 2D, as meddlr's SenseModel on complex tensors, with the operators of the cine model.

    Args:
        maps: Sensitivity maps, complex, shape (B, H, W, C, M).
        weights: Sampling mask, real, shape (B, H, W, 1 or C); ``None`` where everything is sampled.

    Images have shape (B, H, W, M), k-space (B, H, W, C), both complex.
    """

    def __init__(self, maps: torch.Tensor, weights: Optional[torch.Tensor] = None):
        super().__init__()
        self.maps, self.weights = maps, weights
        self._cine = CineSenseModel(maps.unsqueeze(_FRAMES), None if weights is None else weights.unsqueeze(_FRAMES))

    @property
    def largest_part(self) -> Optional[int]:
        """As of :class:`CineSenseModel`."""
        return self._cine.largest_part

    @largest_part.setter
    def largest_part(self, num_bytes: Optional[int]) -> None:
        self._cine.largest_part = num_bytes

    def forward(self, input: torch.Tensor, adjoint: bool = False) -> torch.Tensor:
        """A (image to k-space) or, with ``adjoint``, A^H (k-space to image)."""
        return self._cine(input.unsqueeze(_FRAMES), adjoint).squeeze(_FRAMES)

    def zero_filled(self, kspace: torch.Tensor) -> torch.Tensor:
        """As :meth:`CineSenseModel.zero_filled`: k-space (B, H, W, C) to an image."""
        return self._cine.zero_filled(kspace.unsqueeze(_FRAMES)).squeeze(_FRAMES)

    def normal(self, image: torch.Tensor) -> torch.Tensor:
        """A^H A: image (B, H, W, M) to image."""
        return self._cine.normal(image.unsqueeze(_FRAMES)).squeeze(_FRAMES)
