"""(2+1)D convolution and the residual regularizer built from it (Sandino et al., MRM 2021, "DL-ESPIRiT").

Tensors have shape (B, channels, T, H, W). Inside, the memory order is (B, T, H, W, channels): then both parts of the
convolution are two-dimensional channels-last convolutions on views of the same memory, one with the frames folded into
the batch, the other over (T, H W). That is several times faster on a CPU than two Conv3d.
"""

import functools
import math
from typing import Any, Callable, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from meddlr.config import CfgNode
from meddlr.config.config import configurable
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from torch import nn

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.regularizers.current_tile import cropped, positional_dropout
from meddlr_greedy.modeling.regularizers.padding import ZEROS, Padding, padding_of
from meddlr_greedy.modeling.regularizers.recomputed_input import Origin, convolution_of_relu, frames_of, is_kept_exactly
from meddlr_greedy.modeling.regularizers.spatial_convolution import convolution
from meddlr_greedy.modeling.regularizers.temporal_convolution import relu_and_convolution, relu_and_products
from meddlr_greedy.ops.devices import computing_device

__all__ = ["ResBlock", "SpatioTemporalConv", "SpatioTemporalResNet", "residual_options"]

# Of others, a sum of products has several roundings, and takes longer than the convolution.
_PRECISIONS_OF_PRODUCTS = (torch.float32, torch.float64)
# Of fewer channels, products take longer on a CPU: up to three times.
_FEWEST_CHANNELS_ON_CPU = 13
# Below these, a GPU takes longer to launch the products than cuDNN takes for the convolution.
_FEWEST_CHANNELS_ON_GPU, _FEWEST_NUMBERS_ON_GPU = 64, 2**24
# Below these, products for the gradient of the weight in space take longer than torch's convolution.
_FEWEST_CHANNELS_IN_SPACE, _FEWEST_NUMBERS_OF_A_FRAME = 16, 2**16


