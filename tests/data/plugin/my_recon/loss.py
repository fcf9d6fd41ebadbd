"""A loss, ``MODEL.RECON_LOSS.NAME: charbonnier``."""

import torch

from meddlr_greedy.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
def charbonnier(pred, target):
    """A smooth l1 of complex images (B, H, W, [T,] M), as a scalar; of every module and of the whole network."""
    return torch.sqrt((pred - target).abs().square() + 1e-6).mean()
