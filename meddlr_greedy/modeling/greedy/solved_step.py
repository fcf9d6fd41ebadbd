r"""A greedy module of one unrolled step that regularizes by tiles, and then solves data consistency.

The step is :math:`x^* = (N + \mu)^{-1} (A^H y + \mu R(x))`, with the gradient of the solution: :math:`\lambda = (N +
\mu)^{-1} g` for the gradient g of the loss. Then :math:`\mu \lambda` is that of R(x), and R runs tile by tile::

    for each tile:  R(x)[core] = R(x[core + halo])[core]                    # without a graph
    x* = solve(A^H y + mu R(x)), from x
    for each tile:  g[core] = gradient of the sum of the loss over the core
    lambda = solve(g)
    for each tile:  R(x)[core] once more, with a graph; mu lambda[core] gives the gradients of its parameters,
                    which add up, and <lambda[core], R(x)[core]> is part of that of mu
    gradient of mu -= <lambda, x*>

On a CPU, at most six images are there at a time: x, and x*, and the four of a solve. So R(x) is made twice, and the
zero-filled image, which is let go of before the solve, once in each module. A process that got it from the one before,
with an image to start from, has no k-space to make it of, and keeps both.
"""

from typing import List, Tuple

import torch
from torch import nn

from meddlr_greedy.modeling.contract import is_local, regularizes_then_solves
from meddlr_greedy.modeling.greedy.gradients import Gradients, add_gradients
from meddlr_greedy.modeling.greedy.modules import UnrolledModules
from meddlr_greedy.modeling.greedy.tiled_step import ROWS, TiledStep
from meddlr_greedy.modeling.pixel_losses import scale_of
from meddlr_greedy.modeling.problem import UnrolledProblem
from meddlr_greedy.ops.conjugate_gradient import ImplicitSolve

__all__ = ["SolvedStep"]


class SolvedStep(TiledStep):
    """An unrolled step that regularizes, and then solves data consistency with the gradient of the solution."""

    @staticmethod
    def suits(modules: UnrolledModules, problem: UnrolledProblem) -> bool:
        """Whether a step of a network is that, and its regularizer can be given parts of the image."""
        network = modules.network
        if not (regularizes_then_solves(network) and is_local(type(network).reg)):
            return False
        return network.solver(problem.A, network.step_sizes[0]) is not None

    @property
    def mu(self) -> nn.Parameter:
        """The weight of the regularized image, a real scalar."""
        return self.modules.network.step_sizes[self.step]

    def begin(self, image: torch.Tensor) -> torch.Tensor:
        """As in :class:`TiledStep`: the image itself, of which backward takes the tiles once more."""
        return image

    @torch.no_grad()
    def run(self, image: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, Gradients]:
        """As in :class:`TiledStep`."""
        mu = self.mu.to(image.device)  # meddlr leaves step sizes that are not trained on the CPU
        solver: ImplicitSolve = self.modules.network.solver(self.problem.A, mu)
        solver = solver._replace(residual=self.modules.residual_of(self.step, self.problem, image))
        b = self._right_hand_side(image, mu)
        self.problem.zero_filled.let_go()
        relative_eps = solver.relative_eps(b)
        solution = solver.solution(b, image, spends_b=True)
        del b
        loss, gradient = self._loss(solution)
        if not self.parameters:  # a frozen step only passes its image on
            return solution, loss, {}
        adjoint = solver.adjoint(gradient, relative_eps, spends_grad=True)
        del gradient
        gradients = self._gradients(image, adjoint, mu)
        if self.mu.requires_grad:
            add_gradients(gradients, {self.mu: solver.gradient_of_mu(adjoint, solution)})
        return solution, loss, gradients

    def _right_hand_side(self, image: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
        """A^H y + mu R(x), in the order of A^H y in memory, which A^H A gives, too."""
        zf_image = self.problem.zf_image
        b = torch.empty_like(zf_image)
        for tile in self.regularizer.tiles_of_image(image):
            tile.core(b, ROWS).copy_(self.regularize(tile.take(image, ROWS), tile))
        return b.mul_(mu).add_(zf_image)

    def _loss(self, image: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """The loss of an image, and the gradient of the weighted one, (B, H, W, [T,] M)."""
        gradient = torch.empty_like(image)
        groups = self.loss.groups(len(image))
        losses: List[torch.Tensor] = []
        for group in groups:
            target, scale = self.target[group], scale_of(self.problem.inputs, group)
            sums: List[torch.Tensor] = []
            for tile in self.regularizer.tiles_of_image(image):
                core = tile.core(image[group], ROWS).detach().requires_grad_()
                with torch.enable_grad():
                    summed = self.loss.summed(core, tile.core(target, ROWS), scale)
                sums.append(summed.detach())
                tile.core(gradient[group], ROWS).copy_(torch.autograd.grad(summed, core)[0])
            loss, slope = self.loss.of_sum(torch.stack(sums).sum(), target, scale)
            losses.append(loss)
            gradient[group].mul_(self.weight * slope / len(groups))
        return torch.stack(losses).mean(), gradient

    def _gradients(self, image: torch.Tensor, adjoint: torch.Tensor, mu: torch.Tensor) -> Gradients:
        """The gradients of the regularizer's parameters, and of mu where the right-hand side depends on it."""
        gradients: Gradients = {}
        for tile in self.regularizer.tiles_of_image(image):
            of_core = tile.core(adjoint, ROWS)
            with torch.enable_grad():
                core = self.regularize(tile.take(image, ROWS), tile)
            if core.requires_grad:
                found = torch.autograd.grad(core, self.parameters, mu * of_core, allow_unused=True)
                add_gradients(gradients, dict(zip(self.parameters, found)))
            if self.mu.requires_grad:
                product = torch.view_as_real(core.detach()) * torch.view_as_real(of_core)
                add_gradients(gradients, {self.mu: product.sum().reshape(self.mu.shape)})
        return gradients
