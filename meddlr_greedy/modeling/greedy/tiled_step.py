"""A greedy module of one unrolled step that is trained tile by tile: what its two forms share.

The input of a greedy module is detached, so that nothing but the parameters of its step needs a gradient. Which part of
the step runs tile by tile, and what is held meanwhile, depends on the network: see
:mod:`~meddlr_greedy.modeling.greedy.one_pass` and :mod:`~meddlr_greedy.modeling.greedy.solved_step`.
"""

import functools
from dataclasses import dataclass
from typing import Sequence, Tuple

import torch
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from torch import nn

from meddlr_greedy.modeling.greedy.gradients import Gradients
from meddlr_greedy.modeling.greedy.modules import UnrolledModules
from meddlr_greedy.modeling.greedy.tiled_regularizer import TiledRegularizer
from meddlr_greedy.modeling.pixel_losses import SeparableLoss
from meddlr_greedy.modeling.problem import UnrolledProblem
from meddlr_greedy.modeling.regularizers.current_tile import on_tile
from meddlr_greedy.modeling.tiles import Tile

__all__ = ["ROWS", "TiledStep"]

ROWS = 1  #: the axis H of images (B, H, W, [T,] M)


@dataclass(frozen=True)
class TiledStep:
    """An unrolled step that is trained on its own, tile by tile."""

    modules: UnrolledModules
    step: int  #: its index, from 0
    regularizer: TiledRegularizer
    parameters: Sequence[nn.Parameter]  #: that the loss reaches
    loss: SeparableLoss
    weight: float  #: of the loss
    problem: UnrolledProblem

    @property
    def target(self) -> torch.Tensor:
        """The target of the batch."""
        assert self.problem.target is not None
        return self.problem.target

    def begin(self, image: torch.Tensor) -> torch.Tensor:
        """What :meth:`run` takes, for the image before the step (B, H, W, [T,] M), without a graph.

        Apart from it, so that the caller need not keep the image meanwhile.
        """
        raise NotImplementedError

    def run(self, image: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, Gradients]:
        """Runs the step and its loss.

        Args:
            image: What :meth:`begin` gave, complex, (B, H, W, [T,] M).

        Returns:
            The image after the step, without a graph; the loss, a scalar; and the gradients of the weighted loss.
        """
        raise NotImplementedError

    def regularize(self, part: torch.Tensor, tile: Tile, first_example: int = 0) -> torch.Tensor:
        """A tile with its halo, (B, h, w, [T,] M), to its core; for ``first_example`` see `run_on_tile`."""
        network, tiled = self.modules.network, self.regularizer
        if type(network).reg is GeneralizedUnrolledCNN.reg:  # which wants as many pixels back
            tile = tile.with_edges()
            with on_tile(tile, tiled.seed, first_example):
                return tile.core_left(network.reg(image=part.clone(), model=tiled.regularizer, dims=None), ROWS)
        model = functools.partial(tiled.run, tile=tile, first_example=first_example)
        return network.reg(image=part, model=model, dims=None)
