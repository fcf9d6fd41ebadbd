"""A regularizer, ``MODEL.UNROLLED.BLOCK_ARCHITECTURE: PlainConv3d``."""

from meddlr.config.config import configurable
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from torch import nn


@META_ARCH_REGISTRY.register()
class PlainConv3d(nn.Sequential):
    """Two 3D convolutions: (B, 2M, T, H, W), real and imaginary parts of M map sets, to the same shape."""

    @configurable
    def __init__(self, in_channels, channels):
        super().__init__(
            nn.Conv3d(in_channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(channels, in_channels, 3, padding=1),
        )

    @classmethod
    def from_config(cls, cfg):
        """The arguments of ``__init__``, from ``MODEL.UNROLLED``."""
        unrolled = cfg.MODEL.UNROLLED
        return {"in_channels": 2 * unrolled.NUM_EMAPS, "channels": unrolled.NUM_FEATURES}
