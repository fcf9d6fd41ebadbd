"""Where the heart is in a cine series, found from what moves.

Most of a cine image is chest wall and liver at rest, which any reconstruction that averages over time gets right.
Scores of the whole image are therefore dominated by what is of no interest; those of the region found here are not.
"""

from typing import NamedTuple, TypeVar, Union

import numpy as np
import torch
from scipy import ndimage

__all__ = ["HeartRegion", "Profile", "heart_region"]

Series = TypeVar("Series", np.ndarray, torch.Tensor)

_SMOOTHING = 0.012  # standard deviation of the Gaussian over the variance, relative to the size of the image
_REACH = 0.03  # relative to the size of the image: walls this near belong together; margin around what moves
_THRESHOLD = 0.12  # of the largest variance (above that at rest): belongs to what moves
_WINDOW = 0.3  # standard deviation of the Gaussian that favors the center, relative to the image along each axis
_TAIL = 0.02  # of the variance that may lie beyond each side of the region
# What noise alone does not reach above the variance at rest, in standard deviations of it and relative to it (in bright
# tissue, noise makes the magnitude vary up to 2.3 times as much as in the dark around the body).
_SIGNIFICANT, _RELEVANT = 6.0, 2.0
_SMALLEST = 1e-5  # temporal standard deviation, relative to the largest magnitude, that is more than rounding


class Profile(NamedTuple):
    """A line of pixels through a series.

    Attributes:
        axis: 0: a row (all W pixels at one readout position); 1: a column.
        position: Where along ``axis`` the line is.
    """

    axis: int
    position: int

    def take(self, series: Series) -> Series:
        """The pixels on the line: a series (H, W, T, ...) -> x-t profile (pixels along the line, T, ...)."""
        return series[self.position] if self.axis == 0 else series[:, self.position]


class HeartRegion(NamedTuple):
    """A box around the heart, empty where nothing moves.

    Attributes:
        rows: Along the readout, start and stop (exclusive).
        columns: Along the phase encode.
        line: Row or column through the center of the box, of the two the one whose pixels change more.
    """

    rows: slice
    columns: slice
    line: Profile

    @property
    def is_empty(self) -> bool:
        """Whether nothing moves."""
        return self.rows.start == self.rows.stop

    def crop(self, series: Series, margin: int = 0) -> Series:
        """The part of a series (H, W, ...) in the box, with ``margin`` pixels around it as far as there are any."""
        if self.is_empty:
            margin = 0
        rows, columns = (slice(max(s.start - margin, 0), s.stop + margin) for s in (self.rows, self.columns))
        return series[rows, columns]

    def profile(self, series: Series) -> Series:
        """The x-t profile along ``line``, from one side of the box to the other: (pixels, T, ...)."""
        along = self.columns if self.line.axis == 0 else self.rows
        return self.line.take(series)[along]


def heart_region(target: Union[np.ndarray, torch.Tensor]) -> HeartRegion:
    """Finds the heart by its temporal variance.

    The variance of the magnitude over time is smoothed a little, so that a single noisy pixel does not count, and
    weighted by a wide window, since an exam is planned with the heart near the center. What exceeds the variance at
    rest (the median over the image) by an eighth of the largest excess moves. Moving parts close to each other (the
    walls on both sides of a ventricle) belong together, and of such groups the one with the largest sum of variance is
    the heart: in a small vessel the variance may well be larger. The region is the box that holds all of it but its
    tails, with a margin.

    A slice that does not move more than noise would has no heart: the region is empty.

    Args:
        target: Magnitudes (H, W, T): readout, phase encode, cardiac phases.

    Returns:
        HeartRegion: In pixels.
    """
    series = np.asarray(target, dtype=np.float64)
    height, width, _ = series.shape
    size = float(np.sqrt(height * width))
    variance = ndimage.gaussian_filter(series.var(axis=-1), max(_SMOOTHING * size, 1.0))
    at_rest = np.median(variance)
    excess = variance - at_rest
    noise = 1.4826 * np.median(np.abs(excess))  # a standard deviation, from the median absolute deviation
    least = max(_SIGNIFICANT * noise, _RELEVANT * at_rest, (_SMALLEST * float(np.max(series))) ** 2)
    if not excess.max() > least:
        return HeartRegion(slice(0, 0), slice(0, 0), Profile(0, height // 2))

    weighted = excess * np.multiply.outer(_center_window(height), _center_window(width))
    moving = np.where((excess > least) & (weighted > _THRESHOLD * weighted.max()), weighted, 0)
    reach = max(round(_REACH * size), 1)
    group_of, num_groups = ndimage.label(_within(reach, moving > 0))
    sums = ndimage.sum_labels(moving, group_of, np.arange(1, num_groups + 1))
    moving[group_of != np.argmax(sums) + 1] = 0
    rows, columns = (_extent(moving.sum(axis=axis), reach) for axis in (1, 0))
    lines = [Profile(axis, (s.start + s.stop) // 2) for axis, s in enumerate((rows, columns))]
    changes = [HeartRegion(rows, columns, line).profile(series).var(axis=-1).sum() for line in lines]
    return HeartRegion(rows, columns, lines[int(np.argmax(changes))])


def _center_window(length: int) -> np.ndarray:
    position = (np.arange(length) + 0.5) / length - 0.5
    return np.exp(-0.5 * (position / _WINDOW) ** 2)


def _within(reach: int, mask: np.ndarray) -> np.ndarray:
    """The pixels at most ``reach`` from one of the mask."""
    return ndimage.distance_transform_edt(~mask) <= reach


def _extent(weights: np.ndarray, margin: int) -> slice:
    """The range that holds ``weights`` but for its tails, with a margin, inside the image."""
    cumulated = np.cumsum(weights) / weights.sum()
    first, last = np.searchsorted(cumulated, [_TAIL, 1 - _TAIL])
    return slice(max(int(first) - margin, 0), min(int(last) + 1 + margin, len(weights)))
