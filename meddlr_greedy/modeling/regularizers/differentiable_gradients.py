"""Gradients that have derivatives again, of functions whose backward does not compute with autograd."""

from typing import Optional, Sequence, Tuple

import torch

__all__ = ["differentiable_gradients"]


def differentiable_gradients(
    out: torch.Tensor, inputs: Sequence[torch.Tensor], wanted: Sequence[bool], grad: torch.Tensor
) -> Tuple[Optional[torch.Tensor], ...]:
    """The gradients that backward returns, from autograd.

    Args:
        out: The function's output, from operations that autograd knows.
        inputs: Of the function.
        wanted: Of which of them.
        grad: Of the output.

    Returns:
        One for each of the inputs, None where no gradient is wanted.
    """
    found = iter(torch.autograd.grad(out, [x for x, w in zip(inputs, wanted) if w], grad, create_graph=True))
    return tuple(next(found) if w else None for w in wanted)
