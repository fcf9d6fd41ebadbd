"""Scans as they were acquired, without targets."""

import os
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import h5py
import numpy as np

from meddlr_greedy.data.scan_file import CINE_AXES, PLAIN_AXES, Geometry, check_attributes, check_cartesian
from meddlr_greedy.errors import UserError

__all__ = ["AcquiredScan", "AcquiredSlice"]


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
    """An HDF5 file with ``kspace`` and ``maps``, as in :mod:`meddlr_greedy.data.dataset`; a target is not needed.

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
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file")
        try:
            with h5py.File(path, "r") as file:
                check_cartesian(path, file, "kspace")
                check_attributes(path, file)
                self._check_arrays(file)
                #: Shape of k-space, (S, H, W, T, C) or (S, H, W, C).
                self.shape: Tuple[int, ...] = file["kspace"].shape
                self.num_maps: int = file["maps"].shape[-1]
                self.attributes: Dict[str, Any] = dict(file.attrs)
        except OSError as error:
            raise UserError(f"{path}: truncated, or not an HDF5 file ({error})") from error
        self.geometry = Geometry.of(self.attributes)
        spacing = self.attributes.get("slice_spacing_mm")
        #: From the center of a slice to that of the next, ``None`` where the file does not say.
        self.slice_spacing_mm: Optional[float] = None if spacing is None else float(np.squeeze(spacing))

    def __len__(self) -> int:
        """Number of slices S."""
        return self.shape[0]

    @property
    def is_cine(self) -> bool:
        return len(self.shape) == CINE_AXES

    def __iter__(self) -> Iterator[AcquiredSlice]:
        """Reads the slices one after the other."""
        return (self.read(slice_id) for slice_id in range(len(self)))

    def read(self, slice_id: int) -> AcquiredSlice:
        """Reads one slice.

        Raises:
            UserError: It cannot be read, or holds NaN, infinity or nothing but zeros.
        """
        where = f"{self.path}: slice {slice_id}"
        arrays = self._arrays(slice_id, ("kspace", "maps", "mask"))
        kspace = arrays["kspace"]
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise UserError(f"{where}: {name} holds NaN or infinity")
            if not array.any():
                raise UserError(f"{where}: {name} holds nothing but zeros")
        mask = arrays.get("mask")
        if mask is None:
            mask = (kspace != 0).any(axis=-1, keepdims=True)
            mask = mask.any(axis=0, keepdims=True) if self.is_cine else mask
        elif not np.isin(mask, (0, 1)).all():
            raise UserError(f"{where}: mask holds values other than 0 and 1")
        mask = np.broadcast_to(mask.astype(np.float32), (*kspace.shape[:-1], 1))
        if not (kspace * mask).any():
            raise UserError(f"{where}: kspace is zero on all sampled lines")
        return AcquiredSlice(self.name, slice_id, kspace, arrays["maps"], mask)

    def read_target(self, slice_id: int) -> Optional[np.ndarray]:
        """The target of one slice, (H, W, T, M) or (H, W, M); ``None`` where the file holds none."""
        return self._arrays(slice_id, ("target",)).get("target")

    def _arrays(self, slice_id: int, names: Sequence[str]) -> Dict[str, np.ndarray]:
        try:
            with h5py.File(self.path, "r") as file:
                return {name: file[name][slice_id] for name in names if name in file}
        except OSError as error:
            raise UserError(f"{self.path}: slice {slice_id} cannot be read: truncated or damaged ({error})") from error

    def _check_arrays(self, file: h5py.File) -> None:
        for name in ("kspace", "maps"):
            if not isinstance(file.get(name), h5py.Dataset):
                raise UserError(f"{self.path}: no dataset '{name}' in it; found: {', '.join(file) or 'nothing'}")
            if file[name].dtype != np.complex64:
                raise UserError(f"{self.path}: {name} is {file[name].dtype}; only complex64 is allowed")
        kspace, maps = file["kspace"].shape, file["maps"].shape
        if len(kspace) not in (PLAIN_AXES, CINE_AXES) or 0 in kspace:
            raise UserError(
                f"{self.path}: kspace has shape {kspace}; allowed are (S, H, W, T, C) for cine and (S, H, W, C) for 2D"
            )
        frames = kspace[3:-1]
        self._check_shape("maps", maps, [(*kspace[:3], *(1 for _ in frames), kspace[-1], maps[-1] if maps else 1)])
        mask = file.get("mask")
        if mask is not None:
            if not isinstance(mask, h5py.Dataset) or mask.dtype not in (np.uint8, np.float32):
                raise UserError(
                    f"{self.path}: mask is {getattr(mask, 'dtype', 'a group')}; uint8 and float32 are allowed"
                )
            self._check_shape("mask", mask.shape, [(kspace[0], rows, *kspace[2:-1], 1) for rows in (1, kspace[1])])

    def _check_shape(self, name: str, found: Tuple[int, ...], allowed: Sequence[Tuple[int, ...]]) -> None:
        if found not in allowed:
            needed = " or ".join(map(str, allowed))
            raise UserError(
                f"{self.path}: {name} has shape {found}, which does not agree with kspace: {needed} is needed"
            )
