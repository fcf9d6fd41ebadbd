"""Parts of coil images, so that those of a whole slice never stand in memory; and linear operators in autograd."""

from contextvars import ContextVar
from typing import Any, Callable, List, NamedTuple, Optional

import torch

__all__ = ["Operator", "Part", "applying_operators", "linear", "parts_of"]

Operator = Callable[[torch.Tensor], torch.Tensor]

#: How :func:`linear` applies an operator. A plan sets it, since it need not follow the same operator again and again.
applying_operators: ContextVar[Callable[[Operator, torch.Tensor], torch.Tensor]] = ContextVar(
    "applying operators", default=lambda operator, x: operator(x)
)

# Axes of coil images in the layout (B, C, T, H, W).
_COILS, _FRAMES = 1, 2


class Part(NamedTuple):
    """Coil images of some cardiac phases, of all coils or of some."""

    frames: slice = slice(None)
    coils: slice = slice(None)

    @property
    def has_all_coils(self) -> bool:
        """Whether there is one part for each of its phases."""
        return self.coils == slice(None)

    @property
    def has_first_coil(self) -> bool:
        """Whether it is the first part of its phases."""
        return not self.coils.start

    def frames_of(self, x: torch.Tensor) -> torch.Tensor:
        """Its phases of a tensor (B, any, T, H, W); one with T = 1 counts for all."""
        return _of_axis(x, _FRAMES, self.frames)

    def coils_of(self, x: torch.Tensor) -> torch.Tensor:
        """Its coils of a tensor (B, C, any, H, W); one with C = 1 counts for all."""
        return _of_axis(x, _COILS, self.coils)


def _of_axis(x: torch.Tensor, axis: int, own: slice) -> torch.Tensor:
    # Not by an index: that takes three times as long, which counts where frames are small.
    return x if own == slice(None) or x.shape[axis] == 1 else x.narrow(axis, own.start, own.stop - own.start)


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
    coils = _pieces(num_coils, planes) if planes < num_coils else [slice(None)]
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
        return applying_operators.get()(operator, x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        operator, adjoint = ctx.operators
        return _Linear.apply(grad, adjoint, operator), None, None
