"""Parts of coil images, so that those of a whole slice never stand in memory; and linear operators in autograd."""

from typing import Any, Callable, List, NamedTuple, Optional

import torch

__all__ = ["Part", "linear", "parts_of"]

Operator = Callable[[torch.Tensor], torch.Tensor]


class Part(NamedTuple):
    """Coil images of some cardiac phases, of all coils or of some."""

    frames: slice = slice(None)
    coils: slice = slice(None)


def parts_of(num_frames: int, num_coils: int, plane_bytes: int, largest: Optional[int]) -> List[Part]:
    """Cuts coil images into parts: whole cardiac phases, as many as fit, or one phase by its coils.

    Args:
        num_frames: T.
        num_coils: C.
        plane_bytes: Of one phase of one coil, with all examples of the batch.
        largest: Bytes that the coil images of a part may have; less than a plane counts as a plane. None: there is one
            part.

    Returns:
        List[Part]: Phase by phase. Parts are as equal as they can be.
    """
    if largest is None:
        return [Part()]
    planes = max(largest // plane_bytes, 1)
    coils = _pieces(num_coils, min(planes, num_coils))
    return [Part(frames, some) for frames in _pieces(num_frames, max(planes // num_coils, 1)) for some in coils]


def _pieces(length: int, most: int) -> List[slice]:
    size = -(-length // -(-length // most))
    return [slice(begin, min(begin + size, length)) for begin in range(0, length, size)]


def linear(x: torch.Tensor, operator: Operator, adjoint: Operator) -> torch.Tensor:
    """``operator(x)`` of a linear operator whose backward is ``adjoint``, so that nothing is kept for backward."""
    return _Linear.apply(x, operator, adjoint)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, operator: Operator, adjoint: Operator) -> torch.Tensor:  # type: ignore[override]
        ctx.operators = operator, adjoint
        return operator(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        operator, adjoint = ctx.operators
        return _Linear.apply(grad, adjoint, operator), None, None
