"""meddlr's 2D MoDL as a GPU likes it: the host enqueues all conjugate gradient iterations without waiting for one."""

from typing import Any

import torch
from meddlr.modeling.meta_arch import unrolled

from meddlr_greedy.modeling.contract import REPLACED
from meddlr_greedy.ops.conjugate_gradient import conjugate_gradient

__all__ = ["CGUnrolledCNN"]


class CGUnrolledCNN(unrolled.CGUnrolledCNN):
    """meddlr's network of this name, built in its place.

    meddlr's conjugate gradients ask the device after each iteration whether they have converged. On a GPU those of this
    network freeze what has converged instead, which gives the same image; on the CPU they are meddlr's.
    """

    def step(self, *, image: torch.Tensor, model: Any, A: Any, zf_image: torch.Tensor, step_size: Any, dims: Any):  # noqa: N803
        """Regularizes, then solves data consistency; arguments as in ``modeling.contract.UnrolledNetwork``."""
        if image.device.type == "cpu":
            return super().step(image=image, model=model, A=A, zf_image=zf_image, step_size=step_size, dims=dims)
        regularized = self.reg(image=image, model=model, dims=dims)
        starts = {"zeros": torch.zeros_like(image), "reg": regularized}
        return conjugate_gradient(
            lambda x: A(A(x), adjoint=True),
            b=zf_image + step_size * regularized,
            x=starts.get(self.cg_init, image),
            mu=step_size,
            max_iter=self.cg_max_iter,
            eps=self.cg_eps,
            together=True,
        )


REPLACED[unrolled.CGUnrolledCNN] = CGUnrolledCNN
