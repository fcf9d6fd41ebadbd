"""Training of invertible networks: backward runs the unrolled steps of a module backwards."""

from typing import Any, List, NamedTuple, Tuple

import torch
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from torch import nn
from torch.autograd.function import once_differentiable

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.contract import traits_of
from meddlr_greedy.modeling.greedy.gradients import Gradients, add_gradients
from meddlr_greedy.modeling.greedy.unrolled_step import StepMode, block_of_step, run_step
from meddlr_greedy.modeling.problem import UnrolledProblem

__all__ = ["check_invertible", "run_inverting"]


def check_invertible(network: Any) -> None:
    """Refuses what :func:`run_inverting` cannot train.

    Args:
        network: The network to train.

    Raises:
        UserError: for a network without an inverse.
    """
    if not traits_of(network).invertible:
        allowed = sorted(name for name, registered in META_ARCH_REGISTRY if traits_of(registered).invertible)
        raise UserError(
            f"MISC.GREEDY.TRAINING: found 'invertible', but {type(network).__name__} has no inverse; allowed for"
            f" MISC.GREEDY.META_ARCHITECTURE are {', '.join(allowed)}"
        )


def run_inverting(
    network: Any, steps: range, image: torch.Tensor, problem: UnrolledProblem, mode: StepMode, error: torch.Tensor
) -> torch.Tensor:
    """Runs unrolled steps; backward runs them back, and holds the activations of one step at a time.

    Args:
        network: The network to train.
        steps: Which, from 0; two or more, since one alone holds the activations of one step anyway.
        image: Complex, shape (B, H, W, T, M).
        problem: The batch.
        mode: How a step runs.
        error: A scalar that backward raises to the error of this inversion: the norm of the difference between the
            image after the first of the steps and what backward has led back to it, relative to the norm of the image.

    Returns:
        The image of the last step, with the gradient of the network's parameters and of ``image``.
    """
    run = _Run(network, steps, problem, mode, error)
    return _Inverting.apply(run, image, *run.trainable())


class _Run(NamedTuple):
    """Consecutive steps on one batch, and the way back."""

    network: Any
    steps: range
    problem: UnrolledProblem
    mode: StepMode
    error: torch.Tensor

    def trainable(self) -> List[nn.Parameter]:
        """The parameters of all steps that want a gradient, each once."""
        return list(dict.fromkeys(p for i in self.steps for p in self._trainable(i)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for i in self.steps:
            image = run_step(self.network, i, image, self.problem, self.mode)
        return image

    def backward(self, before: torch.Tensor, image: torch.Tensor, grad: torch.Tensor) -> Tuple[torch.Tensor, Gradients]:
        """Gradients of the image ``before`` the steps and of their parameters, from that of the ``image`` after."""
        found = self._backward(before, image, grad)
        has_converged = getattr(self.network, "inverse_has_converged", lambda: True)
        while not has_converged():  # asked once for all steps: a GPU need not be waited for in each of them
            found = self._backward(before, image, grad)
        return found

    def _backward(
        self, before: torch.Tensor, image: torch.Tensor, grad: torch.Tensor
    ) -> Tuple[torch.Tensor, Gradients]:
        gradients: Gradients = {}
        for i in reversed(self.steps):
            after, image = image, before if i == self.steps.start else self._before(i, image)
            given = image.detach().requires_grad_()
            with torch.enable_grad():
                output = run_step(self.network, i, given, self.problem, self.mode)
            parameters = self._trainable(i)
            grad, *found = torch.autograd.grad(output, [given, *parameters], grad)
            add_gradients(gradients, dict(zip(parameters, found)))  # weights may be shared
        exact = output.detach()  # of the first step, whose input is there
        self.error.copy_(torch.maximum(self.error, (after - exact).norm() / exact.norm()))
        return grad, gradients

    def _before(self, i: int, after: torch.Tensor) -> torch.Tensor:
        """The image that step ``i`` made the image ``after`` of."""
        block: Any = block_of_step(self.network, i)
        step_size = self.network.step_sizes[i].to(after.device)
        return self.network.inverse_step(
            image=after, model=block, A=self.problem.A, zf_image=self.problem.zf_image, step_size=step_size
        )

    def _trainable(self, i: int) -> List[nn.Parameter]:
        parameters: List[Any] = [*block_of_step(self.network, i).parameters(), self.network.step_sizes[i]]
        return [p for p in parameters if p.requires_grad]


class _Inverting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, image: torch.Tensor, *parameters: nn.Parameter) -> torch.Tensor:  # type: ignore[override]
        after = run.forward(image)
        ctx.run, ctx.parameters = run, parameters
        ctx.save_for_backward(image, after)
        return after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        image_gradient, gradients = ctx.run.backward(*ctx.saved_tensors, grad)
        return (None, image_gradient, *(gradients.get(p) for p in ctx.parameters))
