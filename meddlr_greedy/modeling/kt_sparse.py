"""MoDL for cine that starts from a k-t sparse reconstruction instead of the zero-filled image."""

from typing import Any

import torch
from meddlr.config.config import configurable
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from torch import nn

from meddlr_greedy.modeling.cine import CGCineUnrolledCNN
from meddlr_greedy.modeling.spatiotemporal import SpatioTemporalResNet
from meddlr_greedy.ops.kt_sparse import kt_sparse_reconstruction

__all__ = ["KtSparseCineUnrolledCNN"]


@META_ARCH_REGISTRY.register()
class KtSparseCineUnrolledCNN(CGCineUnrolledCNN):
    """:class:`CGCineUnrolledCNN` that starts from :func:`~meddlr_greedy.ops.kt_sparse.kt_sparse_reconstruction`.

    Sparsity along temporal frequency and total variation remove most of the aliasing without any training, so that the
    regularisers learn what is left: worth it where there are few examples or little time. That image has no weights to
    train, so nothing is kept of it for backward. ``TimeAverageNormalizer`` gives images the scale that its weights are
    for.
    """

    @configurable
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Regularisers are the identity at first: what only perturbs a good image is unlearned slowly.
        for block in self.modules():
            if isinstance(block, SpatioTemporalResNet):
                nn.init.zeros_(block.final.temporal.weight)

    def step(self, *, image: torch.Tensor, zf_image: torch.Tensor, A: Any, **kwargs: Any) -> torch.Tensor:  # noqa: N803
        if image is zf_image:  # only the first step gets it
            with torch.no_grad():
                image = kt_sparse_reconstruction(A, zf_image)
        return super().step(image=image, zf_image=zf_image, A=A, **kwargs)
