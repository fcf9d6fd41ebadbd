"""What the convolutions of a regularizer see beyond the edges of an image: zeros, or the opposite edge.

Sampled k-space makes an image periodic: beyond its last line comes its first. Zeros there are an edge that no image
has, as bright as the body that reaches it.

Of a tile, nothing is padded where the image goes on (:mod:`~meddlr_greedy.modeling.regularizers.current_tile`).
"""

from typing import Dict, Tuple, Union

import torch
import torch.nn.functional as F
from meddlr.config import CfgNode

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.regularizers.current_tile import ends

__all__ = ["ZEROS", "Padding", "padding_of"]

ZEROS = "zeros"

#: Value of ``MISC.GREEDY.PADDING`` -> whether readout and phase encode go on at the opposite edge.
_WRAPS: Dict[str, Tuple[bool, bool]] = {
    ZEROS: (False, False),
    "circular": (True, True),
    "phase_encode": (False, True),
}


def padding_of(cfg: CfgNode) -> str:
    """``MISC.GREEDY.PADDING`` of a config.

    Raises:
        UserError: ``MODEL.UNROLLED.PADDING``, meddlr's key for what meddlr does not do, asks for something.
    """
    if cfg.MODEL.UNROLLED.PADDING:
        raise UserError(
            f"MODEL.UNROLLED.PADDING: found '{cfg.MODEL.UNROLLED.PADDING}', allowed is ''; MISC.GREEDY.PADDING is the"
            " key that acts"
        )
    return GreedyConfig.from_cfg(cfg).PADDING


class Padding:
    """Padding for convolutions along readout and phase encode that keep the size of an image.

    Axes that go on at the opposite edge are padded by calling it, before the convolution; zeros are the convolution's
    own padding. So nothing is done to an image that is padded with zeros. Of a tile, zeros at one end are padded by
    calling it, too.

    Args:
        kernel_size: k of the convolutions, odd; or one along readout and one along phase encode.
        kind: A value of ``MISC.GREEDY.PADDING``.
    """

    def __init__(self, kernel_size: Union[int, Tuple[int, int]], kind: str = ZEROS):
        sizes = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        self._reach, self._wraps = [size // 2 for size in sizes], _WRAPS[kind]

    @property
    def zeros(self) -> Tuple[int, int]:
        """Of readout and phase encode, the ``padding`` of an ``nn.Conv2d``."""
        rows, columns = (
            reach if all(own) and not wraps else 0 for reach, wraps, own in zip(self._reach, self._wraps, ends())
        )
        return rows, columns

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., H, W), with k - 1 more along axes that wrap; ``x`` itself where none does, but for tiles.

        What an activation does to each number may come after the padding as well as before. After it, backward keeps
        one tensor: the padded one.

        Raises:
            UserError: An axis is shorter than what is to be seen beyond its edge.
        """
        for axis, reach, wraps, own in zip((-2, -1), self._reach, self._wraps, ends()):
            if not all(own):
                if any(own) and reach and not wraps:
                    ahead = (0, 0) if axis == -2 else ()
                    x = F.pad(x, (*ahead, reach * own.first, reach * own.last))
                continue
            if not (wraps and reach):
                continue
            size = x.shape[axis]
            if size < reach:
                raise UserError(
                    f"MISC.GREEDY.PADDING: convolutions of size {2 * reach + 1} (MODEL.UNROLLED.KERNEL_SIZE) see"
                    f" {reach} pixels beyond an edge, but the image has {size} along this axis; allowed is '{ZEROS}'"
                )
            # Unlike torch's circular padding this keeps the order of the axes in memory.
            x = torch.cat([x.narrow(axis, size - reach, reach), x, x.narrow(axis, 0, reach)], dim=axis)
        return x
