"""Augmentation of cine: readout crop with a jittered center, and flips along readout, phase encode and time.

It is applied to image, coil maps and k-space alike, so that the k-space of the augmented images is the augmented
k-space. Sandino et al., MRM 2021 (DL-ESPIRiT).
"""

from typing import NamedTuple, Optional, Sequence

import numpy as np
import torch

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.fft import centered_fft, centered_ifft

__all__ = ["Augmentation", "CineAugmentor", "mirrored"]


def mirrored(size: int) -> np.ndarray:
    """Returns the indices (size,) that mirror an axis at its center ``size // 2``, periodically.

    The centered FFT of a mirrored axis is the mirrored FFT. An axis of odd size is reversed; one of even size keeps its
    first element, which has no partner, in place.
    """
    return (2 * (size // 2) - np.arange(size)) % size


class Augmentation(NamedTuple):
    """Where the pixels of an augmented example come from: indices into the axes of the original."""

    rows: np.ndarray  #: along the readout; fewer than H where it is cropped
    lines: np.ndarray  #: along the phase encode, (W,)
    frames: np.ndarray  #: (T,)

    @classmethod
    def none(cls, shape: Sequence[int]) -> "Augmentation":
        """The identity on shape (H, W, T, ...)."""
        return cls(*(np.arange(size) for size in shape[:3]))

    def image(self, image: torch.Tensor) -> torch.Tensor:
        """Augments images (H, W, T, M), or maps (H, W, 1, C, M)."""
        frames = self.frames if image.shape[2] > 1 else np.arange(1)
        return _taken(_pixels_taken(image, self.rows, self.lines), frames, 2)

    def kspace(self, kspace: torch.Tensor) -> torch.Tensor:
        """Augments k-space (H, W, T, C)."""
        return self.readout(_taken(_taken(kspace, self.lines, 1), self.frames, 2))

    def readout(self, kspace: torch.Tensor) -> torch.Tensor:
        """Crops and mirrors k-space along its first axis, the readout: (H, ...) to (rows, ...).

        Nothing but the readout is looked at, so sampled lines alone may be given.
        """
        if len(self.rows) == len(kspace):
            return _taken(kspace, self.rows, 0)  # mirrored in k-space as in the image
        image = centered_ifft(kspace, dims=(0,))
        return centered_fft(_taken(image, self.rows, 0), dims=(0,))


class CineAugmentor:
    """Draws an :class:`Augmentation` for each example.

    Args:
        readout_crop: Points to keep along the readout; 0 keeps all.
        readout_jitter: Standard deviation of the center of the crop, in pixels; the crop stays inside the image.
        flip_probability: Probability of a flip, for each of readout, phase encode and time.
    """

    def __init__(self, readout_crop: int = 0, readout_jitter: float = 32.0, flip_probability: float = 0.0):
        self.readout_crop = readout_crop
        self.readout_jitter = readout_jitter
        self.flip_probability = flip_probability

    @classmethod
    def from_config(cls, cfg) -> Optional["CineAugmentor"]:
        """The augmentation of ``MISC.GREEDY``; None where it asks for none.

        Raises:
            UserError: The crop is smaller than a convolution of the network.
        """
        greedy = GreedyConfig.from_cfg(cfg)
        crop, kernel = greedy.CINE.READOUT_CROP, max(cfg.MODEL.UNROLLED.KERNEL_SIZE)
        if 0 < crop < kernel:
            raise UserError(
                f"MISC.GREEDY.CINE.READOUT_CROP: found {crop}, but convolutions of the network reach over {kernel}"
                f" readout points (MODEL.UNROLLED.KERNEL_SIZE); allowed is 0 (no crop), or {kernel} and more"
            )
        if not greedy.CINE.READOUT_CROP and not greedy.CINE.FLIP_PROBABILITY:
            return None
        return cls(greedy.CINE.READOUT_CROP, greedy.CINE.READOUT_CROP_JITTER, greedy.CINE.FLIP_PROBABILITY)

    def draw(self, shape: Sequence[int], rng: np.random.RandomState) -> Augmentation:
        """Draws the augmentation of an example of shape (H, W, T, ...).

        Raises:
            UserError: The readout is shorter than the crop.
        """
        height = shape[0]
        crop = self.readout_crop or height
        if crop > height:
            raise UserError(
                f"MISC.GREEDY.CINE.READOUT_CROP: found {crop}, but the data have {height} readout points; "
                f"0 (no crop) to {height} is allowed"
            )
        center = height // 2 + int(round(rng.normal(0, self.readout_jitter)))
        start = min(max(center - crop // 2, 0), height - crop)
        flip_rows, flip_lines, flip_frames = rng.uniform(size=3) < self.flip_probability
        rows, lines, frames = Augmentation.none((crop, *shape[1:3]))
        return Augmentation(
            rows=start + (mirrored(crop) if flip_rows else rows),
            lines=mirrored(len(lines)) if flip_lines else lines,
            frames=frames[::-1].copy() if flip_frames else frames,
        )


def _taken(x: torch.Tensor, index: np.ndarray, axis: int) -> torch.Tensor:
    """Takes the indices along an axis; returns ``x`` itself where that changes nothing."""
    if _is_identity(index, x.shape[axis]):
        return x
    if _is_identity(index[::-1], x.shape[axis]):
        return x.flip(axis)  # copies several times faster than index_select where the elements of an axis are small
    return x.index_select(axis, torch.from_numpy(index))


def _pixels_taken(x: torch.Tensor, rows: np.ndarray, lines: np.ndarray) -> torch.Tensor:
    """Takes indices along the first two axes of ``x``, (H, W, ...), in one copy; or ``x`` itself, as above."""
    height, width = x.shape[:2]
    if _is_identity(rows, height) and _is_identity(lines, width):
        return x
    places = torch.from_numpy(rows[:, None] * width + lines)
    return x.flatten(0, 1).index_select(0, places.flatten()).unflatten(0, places.shape)


def _is_identity(index: np.ndarray, size: int) -> bool:
    return np.array_equal(index, np.arange(size))
