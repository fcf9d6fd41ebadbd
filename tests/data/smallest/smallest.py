"""The smallest 2D network of one's own, ``MISC.GREEDY.META_ARCHITECTURE: SmallestNetwork``."""

import torch
from meddlr.config.config import configurable
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from torch import nn


@META_ARCH_REGISTRY.register()
class SmallestNetwork(GeneralizedUnrolledCNN):
    r"""Gradient steps with a learned share of regularization, w_i.

    .. math:: x \leftarrow x + s_i (A^H A x - A^H y), \quad x \leftarrow x + w_i (R_i(x) - x)
    """

    @configurable
    def __init__(self, **parts):
        super().__init__(**parts)
        blocks = [self.resnets] if self.num_repeat_steps else self.resnets
        for block in blocks:
            block.share = nn.Parameter(torch.tensor(0.5))  # w_i, a part of R_i: so it belongs to the step of R_i

    def step(self, *, image, model, A, zf_image, step_size, dims):
        """One unrolled step: image (B, H, W, M), complex, to the next one."""
        image = self.dc(image=image, A=A, zf_image=zf_image, step_size=step_size)
        return image + model.share * (self.reg(image=image, model=model, dims=dims) - image)
