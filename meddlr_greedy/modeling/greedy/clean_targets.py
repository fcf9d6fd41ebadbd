"""Targets without a target: what the modules make of a clean batch, for their images of a perturbed one."""

from typing import Callable, Optional

import torch

from meddlr_greedy.modeling.greedy.modules import UnrolledModules
from meddlr_greedy.modeling.problem import UnrolledProblem

__all__ = ["CleanTargets"]


class CleanTargets:
    """Images of a clean batch, made without gradient by the weights before the update, in training mode.

    Args:
        modules: The network.
        problem: The clean batch.
        seed: Of random layers, see :meth:`UnrolledModules.run_steps`.
        transform: Of these images, what the perturbation does to images.
        of_network: Whether the whole network's image is the target of every module, and not the module's own.

    Attributes:
        problem: The clean batch.
        image: Of the clean batch, after the last module that has run.
        target: What :meth:`of` gave last.
    """

    def __init__(
        self,
        modules: UnrolledModules,
        problem: UnrolledProblem,
        seed: Optional[int],
        transform: Callable[[torch.Tensor], torch.Tensor],
        of_network: bool,
    ):
        self._modules, self.problem, self._seed = modules, problem, seed
        self._transform, self._of_network = transform, of_network
        self.image = problem.image
        self.target: Optional[torch.Tensor] = None

    @torch.no_grad()
    def of(self, k: int) -> torch.Tensor:
        """The target of module ``k`` (from 0), (B, H, W, [T,] M); to be asked for the modules in their order."""
        if self.target is None or not self._of_network:
            for runs in self._modules.own if self._of_network else (k,):
                self.image = self._modules.run(runs, self.image, self.problem, self._seed)
            self.target = self._transform(self.image).detach()
        return self.target
