"""Scans as they were acquired, without targets."""

import hashlib
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from meddlr_greedy.data.scan_file import (
    check_mask,
    check_values,
    holds_values,
    read_header,
    read_slice,
    zeros_error,
)
from meddlr_greedy.errors import UserError
from meddlr_greedy.headers.placement import Placement
from meddlr_greedy.ops.axes import CINE_AXES
from meddlr_greedy.ops.parts import parts_of
from meddlr_greedy.reconstruction.nifti import LARGEST_AXIS

__all__ = ["AcquiredScan", "AcquiredSlice"]

_ROWS_READ = 64 * 10**6  # bytes at a time, where rows of k-space are read one after the other


class AcquiredSlice(NamedTuple):
    """A slice as it is in the file; cine, or without the axis T in 2D.

    Attributes:
        name: Of the scan.
        slice_id: Number of the slice.
        kspace: (H, W, T, C), complex64; zero, or of no meaning, where it is not sampled.
        maps: (H, W, 1, C, M), complex64.
        mask: (H, W, T, 1), float32; constant along H and expanded from one row if the file has no other.
    """

    name: str
    slice_id: int
    kspace: np.ndarray
    maps: np.ndarray
    mask: np.ndarray


class AcquiredScan:
    """An HDF5 file with ``kspace`` and ``maps``, as in :mod:`meddlr_greedy.data.scan_file`; a target is not needed.

    What is sampled is told by the dataset ``mask``, (S, 1, W, T, 1) or (S, H, W, T, 1), uint8 or float32. Without it,
    of a cine series the lines with any value that is not zero count as sampled (a Cartesian mask does not vary along
    the readout), of a 2D image the points.

    Args:
        path: The file; it is opened for each slice and not kept open.

    Raises:
        UserError: The file is missing, truncated, no HDF5, lacks an array, or its arrays disagree. Values are checked
            when a slice is read.
    """

    def __init__(self, path: str):
        self.path = path
        self.name = Path(path).stem
        header = read_header(path, for_training=False)
        if max(header.shape[:-1]) > LARGEST_AXIS:
            raise UserError(f"{path}: kspace has shape {header.shape}; NIfTI allows axes up to {LARGEST_AXIS}")
        self._contents = header.contents
        #: Shape of k-space, (S, H, W, T, C) or (S, H, W, C).
        self.shape: Tuple[int, ...] = header.shape
        self.num_maps: int = header.num_maps
        self.attributes: Dict[str, Any] = header.attributes
        self.geometry = header.geometry
        #: Where the slices lie in the patient, ``None`` where the file does not say.
        self.placement: Optional[Placement] = header.placement
        #: From the center of a slice to that of the next (their mean, where the file holds only the places), ``None``
        #: where the file does not say.
        self.slice_spacing_mm: Optional[float] = header.slice_spacing_mm
        if self.slice_spacing_mm is None and self.placement is not None and self.placement.are_apart:
            self.slice_spacing_mm = self.placement.step_mm

    def __len__(self) -> int:
        """Number of slices S."""
        return self.shape[0]

    @property
    def is_cine(self) -> bool:
        """Whether it is a series; else 2D images."""
        return len(self.shape) == CINE_AXES

    @property
    def affine(self) -> Optional[np.ndarray]:
        """From voxels to mm, see :meth:`~meddlr_greedy.headers.placement.Placement.affine`; ``None`` where unknown.

        Slices at one place have none, for they make no volume.
        """
        spacing = self.geometry.pixel_spacing_mm
        if self.placement is None or spacing is None or not self.placement.are_apart:
            return None
        return self.placement.affine(spacing, self.slice_spacing_mm, self.shape[1:3])

    def read(self, slice_id: int) -> AcquiredSlice:
        """Reads one slice.

        Raises:
            UserError: It cannot be read, or holds NaN, infinity or nothing but zeros.
        """
        arrays = self._read(slice_id, ("kspace", "maps", "mask"))
        check_values(self.path, slice_id, arrays)
        kspace, mask = arrays["kspace"], arrays.get("mask")
        if mask is not None:
            check_mask(self.path, slice_id, "mask", mask)
        mask = self._sampled(kspace, mask)
        if not (kspace * mask).any():
            raise self._no_signal(slice_id)
        return AcquiredSlice(self.name, slice_id, kspace, arrays["maps"], mask)

    def read_frames(self, slice_id: int, largest: int) -> Iterator[AcquiredSlice]:
        """Reads one slice of a cine series, some frames after the others.

        HDF5 files, as a rule, hold the frames of a point of k-space side by side, so that each part is a way through
        the whole slice.

        Args:
            slice_id: Number of the slice.
            largest: Bytes of k-space that are read at a time; a frame, if it is larger.

        Yields:
            The slice with ``kspace`` and ``mask`` of some frames.

        Raises:
            UserError: As :meth:`read`; what is wrong with the whole slice shows at its end.
        """
        arrays = self._read(slice_id, ("maps", "mask"))
        check_values(self.path, slice_id, arrays)
        whole_mask = arrays.get("mask")
        if whole_mask is not None:
            check_mask(self.path, slice_id, "mask", whole_mask)
        _, height, width, num_frames, num_coils = self.shape
        frame_bytes = height * width * num_coils * np.dtype(np.complex64).itemsize
        holds, has_signal = False, False
        for frames, _ in parts_of(num_frames, 1, frame_bytes, largest):
            part = (slice(None), slice(None), frames)
            kspace = read_slice(self.path, slice_id, ["kspace"], part)["kspace"]
            holds |= holds_values(self.path, slice_id, "kspace", kspace)
            mask = self._sampled(kspace, None if whole_mask is None else whole_mask[part])
            has_signal |= bool((kspace.any(axis=-1, keepdims=True) & (mask > 0)).any())
            yield AcquiredSlice(self.name, slice_id, kspace, arrays["maps"], mask)
        if not holds:
            raise zeros_error(self.path, slice_id, "kspace")
        if not has_signal:
            raise self._no_signal(slice_id)

    def _sampled(self, kspace: np.ndarray, mask: Optional[np.ndarray]) -> np.ndarray:
        """The mask (H, W, [T,] 1) as the file has it, else what of k-space (H, W, [T,] C) is not zero."""
        if mask is None:
            mask = (kspace != 0).any(axis=-1, keepdims=True)
            mask = mask.any(axis=0, keepdims=True) if self.is_cine else mask
        return np.broadcast_to(mask.astype(np.float32), (*kspace.shape[:-1], 1))

    def _no_signal(self, slice_id: int) -> UserError:
        return UserError(f"{self.path}: slice {slice_id}: kspace is zero on all sampled lines")

    def kspace_hash(self, slice_id: int) -> str:
        """SHA-256 of the k-space of one slice, which is read some rows after the others."""
        found = hashlib.sha256()
        row_bytes = int(np.prod(self.shape[2:])) * np.dtype(np.complex64).itemsize
        for rows, _ in parts_of(self.shape[1], 1, row_bytes, _ROWS_READ):
            found.update(read_slice(self.path, slice_id, ["kspace"], [rows])["kspace"].tobytes())
        return found.hexdigest()

    def read_target(self, slice_id: int) -> Optional[np.ndarray]:
        """The target of one slice, (H, W, T, M) or (H, W, M); ``None`` where the file holds none."""
        return self._read(slice_id, ("target",)).get("target")

    def _read(self, slice_id: int, names: Sequence[str]) -> Dict[str, np.ndarray]:
        return read_slice(self.path, slice_id, [name for name in names if name in self._contents])
