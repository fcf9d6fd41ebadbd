"""A residual network on the lowest temporal frequencies of a cine: two-dimensional, and every layer sees all phases."""

import math
from typing import Any, Dict, Optional

import torch
import torch.nn.functional as F
from meddlr.config import CfgNode
from meddlr.config.config import configurable
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.regularizers.padding import ZEROS, Padding
from meddlr_greedy.modeling.regularizers.spatiotemporal import ResBlock, residual_options
from meddlr_greedy.ops.devices import kept_constant

__all__ = ["TemporalFrequencyResNet", "fourier_basis"]


def fourier_basis(num_frames: int, num_frequencies: int, device: Optional[torch.device] = None) -> torch.Tensor:
    """The real Fourier basis of a heart beat: constant, then cosine and sine of 1, 2, ... periods per beat.

    Returns:
        Orthonormal rows, float32, shape (1 + 2 ``num_frequencies``, ``num_frames``).

    Raises:
        UserError: There are too few frames for so many frequencies.
    """
    if num_frames <= 2 * num_frequencies:
        raise UserError(
            f"MODEL.UNROLLED.BLOCK_ARCHITECTURE: 'TemporalFrequencyResNet' needs more than {2 * num_frequencies}"
            f" cardiac phases, but the data has {num_frames} frames only; take another network, or other weights"
        )
    angle = 2 * math.pi * torch.arange(num_frames, device=device) / num_frames
    rows = [torch.full((num_frames,), 1 / math.sqrt(num_frames), device=device)]
    for frequency in range(1, num_frequencies + 1):
        rows += [math.sqrt(2 / num_frames) * wave(frequency * angle) for wave in (torch.cos, torch.sin)]
    return torch.stack(rows)


def _scaled_basis(num_frames: int, num_frequencies: int, device: torch.device) -> torch.Tensor:
    """:func:`fourier_basis` for coefficients of about equal size: the mean over time is far larger than what moves."""
    basis = fourier_basis(num_frames, num_frequencies, device)
    scale = torch.full((len(basis), 1), 2.0, device=device)
    scale[:1] = 1 / math.sqrt(num_frames)
    return scale * basis


def _convolution(in_channels: int, out_channels: int, kernel_size: int, pad: Padding) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=pad.zeros)


@META_ARCH_REGISTRY.register()
class TemporalFrequencyResNet(nn.Module):
    """Residual regularizer of 2D+t images in x-f space: its channels are coefficients of :func:`fourier_basis`.

    Most of the motion of a heart is in few temporal frequencies. There a network needs no convolution along time, and
    each of its layers sees the whole beat: it costs far less than a (2+1)D one of as many features. Higher frequencies
    pass unchanged. It is the identity until it is trained.

    Args:
        in_channels: Channels of input and output: real and imaginary part of each map set, 2 M.
        channels: Features of the residual blocks.
        num_blocks: Number of residual blocks.
        kernel_size: Odd kernel size along readout and phase encode.
        dropout: Dropout probability.
        num_frequencies: Temporal frequencies above zero, in periods per beat.
        padding: A value of ``MISC.GREEDY.PADDING``.
    """

    takes_padding = True

    @configurable
    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_blocks: int = 2,
        kernel_size: int = 3,
        dropout: float = 0.0,
        num_frequencies: int = 5,
        padding: str = ZEROS,
    ):
        super().__init__()
        self.pad = Padding(kernel_size, padding)
        self.num_frequencies = num_frequencies
        num_coefficients = in_channels * (1 + 2 * num_frequencies)
        self.initial = _convolution(num_coefficients, channels, kernel_size, self.pad)
        self.blocks = nn.ModuleList(
            ResBlock(_convolution, channels, kernel_size, dropout, padding) for _ in range(num_blocks)
        )
        self.final = _convolution(channels, num_coefficients, kernel_size, self.pad)
        for parameter in self.final.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 2M, T, H, W) to the same shape."""
        num_batch, _, num_frames, height, width = image.shape
        frames = (num_frames, self.num_frequencies)
        basis = kept_constant(fourier_basis, *frames, device=image.device)
        scaled = kept_constant(_scaled_basis, *frames, device=image.device)
        x = torch.einsum("bcthw,ft->bhwcf", image, scaled)
        x = self.initial(self.pad(x.reshape(num_batch, height, width, -1).permute(0, 3, 1, 2)))
        for block in self.blocks:
            x = block(x)
        x = self.final(F.relu(self.pad(x))).permute(0, 2, 3, 1).reshape(num_batch, height, width, -1, len(basis))
        return image + torch.einsum("bhwcf,ft->bcthw", x, basis)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """The arguments of ``__init__`` but ``num_frequencies``, which keeps its default."""
        return residual_options(cfg)
