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

from typing import List, Optional, Tuple

import torch
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN

from meddlr_greedy.modeling.contract import is_local
from meddlr_greedy.modeling.greedy.gradients import Gradients, add_gradients
from meddlr_greedy.modeling.greedy.modules import UnrolledModules
from meddlr_greedy.modeling.greedy.tiled_step import ROWS, TiledStep
from meddlr_greedy.modeling.pixel_losses import scale_of
from meddlr_greedy.modeling.problem import UnrolledProblem

__all__ = ["OnePass"]


class OnePass(TiledStep):
    """An unrolled step of data consistency, and then a regularizer."""

    @staticmethod
    def suits(modules: UnrolledModules, problem: UnrolledProblem) -> bool:  # noqa: ARG004 (as of the other form)
        """Whether a step of a network is that, and parts of the image can be given to its regularizer."""
        network = modules.network
        runs_plain_step = type(network).step is GeneralizedUnrolledCNN.step and tuple(network.order) == ("dc", "reg")
        return runs_plain_step and is_local(type(network).reg)

    def begin(self, image: torch.Tensor) -> torch.Tensor:
        """As in :class:`TiledStep`: the image after data consistency."""
        return self.modules.data_consistency(self.step, image, self.problem)

    def run(self, image: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, Gradients]:
        """As in :class:`TiledStep`."""
        v = image
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
            part = tile.take(before, ROWS).detach().requires_grad_(v_gradient is not None)
            with torch.enable_grad():
                image = self.regularize(part, tile, group.start)
                summed = self.loss.summed(image, tile.core(target, ROWS), scale)
            tile.core(after, ROWS).copy_(image.detach())
            sums.append(summed.detach())
            if not summed.requires_grad:  # a frozen step only passes its image on
                continue
            wanted = [*self.parameters, *([part] if v_gradient is not None else [])]
            found = torch.autograd.grad(summed, wanted, allow_unused=True)
            add_gradients(gradients, dict(zip(self.parameters, found)))
            if v_gradient is not None and found[-1] is not None:
                tile.add(v_gradient, found[-1], ROWS)
        return torch.stack(sums).sum(), gradients
