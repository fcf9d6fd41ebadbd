"""A residual regularizer with an inverse."""

import functools
import math
from typing import Any, Dict, List, Optional, Sequence

import torch
import torch.nn.functional as F
from meddlr.config import CfgNode
from meddlr.config.config import configurable
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.regularizers.padding import ZEROS, Padding
from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalConv, SpatioTemporalResNet
from meddlr_greedy.ops.lipschitz import convolution_norm_bound

__all__ = ["InvertibleResBlock", "InvertibleSpatioTemporalResNet", "have_converged"]


# Bound of Lip(g): an error of the fixed point iteration halves at least with each evaluation of g. At 0.9, 151
# evaluations would take the place of 23, and the inverse of a block could amplify an error tenfold instead of twice.
_LIPSCHITZ = 0.5
# Evaluations of g that a GPU makes beyond those that were needed last time: weights and data change little from one
# iteration to the next.
_MORE_EVALUATIONS = 2


def _most_evaluations(dtype: torch.dtype) -> int:
    """Evaluations of g after which an error is as small as rounding, at the bound of its Lipschitz constant."""
    return math.ceil(math.log(torch.finfo(dtype).eps) / math.log(_LIPSCHITZ))


class InvertibleResBlock(nn.Module):
    """:math:`x + g(x)` of two (2+1)D convolutions and a ReLU, :math:`g` scaled so that it has an inverse.

    The Lipschitz constant of :math:`g` is at most the product of the norms of its linear layers (ReLU's is one). Where
    that is above 1/2, :math:`g` is scaled down to it; the scale is a function of the weights alone, the same in
    training and evaluation, and is trained through.

    Attributes:
        evaluations: Of g, that the inverse makes on a GPU, where to ask whether it has converged would be to wait;
            :func:`have_converged` asks once for all blocks. None: as many as are enough for any weights.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int = 3, padding: str = ZEROS, channel_multiple: int = 1
    ):
        super().__init__()
        self.pad = Padding(kernel_size, padding)
        convolution = functools.partial(SpatioTemporalConv, channel_multiple=channel_multiple)
        self.conv1 = convolution(in_channels, channels, kernel_size, self.pad)
        self.conv2 = convolution(channels, in_channels, kernel_size, self.pad)
        self.evaluations: Optional[int] = None
        self._needed: List[torch.Tensor] = []  # evaluations of each inverse since have_converged, on the GPU

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, T, H, W) to the same shape."""
        return x + self._scale() * self._residual(x)

    @torch.no_grad()
    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        r"""The x with x + g(x) = y, by :math:`x \leftarrow y - g(x)`, until float32 rounding stops it.

        The distance to the solution is at most :math:`L / (1 - L)` times the last change, for L = Lip(g).
        """
        if y.device.type != "cpu":
            return self._inverse_without_stop(y)
        scale, x = self._scale(), y
        rounding = torch.finfo(y.dtype).eps * y.norm()
        for _ in range(_most_evaluations(y.dtype)):
            previous, x = x, y - scale * self._residual(x)
            if (x - previous).norm() <= rounding:  # most blocks contract much faster than the bound
                break
        return x

    def _inverse_without_stop(self, y: torch.Tensor) -> torch.Tensor:
        """The same, without asking a device: what has converged stays as it is, so that more evaluations do nothing."""
        scale, x = self._scale(), y
        rounding = torch.finfo(y.dtype).eps * y.norm()
        has_converged = torch.zeros((), dtype=torch.bool, device=y.device)
        needed = torch.zeros((), device=y.device)
        for _ in range(self.evaluations or _most_evaluations(y.dtype)):
            previous, x = x, torch.where(has_converged, x, y - scale * self._residual(x))
            needed = needed + ~has_converged
            has_converged = (x - previous).norm() <= rounding
        self._needed.append(torch.where(has_converged, needed, math.inf))
        return x

    def _residual(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(F.relu(self.pad(self.conv1(self.pad(x)))))

    def _scale(self) -> torch.Tensor:
        layers = [layer for conv in (self.conv1, self.conv2) for layer in (conv.spatial, conv.temporal)]
        bound = torch.stack([convolution_norm_bound(layer.weight) for layer in layers]).prod()
        return _LIPSCHITZ / bound.clamp(min=_LIPSCHITZ)


def have_converged(blocks: Sequence[InvertibleResBlock]) -> bool:
    """Whether the inverses of blocks since the last call were exact up to rounding.

    It decides how many evaluations the next ones make: a few more than these needed, or all where that was not enough.
    On a GPU it waits, once. On the CPU an inverse knows by itself when to end.
    """
    needed = {block: torch.stack(block._needed).amax() for block in blocks if block._needed}
    if not needed:
        return True
    counts = torch.stack(list(needed.values())).cpu().tolist()
    # All evaluations are enough, also where rounding keeps the last bits moving.
    enough = all(math.isfinite(n) or block.evaluations is None for block, n in zip(needed, counts))
    for block, count in zip(needed, counts):
        block._needed.clear()
        block.evaluations = int(count) + _MORE_EVALUATIONS if enough and math.isfinite(count) else None
    return enough


@META_ARCH_REGISTRY.register()
class InvertibleSpatioTemporalResNet(nn.Module):
    """Regularizer of 2D+t images with an inverse: ``num_blocks`` times :class:`InvertibleResBlock`.

    Args:
        in_channels: Channels of input and output: real and imaginary part of each map set, 2 M.
        channels: Features inside of a block.
        num_blocks: Number of blocks, at least 1.
        kernel_size: Odd kernel size along readout, phase encode and frames.
        padding: A value of ``MISC.GREEDY.PADDING``.
        channel_multiple: As of :class:`~meddlr_greedy.modeling.regularizers.spatiotemporal.SpatioTemporalConv`.
    """

    takes_padding = True
    takes_channel_multiple = True

    @configurable
    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_blocks: int = 2,
        kernel_size: int = 3,
        padding: str = ZEROS,
        channel_multiple: int = 1,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(
            InvertibleResBlock(in_channels, channels, kernel_size, padding, channel_multiple) for _ in range(num_blocks)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 2M, T, H, W) to the same shape."""
        for block in self.blocks:
            image = block(image)
        return image

    def inverse(self, image: torch.Tensor) -> torch.Tensor:
        """Gives back what ``forward`` was given."""
        block: Any
        for block in reversed(self.blocks):
            image = block.inverse(image)
        return image

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """As for the (2+1)D residual network.

        Raises:
            UserError: for what has no inverse.
        """
        kwargs = SpatioTemporalResNet.from_config(cfg)
        dropout = kwargs.pop("dropout")
        if dropout:
            raise UserError(
                f"MODEL.UNROLLED.DROPOUT: found {dropout:g}, but an invertible network cannot undo it; allowed is 0"
            )
        if kwargs["num_blocks"] < 1:
            raise UserError("MODEL.UNROLLED.NUM_RESBLOCKS: found 0, an invertible network allows 1 and more")
        return kwargs
