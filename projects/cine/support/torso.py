"""A phantom that is larger than the field of view, as the body is in a long-axis view."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import torch

from meddlr_greedy.ops.fft import centered_fft, centered_ifft
from meddlr_greedy.readers.phantom import PhantomReader
from meddlr_greedy.readers.raw_scan import RawScan, RawSlice

__all__ = ["TorsoReader", "seen_by_scanner"]


class TorsoReader(PhantomReader):
    """The phantom of the package in a field of view that is smaller than its body.

    It has one option more: ``seen``, the points (H, W) of the field of view, at the center of ``matrix``.
    """

    command = "torso"

    def check_options(self, slices: int = 3, frames: int = 12, **options: Any) -> None:
        """Refuses what the phantom refuses."""
        super().check_options(slices, frames, **{name: value for name, value in options.items() if name != "seen"})

    def open_scan(self, path: Path, slices: int = 3, frames: int = 12, **options: Any) -> RawScan:
        """A subject, see the class."""
        scan = super().open_scan(path, slices, frames, **{key: options[key] for key in options if key != "seen"})

        def load(slice_id: int) -> RawSlice:
            kspace = seen_by_scanner(scan.load_slice(slice_id).kspace, options["seen"])
            return RawSlice(kspace, np.ones((1, *kspace.shape[1:3]), bool))

        return replace(scan, load_slice=load)


def seen_by_scanner(kspace: np.ndarray, matrix: Tuple[int, int]) -> np.ndarray:
    """k-space of a field of view around the center of an object that is larger.

    Along the readout, what lies outside is cut off, as by a scanner that samples more densely and drops the outer
    part of the image. Along phase encode it folds in at the opposite edge.

    Args:
        kspace: Of the whole object, complex64, shape (H0, W0, T, C).
        matrix: Points (H, W) of the field of view, at most as many.

    Returns:
        ndarray: Shape (H, W, T, C), of the same intensities.
    """
    image = centered_ifft(torch.from_numpy(kspace), dims=(0, 1)).numpy()
    (height, width), (top, left) = matrix, (whole // 2 - n // 2 for whole, n in zip(kspace.shape, matrix))
    seen = np.zeros((height, width, *kspace.shape[2:]), np.complex64)
    for column in range(kspace.shape[1]):
        seen[:, (column - left) % width] += image[top : top + height, column]
    return centered_fft(torch.from_numpy(seen), dims=(0, 1)).numpy()
