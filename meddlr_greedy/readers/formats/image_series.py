"""What cine images of every format have to be, to be simulated from."""

from pathlib import Path
from typing import List, Tuple

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.limits import MOST_SLICES

__all__ = ["checked_magnitude"]

_LARGEST_MAGNITUDE = 1e15  # sums of its squares over an image and its coils still fit into complex64
# Interpolation overshoots at edges: by a tenth of the step at most (Lanczos), which is at most the maximum.
_OVERSHOOT = 0.1


def checked_magnitude(path: Path, magnitude: np.ndarray) -> Tuple[np.ndarray, List[str]]:
    """Checks a magnitude, and sets to zero what interpolation has made negative.

    Args:
        path: The file or folder, for messages.
        magnitude: What should be (slice, phase, row, column), real and not negative.

    Returns:
        The magnitude, and what there is to tell about it.

    Raises:
        UserError: It is something else, holds NaN, or values that are too large or too far below zero.
    """
    found = f"{magnitude.dtype} of shape {magnitude.shape}"
    if magnitude.ndim != 4 or 0 in magnitude.shape or max(magnitude.shape[:2]) > MOST_SLICES:
        raise UserError(f"{path}: magnitude: found {found}, allowed (slice, phase, row, column)")
    if magnitude.dtype.kind not in "uif":
        raise UserError(f"{path}: magnitude: found {found}, allowed real numbers")
    if not np.isfinite(magnitude).all():
        raise UserError(f"{path}: magnitude: found NaN or infinite values, allowed finite ones")
    least, most = float(magnitude.min()), float(magnitude.max())
    if least < -_OVERSHOOT * most or most < 0 or most > _LARGEST_MAGNITUDE:
        raise UserError(f"{path}: magnitude: found {least:g} to {most:g}, allowed 0 to {_LARGEST_MAGNITUDE:g}")
    notes = []
    if least < 0:
        notes.append(f"{path}: magnitude: found {least:g} to {most:g}; what is below 0 was set to 0")
        magnitude = np.maximum(magnitude, 0)
    empty = np.flatnonzero(~magnitude.any(axis=(1, 2, 3)))
    if empty.size:
        raise UserError(f"{path}: magnitude: slice {empty[0]} is zero everywhere")
    return magnitude, notes
