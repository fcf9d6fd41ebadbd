"""Gradients that have derivatives again, of functions whose backward does not compute with autograd."""

from typing import Any, Callable, Optional, Tuple

import torch

__all__ = ["differentiable_gradients"]


def differentiable_gradients(
    ctx: Any, function: Callable[..., torch.Tensor], grad: torch.Tensor
) -> Tuple[Optional[torch.Tensor], ...]:
    """The gradients that backward returns, from autograd.

    Args:
        ctx: Of the function's backward. Its saved tensors are its first inputs.
        function: The same of these tensors, known to autograd.
        grad: Of its output.

    Returns:
        One for each of the tensors, None where no gradient is wanted.
    """
    inputs = ctx.saved_tensors
    wanted = [x for x, is_wanted in zip(inputs, ctx.needs_input_grad) if is_wanted]
    found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True))
    return tuple(next(found) if is_wanted else None for _, is_wanted in zip(inputs, ctx.needs_input_grad))
