"""Training of invertible networks: backward runs the unrolled steps backwards."""

import math
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from torch import nn

from meddlr_greedy.config.schema import GreedyConfig, changed_keys
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.contract import traits_of
from meddlr_greedy.modeling.greedy.unrolled_step import StepMode, block_of_step, run_step
from meddlr_greedy.modeling.problem import UnrolledProblem

__all__ = ["check_invertible", "run_inverting"]


def check_invertible(network: Any, num_modules: int, config: GreedyConfig) -> None:
    """Refuses what :func:`run_inverting` cannot train.

    Args:
        network: The network to train.
        num_modules: K.
        config: ``MISC.GREEDY``; of keys that do not suit inversion, only defaults are allowed.

    Raises:
        UserError: for a network without an inverse, more than one module, or one of the other keys.
    """
    if not traits_of(network).invertible:
        allowed = sorted(name for name, registered in META_ARCH_REGISTRY if traits_of(registered).invertible)
        raise UserError(
            f"MISC.GREEDY.TRAINING: found 'invertible', but {type(network).__name__} has no inverse; allowed for"
            f" MISC.GREEDY.META_ARCHITECTURE are {', '.join(allowed)}"
        )
    if num_modules != 1:
        raise UserError(
            f"MISC.GREEDY.NUM_MODULES: found {num_modules}, but MISC.GREEDY.TRAINING 'invertible' is end-to-end"
            " backpropagation, which allows 1"
        )
    for key, value in changed_keys(config):
        if not key.rule.suits_inversion:
            raise UserError(
                f"{key.full_name}: found {value!r}, which MISC.GREEDY.TRAINING 'invertible' does not allow; leave"
                " it out"
            )


def run_inverting(
    network: Any, problem: UnrolledProblem, on_done: Optional[Callable[[], None]] = None
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Runs all unrolled steps of a network; backward runs them back, and holds the activations of one step at a time.

    Args:
        network: The network to train.
        problem: The batch; the steps start from its zero-filled image A^H y, complex, shape (B, H, W, T, M).
        on_done: Called at the end of backward.

    Returns:
        The image of the last step, with the gradient of the network's parameters, and the error of the inversion, a
        scalar: the norm of the difference between the zero-filled image and what backward has led back to it, relative
        to the norm of the zero-filled image. Backward writes it; before, it is NaN.
    """
    error = torch.full((), math.nan, device=problem.zf_image.device)
    trainable = [p for p in network.parameters() if p.requires_grad]
    return _Inverting.apply(_Run(network, problem, error, on_done), *trainable), error


class _Run(NamedTuple):
    """The steps of one batch, and the way back."""

    network: Any
    problem: UnrolledProblem
    error: torch.Tensor
    on_done: Optional[Callable[[], None]]

    @property
    def num_steps(self) -> int:
        return len(self.network.step_sizes)

    def forward(self) -> torch.Tensor:
        image = self.problem.zf_image
        for i in range(self.num_steps):
            image = run_step(self.network, i, image, self.problem, StepMode())
        return image

    def backward(self, image: torch.Tensor, grad: torch.Tensor) -> Dict[nn.Parameter, torch.Tensor]:
        gradients = self._backward(image, grad)
        has_converged = getattr(self.network, "inverse_has_converged", lambda: True)
        while not has_converged():  # asked once for all steps: a GPU need not be waited for in each of them
            gradients = self._backward(image, grad)
        return gradients

    def _backward(self, image: torch.Tensor, grad: torch.Tensor) -> Dict[nn.Parameter, torch.Tensor]:
        gradients: Dict[nn.Parameter, torch.Tensor] = {}
        for i in reversed(range(self.num_steps)):
            image = self._before(i, image).requires_grad_()
            with torch.enable_grad():
                output = run_step(self.network, i, image, self.problem, StepMode())
            parameters = self._trainable(i)
            grad, *parameter_grads = torch.autograd.grad(output, [image, *parameters], grad)
            for p, g in zip(parameters, parameter_grads):
                gradients[p] = gradients[p] + g if p in gradients else g  # where weights are shared
            image = image.detach()
        zf_image = self.problem.zf_image
        self.error.copy_((image - zf_image).norm() / zf_image.norm())
        return gradients

    def _before(self, i: int, image: torch.Tensor) -> torch.Tensor:
        """The image that step ``i`` made ``image`` of."""
        block: Any = block_of_step(self.network, i)
        step_size = self.network.step_sizes[i].to(image.device)
        return self.network.inverse_step(
            image=image, model=block, A=self.problem.A, zf_image=self.problem.zf_image, step_size=step_size
        )

    def _trainable(self, i: int) -> List[nn.Parameter]:
        parameters: List[Any] = [*block_of_step(self.network, i).parameters(), self.network.step_sizes[i]]
        return [p for p in parameters if p.requires_grad]


class _Inverting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, *parameters: nn.Parameter) -> torch.Tensor:  # type: ignore[override]
        image = run.forward()
        ctx.run, ctx.parameters = run, parameters
        ctx.save_for_backward(image)
        return image

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        (image,) = ctx.saved_tensors
        gradients = ctx.run.backward(image, grad)
        if ctx.run.on_done is not None:
            ctx.run.on_done()
        return (None, *(gradients.get(p) for p in ctx.parameters))
