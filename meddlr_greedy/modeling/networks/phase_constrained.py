"""MoDL for cine whose images have smooth phase: it starts from such an image, and regularizes what is nearly real."""

from typing import Any

import torch
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY

from meddlr_greedy.modeling.networks.cine import CGCineUnrolledCNN, Regularizer
from meddlr_greedy.ops.phase_constrained import phase_constrained_reconstruction, smooth_phase

__all__ = ["PhaseConstrainedCineUnrolledCNN"]


@META_ARCH_REGISTRY.register()
class PhaseConstrainedCineUnrolledCNN(CGCineUnrolledCNN):
    """:class:`CGCineUnrolledCNN` for images of smooth phase, where there are few examples to learn from.

    It starts from :func:`~meddlr_greedy.ops.phase_constrained.phase_constrained_reconstruction`, which removes most of
    the aliasing without any training: the regularizers learn what is left. That image has no weights to train, so
    nothing is kept of it for backward. Regularizers get images without their smooth phase, and need not learn that it
    does not matter. ``TimeAverageNormalizer`` gives images the scale that the weights of the start are for.
    """

    def step(self, *, image: torch.Tensor, zf_image: torch.Tensor, A: Any, **kwargs: Any) -> torch.Tensor:  # noqa: N803
        """The step of the base class; the first one starts from the phase-constrained reconstruction."""
        if image is zf_image:  # only the first step gets it
            with torch.no_grad():
                image = phase_constrained_reconstruction(A, zf_image)
        return super().step(image=image, zf_image=zf_image, A=A, **kwargs)

    def reg(self, *, image: torch.Tensor, model: Regularizer, dims=None) -> torch.Tensor:
        """Regularizes an image (B, H, W, T, M) without its smooth phase, and puts the phase back."""
        phase = smooth_phase(image.detach())  # a constant to backward
        return phase * super().reg(image=phase.conj() * image, model=model, dims=dims)
