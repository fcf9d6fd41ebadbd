"""How far the frames of a k-t mask, taken together, cover k-space."""

from typing import NamedTuple

import torch

from meddlr_greedy.data.kt_mask import central_lines

__all__ = ["Coverage", "time_average_coverage"]


class Coverage(NamedTuple):
    """What the frames of a k-t mask sample together; coil maps are estimated from it (their time average)."""

    num_lines: int  #: W, all lines
    sampled: int  #: lines sampled in one frame or more
    central: int  #: width of the largest central block that is sampled fully

    def __str__(self) -> str:
        return (
            f"the time average covers {self.sampled} of {self.num_lines} lines,"
            f" the central {self.central} without a gap"
        )


def time_average_coverage(mask: torch.Tensor) -> Coverage:
    """Returns how far the frames of a mask, taken together, cover k-space.

    Args:
        mask: Shape (1, H, W, T, 1). A line is sampled in a frame if any point on it is.
    """
    sampled = mask[0, ..., 0].bool().any(dim=0).any(dim=-1).numpy()
    num_lines = len(sampled)
    central = next(count for count in range(num_lines, -1, -1) if sampled[central_lines(num_lines, count)].all())
    return Coverage(num_lines, int(sampled.sum()), central)
