"""The slices that an evaluation keeps to be looked at: images in physical units, in a small HDF5 file."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

import h5py
import numpy as np

from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.errors import UserError
from meddlr_greedy.files import written_atomically

__all__ = ["IMAGES", "KeptSlice", "read_slices", "write_slices"]

#: The images of a kept slice, by their names in the file.
IMAGES = ("zero_filled", "reconstruction", "target")


class KeptSlice(NamedTuple):
    """One slice.

    Attributes:
        scan: Name of the scan.
        slice_id: Number of the slice in it.
        images: "zero_filled", "reconstruction" and "target" -> complex64 (H, W, M) or (H, W, T, M).
        geometry: Pixel spacing and frame time.
    """

    scan: str
    slice_id: int
    images: Dict[str, np.ndarray]
    geometry: Geometry = Geometry()


def write_slices(path: Path, slices: Sequence[KeptSlice]) -> None:
    """Writes ``/<scan>/<slice>/<image>`` datasets, whole or not at all."""
    with written_atomically(path) as partial, h5py.File(partial, "w") as file:
        for kept in slices:
            group = file.create_group(f"{kept.scan}/{kept.slice_id}")
            group.attrs.update(kept.geometry.as_attributes())
            for name in IMAGES:
                group[name] = kept.images[name]


def read_slices(path: Path) -> List[KeptSlice]:
    """Reads what :func:`write_slices` wrote.

    Raises:
        UserError: The file is missing or holds something else.
    """
    try:
        with h5py.File(path, "r") as file:
            return [
                KeptSlice(scan, int(number), {name: group[name][()] for name in IMAGES}, Geometry.of(group.attrs))
                for scan, of_scan in file.items()
                for number, group in sorted(of_scan.items(), key=lambda item: int(item[0]))
            ]
    except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: no file of images that eval_net wrote ({error}); evaluate the run again") from error
