"""meddlr's 2D networks: with A^H A in one, where the signal model has it, and MoDL as a GPU likes it."""

from typing import Any, Callable

import torch
from meddlr.modeling.meta_arch import unrolled
from meddlr.ops.opt import conjgrad

from meddlr_greedy.modeling.contract import REPLACED
from meddlr_greedy.ops.conjugate_gradient import conjugate_gradient

__all__ = ["CGUnrolledCNN", "GeneralizedUnrolledCNN"]


class GeneralizedUnrolledCNN(unrolled.GeneralizedUnrolledCNN):
    """meddlr's network of this name, built in its place.

    A signal model that makes coil images part by part has A^H A in one, so that k-space is never there as a whole.
    """

    def dc(self, *, image: torch.Tensor, A: Any, zf_image: torch.Tensor, step_size: Any) -> torch.Tensor:  # noqa: N803
        """The gradient step of data consistency; images are complex, (B, H, W, M)."""
        return image + step_size * (_normal_of(A)(image) - zf_image)


class CGUnrolledCNN(unrolled.CGUnrolledCNN):
    """meddlr's network of this name, built in its place.

    meddlr's conjugate gradients ask the device after each iteration whether they have converged. On a GPU those of this
    network freeze what has converged instead: the host enqueues all iterations without waiting for one, and the image
    is the same. On the CPU they are meddlr's. A^H A as in :class:`GeneralizedUnrolledCNN`.
    """

    def step(self, *, image: torch.Tensor, model: Any, A: Any, zf_image: torch.Tensor, step_size: Any, dims: Any):  # noqa: N803
        """Regularizes, then solves data consistency; arguments as in ``modeling.contract.UnrolledNetwork``."""
        regularized = self.reg(image=image, model=model, dims=dims)
        starts = {"zeros": torch.zeros_like(image), "reg": regularized}
        problem = {
            "b": zf_image + step_size * regularized,
            "x": starts.get(self.cg_init, image),
            "mu": step_size,
            "max_iter": self.cg_max_iter,
            "eps": self.cg_eps,
        }
        if image.device.type == "cpu":
            return conjgrad(A_op=_normal_of(A), pbar=False, **problem)
        return conjugate_gradient(_normal_of(A), together=True, **problem)


def _normal_of(A: Any) -> Callable[[torch.Tensor], torch.Tensor]:  # noqa: N803
    """A^H A of a signal model."""
    return getattr(A, "normal", None) or (lambda x: A(A(x), adjoint=True))


REPLACED.update(
    {
        unrolled.GeneralizedUnrolledCNN: GeneralizedUnrolledCNN,
        unrolled.CGUnrolledCNN: CGUnrolledCNN,
    }
)
