r"""A greedy module of one unrolled step whose regularizer and loss run tile by tile, each tile once.

The input x of a greedy module is detached, and its data consistency :math:`v = x + s (A^H A x - A^H y)` needs no
gradient but that of the scalar s. What follows, the regularizer R and a loss that is a sum over pixels, is local::

    v = dc(x)                                   # with a graph of s alone; x is freed
    for each tile:
        y = R(v[core + halo])[core]
        image[core] = y
        gradients of the sum of the loss over the core: those of parameters add up,
        that of v[core + halo] goes to where the tile lies; the graph of the tile is freed
    gradient of s from that of v

So activations are held for one tile at a time, nothing is computed twice but for the halos, and the gradient is exact.
A loss that is a function of its sum (a root mean square) scales the gradient of each example at its end.
"""

import functools
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import torch
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from torch import nn

from meddlr_greedy.modeling.contract import is_local
from meddlr_greedy.modeling.greedy.gradients import Gradients, add_gradients
from meddlr_greedy.modeling.greedy.modules import UnrolledModules
from meddlr_greedy.modeling.greedy.tiled_regularizer import TiledRegularizer
from meddlr_greedy.modeling.pixel_losses import SeparableLoss, scale_of
from meddlr_greedy.modeling.problem import UnrolledProblem
from meddlr_greedy.modeling.regularizers.current_tile import on_tile
from meddlr_greedy.modeling.tiles import Tile

__all__ = ["OnePass", "suits_one_pass"]

_ROWS = 1  # the axis H of images (B, H, W, [T,] M)


def suits_one_pass(network: Any) -> bool:
    """Whether a step of a network is data consistency, then a regularizer to which parts of the image can be given."""
    runs_plain_step = type(network).step is GeneralizedUnrolledCNN.step and tuple(network.order) == ("dc", "reg")
    return runs_plain_step and is_local(type(network).reg)


class OnePass(NamedTuple):
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

    def data_consistency(self, image: torch.Tensor) -> torch.Tensor:
        """What the tiles are taken of: an image (B, H, W, [T,] M) without a graph, after data consistency.

        Apart from :meth:`run`, so that the caller need not keep the image meanwhile.
        """
        return self.modules.data_consistency(self.step, image, self.problem)

    def run(self, v: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, Gradients]:
        """Runs regularizer and loss.

        Args:
            v: What :meth:`data_consistency` gave, complex, (B, H, W, [T,] M).

        Returns:
            The image after the step, without a graph; the loss, a scalar; and the gradients of the weighted loss.
        """
        before, after = v.detach(), torch.empty_like(v)
        v_gradient = torch.zeros_like(before) if v.requires_grad else None
        groups = self.loss.groups(len(v))
        losses: List[torch.Tensor] = []
        gradients: Gradients = {}
        for group in groups:
            own_gradient = None if v_gradient is None else v_gradient[group]
            summed, found = self._run_tiles(group, before[group], after[group], own_gradient)
            loss, slope = self.loss.of_sum(summed, self.target[group], scale_of(self.problem.inputs, group))
            losses.append(loss)
            factor = self.weight * slope / len(groups)
            if own_gradient is not None:
                own_gradient.mul_(factor)
            add_gradients(gradients, {p: factor * g for p, g in found.items()})
        if v_gradient is not None:
            found_of_v = torch.autograd.grad(v, self.parameters, v_gradient, allow_unused=True)
            add_gradients(gradients, dict(zip(self.parameters, found_of_v)))
        return after, torch.stack(losses).mean(), gradients

    def _run_tiles(
        self, group: slice, before: torch.Tensor, after: torch.Tensor, v_gradient: Optional[torch.Tensor]
    ) -> Tuple[torch.Tensor, Gradients]:
        """All tiles of some examples: writes ``after``, adds to ``v_gradient``, and returns sum and its gradients."""
        target, scale = self.target[group], scale_of(self.problem.inputs, group)
        sums: List[torch.Tensor] = []
        gradients: Gradients = {}
        for tile in self.regularizer.tiles_of_image(before):
            part = tile.take(before, _ROWS).detach().requires_grad_(v_gradient is not None)
            with torch.enable_grad():
                image = self._regularize(part, tile, group.start)
                summed = self.loss.summed(image, tile.core(target, _ROWS), scale)
            tile.core(after, _ROWS).copy_(image.detach())
            sums.append(summed.detach())
            if not summed.requires_grad:  # a frozen step only passes its image on
                continue
            wanted = [*self.parameters, *([part] if v_gradient is not None else [])]
            found = torch.autograd.grad(summed, wanted, allow_unused=True)
            add_gradients(gradients, dict(zip(self.parameters, found)))
            if v_gradient is not None and found[-1] is not None:
                tile.add(v_gradient, found[-1], _ROWS)
        return torch.stack(sums).sum(), gradients

    def _regularize(self, part: torch.Tensor, tile: Tile, first_example: int) -> torch.Tensor:
        """A tile with its halo, (B, h, w, [T,] M), to its core."""
        network, tiled = self.modules.network, self.regularizer
        if type(network).reg is GeneralizedUnrolledCNN.reg:  # which wants as many pixels back
            tile = tile.with_edges()
            with on_tile(tile, tiled.seed, first_example):
                return tile.core_left(network.reg(image=part.clone(), model=tiled.regularizer, dims=None), _ROWS)
        model = functools.partial(tiled.run, tile=tile, first_example=first_example)
        return network.reg(image=part, model=model, dims=None)
