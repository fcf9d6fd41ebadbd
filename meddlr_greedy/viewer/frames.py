"""Magnitudes as bytes inside a page."""

import base64
import zlib

import numpy as np

__all__ = ["LEVELS", "packed"]

LEVELS = 255  #: The largest gray level; it stands for ``top``, and for whatever is brighter.


def packed(series: np.ndarray, top: float) -> str:
    """Packs a series into text, in 8 bits a pixel.

    The bytes lie in the order frame, row, column. Each frame but the first is told as its difference to the one before,
    modulo 256, which compresses better, since most of an image is at rest.

    Args:
        series: Magnitudes (H, W, T).
        top: The magnitude of the largest gray level.

    Returns:
        str: Base64 of what zlib makes of the bytes.
    """
    levels = np.clip(np.rint(series * (LEVELS / top)), 0, LEVELS).astype(np.uint8)
    frames = np.ascontiguousarray(np.moveaxis(levels, -1, 0))
    frames[1:] -= frames[:-1].copy()  # uint8: modulo 256
    return base64.b64encode(zlib.compress(frames.tobytes(), level=6)).decode()