class SpatioTemporalConv(nn.Module):
    """(1, k, k) convolution, ReLU, (k, 1, 1) convolution; circular padding in time (cardiac phases).

    The number of intermediate channels, before it is rounded up to a multiple, gives it as many weights as a k x k x k
    convolution (Tran et al., CVPR 2018).

    Args:
        in_channels: Channels of the input (B, in_channels, T, H, W).
        out_channels: Channels of the output (B, out_channels, T, H, W).
        kernel_size: k, odd.
        pad: The padding along readout and phase encode, which the input has had; zeros by default.
        channel_multiple: The intermediate channels are rounded up to a multiple of it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        pad: Optional[Padding] = None,
        channel_multiple: int = 1,
    ):
        super().__init__()
        k = kernel_size
        self.pad = Padding(k) if pad is None else pad
        mid_channels = math.floor(k**3 * in_channels * out_channels / (k**2 * in_channels + k * out_channels))
        mid_channels = math.ceil(mid_channels / channel_multiple) * channel_multiple
        self.spatial = nn.Conv2d(in_channels, mid_channels, k, padding=self.pad.zeros)
        self.temporal = nn.Conv2d(mid_channels, out_channels, (k, 1))
        self.reach = k // 2
        # torch's default shrinks the signal at every layer: through two convolutions a block, nothing would be left.
        for conv in (self.spatial, self.temporal):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, T, H, W) to (B, out_channels, T, H, W); H and W are smaller where zeros do not pad them.

        Raises:
            UserError: There are fewer frames than the kernel reaches to one side.
        """
        return self._behind_space(self._in_space(frames_of(x)), len(x))[0]

    def with_origin(self, x: torch.Tensor) -> Tuple[torch.Tensor, Optional[Origin]]:
        """The same, and what it was made of where that, in training on a CPU, has fewer channels and stays exact."""
        x, in_between = self._behind_space(self._in_space(frames_of(x)), len(x))
        narrow = in_between.shape[-1] < self.temporal.out_channels
        if narrow and self.takes_products(in_between) and computing_device(x).type == "cpu" and is_kept_exactly():
            assert self.temporal.bias is not None
            return x, Origin(in_between, self.temporal.weight, self.temporal.bias)
        return x, None

    def of_relu(self, x: torch.Tensor, origin: Origin) -> torch.Tensor:
        """Padding and ReLU of x (B, in_channels, T, H, W), of which nothing is kept, then as :meth:`forward`."""
        weight, bias = self.spatial.weight, self.spatial.bias
        assert bias is not None
        by_products = _weight_gradient_is_faster_by_products(frames_of(x), weight)
        return self._behind_space(convolution_of_relu(x, origin, weight, bias, self.pad, by_products), len(x))[0]

    def _behind_space(self, x: torch.Tensor, num_batch: int) -> Tuple[torch.Tensor, torch.Tensor]:
        """(B T, channels, H, W) to (B, out_channels, T, H, W), and what is convolved along time, after its ReLU."""
        (height, width), num_frames = x.shape[2:], len(x) // num_batch
        if num_frames < self.reach:
            raise UserError(
                f"MODEL.UNROLLED.KERNEL_SIZE: found {2 * self.reach + 1}, but the data has {num_frames} frames only"
            )
        x = x.permute(0, 2, 3, 1).reshape(num_batch, num_frames, height * width, -1).contiguous()
        out = self.in_time(x).reshape(num_batch, num_frames, height, width, -1)
        return out.permute(0, 4, 1, 2, 3), x

    def _in_space(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and _weight_gradient_is_faster_by_products(x, self.spatial.weight):
            return convolution(x, self.spatial.weight, self.spatial.bias, self.pad.zeros)
        if self.spatial.padding == self.pad.zeros:
            return self.spatial(x)
        return F.conv2d(x, self.spatial.weight, self.spatial.bias, padding=self.pad.zeros)  # of a tile

    def in_time(self, x: torch.Tensor) -> torch.Tensor:
        """ReLU and convolution along time: (B, T, H W, channels), overwritten, to (B, T, H W, out_channels)."""
        convolve = relu_and_products if self.takes_products(x) else relu_and_convolution
        assert self.temporal.bias is not None
        return convolve(x, self.temporal.weight, self.temporal.bias)

    def takes_products(self, x: torch.Tensor) -> bool:
        """Whether backward takes products of (B, T, H W, channels) along time, which forward then overwrites."""
        # By the mode and not by whether there is a graph: passes without one have to give the bits of those with one.
        return self.training and _products_are_faster(x)


def _products_are_faster(x: torch.Tensor) -> bool:
    """In training, of a convolution of (B, T, H W, channels) along time."""
    if x.dtype not in _PRECISIONS_OF_PRODUCTS:
        return False
    if computing_device(x).type == "cpu":
        return x.shape[-1] >= _FEWEST_CHANNELS_ON_CPU
    return x.shape[-1] >= _FEWEST_CHANNELS_ON_GPU and x.numel() >= _FEWEST_NUMBERS_ON_GPU


def _weight_gradient_is_faster_by_products(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """In training, of a convolution of (frames, channels, H, W) in the plane."""
    if x.dtype not in _PRECISIONS_OF_PRODUCTS or computing_device(x).type != "cpu":
        return False
    return min(weight.shape[:2]) >= _FEWEST_CHANNELS_IN_SPACE and x[0].numel() >= _FEWEST_NUMBERS_OF_A_FRAME


class ResBlock(nn.Module):
    """Pre-activation residual block: twice (padding, ReLU, dropout, convolution), plus the input.

    Args:
        convolution: Makes a convolution of (input channels, output channels, kernel size, padding) that, with the
            padding, keeps the other axes.
        channels: Channels of input and output.
        kernel_size: Kernel size of both convolutions, odd.
        dropout: Dropout probability.
        padding: A value of ``MISC.GREEDY.PADDING``.
    """

    def __init__(
        self,
        convolution: Callable[[int, int, int, Padding], nn.Module],
        channels: int,
        kernel_size: int = 3,
        dropout: float = 0.0,
        padding: str = ZEROS,
    ):
        super().__init__()
        self.pad = Padding(kernel_size, padding)
        self.conv1: Any = convolution(channels, channels, kernel_size, self.pad)
        self.conv2 = convolution(channels, channels, kernel_size, self.pad)
        self.dropout = dropout

    def forward(self, x: torch.Tensor, origin: Optional[Origin] = None) -> torch.Tensor:
        """(B, channels, ...) to the same shape, of as many axes as the convolution takes.

        With the ``origin`` of x, which a (2+1)D convolution gives, the first one keeps no input for backward.
        """
        keeps = origin is None or self.dropout  # there is an origin in training alone
        out = self._convolved(self.conv1, x) if keeps else self.conv1.of_relu(x, origin)
        out = self._convolved(self.conv2, out)
        return out + cropped(x, out)

    def _convolved(self, conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
        factors = positional_dropout(x, self.dropout) if self.dropout and self.training else None
        x = F.relu(self.pad(x))
        return conv(F.dropout(x, self.dropout, self.training) if factors is None else x * self.pad(factors))


@META_ARCH_REGISTRY.register()
class SpatioTemporalResNet(nn.Module):
    """Residual regularizer of 2D+t images: a convolution, residual blocks, a last convolution, plus the input.

    Args:
        in_channels: Channels of input and output: real and imaginary part of each map set, 2 M.
        channels: Features of the residual blocks.
        num_blocks: Number of residual blocks.
        kernel_size: Odd kernel size along readout, phase encode and frames.
        dropout: Dropout probability.
        padding: A value of ``MISC.GREEDY.PADDING``.
        channel_multiple: As of :class:`SpatioTemporalConv`, for all of them.
    """

    takes_padding = True
    takes_channel_multiple = True
    shrinks_on_tiles = True

    @configurable
    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_blocks: int = 2,
        kernel_size: int = 3,
        dropout: float = 0.0,
        padding: str = ZEROS,
        channel_multiple: int = 1,
    ):
        super().__init__()
        self.pad = Padding(kernel_size, padding)
        convolution = functools.partial(SpatioTemporalConv, channel_multiple=channel_multiple)
        self.initial = convolution(in_channels, channels, kernel_size, self.pad)
        self.blocks = nn.ModuleList(
            ResBlock(convolution, channels, kernel_size, dropout, padding) for _ in range(num_blocks)
        )
        self.final = convolution(channels, in_channels, kernel_size, self.pad)
        # Near the identity at first, so that the unrolled steps start as plain gradient steps.
        with torch.no_grad():
            self.final.temporal.weight.mul_(0.1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 2M, T, H, W) to the same shape; of a tile with what is around it, to the tile."""
        x, origin = self.initial.with_origin(self.pad(image))
        for block in self.blocks:
            x, origin = block(x, origin), None
        x = self.final(self.pad(x))
        return x + cropped(image, x)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """The arguments of ``__init__``, see :func:`residual_options`."""
        options, channel_multiple = residual_options(cfg), GreedyConfig.from_cfg(cfg).CHANNEL_MULTIPLE
        # Where it does nothing, it is no argument: a subclass that takes no such argument is built as before.
        return options if channel_multiple == 1 else {**options, "channel_multiple": channel_multiple}


def residual_options(cfg: CfgNode) -> Dict[str, Any]:
    """Arguments of a residual regularizer of cine, from ``MODEL.UNROLLED``.

    Raises:
        UserError: A key has a value that these networks do not allow.
    """
    unrolled = cfg.MODEL.UNROLLED
    kernel_sizes = set(unrolled.KERNEL_SIZE)
    if len(kernel_sizes) != 1 or min(kernel_sizes) % 2 == 0:
        raise UserError(
            f"MODEL.UNROLLED.KERNEL_SIZE: found {tuple(unrolled.KERNEL_SIZE)}, one odd number is allowed"
            " for a cine regularizer"
        )
    fixed = {
        "CONV_BLOCK.NORM": (unrolled.CONV_BLOCK.NORM, "none"),
        "CONV_BLOCK.NORM_AFFINE": (unrolled.CONV_BLOCK.NORM_AFFINE, False),
        "CONV_BLOCK.ACTIVATION": (unrolled.CONV_BLOCK.ACTIVATION, "relu"),
        "CONV_BLOCK.ORDER": (tuple(unrolled.CONV_BLOCK.ORDER), ("norm", "act", "drop", "conv")),
    }
    for key, (found, allowed) in fixed.items():
        if found != allowed:
            raise UserError(f"MODEL.UNROLLED.{key}: found {found!r}, a cine regularizer allows {allowed!r}")
    if unrolled.NUM_FEATURES < 1 or unrolled.NUM_RESBLOCKS < 0 or not 0 <= unrolled.DROPOUT < 1:
        raise UserError(
            f"MODEL.UNROLLED: found NUM_FEATURES {unrolled.NUM_FEATURES}, NUM_RESBLOCKS {unrolled.NUM_RESBLOCKS},"
            f" DROPOUT {unrolled.DROPOUT}; allowed are at least 1, at least 0, and 0 to below 1"
        )
    return {
        "in_channels": 2 * unrolled.NUM_EMAPS,
        "channels": unrolled.NUM_FEATURES,
        "num_blocks": unrolled.NUM_RESBLOCKS,
        "kernel_size": kernel_sizes.pop(),
        "dropout": unrolled.DROPOUT,
        "padding": padding_of(cfg),
    }
