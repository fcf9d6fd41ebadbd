"""meddlr's residual network of two-dimensional images, with a choice of padding."""

import functools
from typing import Any, Dict, Tuple

import torch
from meddlr.config import CfgNode
from meddlr.config.config import configurable
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from meddlr.modeling.meta_arch.resnet import ResNetModel
from torch import nn

from meddlr_greedy.modeling.regularizers.padding import ZEROS, Padding, padding_of

__all__ = ["PaddedResNet"]

# What these do to a pixel depends on no other pixel, so that padding may as well come before them.
_POINTWISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Dropout2d)


@META_ARCH_REGISTRY.register()
class PaddedResNet(ResNetModel):
    """The regularizer that "ResNet" is in meddlr's 2D networks, with the padding of ``MISC.GREEDY.PADDING``.

    Its weights have the names and shapes of meddlr's: checkpoints of the one load into the other.

    Args:
        *args: As of meddlr's ``ResNetModel``.
        kernel_size: Odd kernel size of all convolutions, or (along readout, along phase encode).
        padding: A value of ``MISC.GREEDY.PADDING``.
        **kwargs: As of meddlr's ``ResNetModel``.
    """

    takes_padding = True

    @configurable
    def __init__(self, *args: Any, kernel_size: Any = 3, padding: str = ZEROS, **kwargs: Any):
        super().__init__(*args, kernel_size=kernel_size, **kwargs)
        pad, entrances = Padding(kernel_size, padding), _entrances(self)
        for convolution in self.modules():
            if isinstance(convolution, nn.Conv2d) and max(convolution.kernel_size) > 1:
                convolution.padding = pad.zeros
                # A hook, since another layer would change the names of the weights.
                entrances.get(convolution, convolution).register_forward_pre_hook(functools.partial(_padded, pad))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """The arguments of ``__init__``, from ``MODEL.UNROLLED`` as meddlr takes them for "ResNet"."""
        unrolled = cfg.MODEL.UNROLLED
        kernel_size = tuple(unrolled.KERNEL_SIZE)
        return {
            "num_blocks": unrolled.NUM_RESBLOCKS,
            "in_channels": 2 * unrolled.NUM_EMAPS,
            "channels": unrolled.NUM_FEATURES,
            "kernel_size": kernel_size[0] if len(kernel_size) == 1 else kernel_size,
            "dropout": unrolled.DROPOUT,
            "act_type": unrolled.CONV_BLOCK.ACTIVATION,
            "norm_type": unrolled.CONV_BLOCK.NORM,
            "norm_affine": unrolled.CONV_BLOCK.NORM_AFFINE,
            "order": unrolled.CONV_BLOCK.ORDER,
            "padding": padding_of(cfg),
        }


def _entrances(network: nn.Module) -> Dict[nn.Module, nn.Module]:
    """For each layer of a sequence, the first one of the pointwise layers that lead to it, or itself.

    Padded there, backward keeps one tensor; padded right before a convolution, it keeps the one before, too.
    """
    entrances: Dict[nn.Module, nn.Module] = {}
    for sequence in network.modules():
        if isinstance(sequence, nn.Sequential):
            entrance = None
            for layer in sequence:
                entrance = layer if entrance is None else entrance
                entrances[layer] = entrance
                if not isinstance(layer, _POINTWISE):
                    entrance = None
    return entrances


def _padded(pad: Padding, _layer: nn.Module, inputs: Tuple[torch.Tensor, ...]) -> Tuple[torch.Tensor, ...]:
    return (pad(inputs[0]), *inputs[1:])
