"""What a reader hands over is checked, whatever its format."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Mapping

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.headers.placement import check_placement
from meddlr_greedy.headers.study import ATTRIBUTE, check_study
from meddlr_greedy.limits import MOST_SLICES, check_memory, is_length
from meddlr_greedy.readers.raw_scan import RawScan, RawSlice
from meddlr_greedy.readers.reader import Reader

__all__ = ["check_scan", "check_slice", "checked_scan"]


def checked_scan(reader: Reader, path: Path, options: Mapping[str, Any]) -> RawScan:
    """Opens a scan; what the reader says of it is checked now, and its slices when they are loaded.

    Args:
        reader: The reader.
        path: One of the scans that it found.
        options: For its ``open_scan``.

    Raises:
        UserError: The scan cannot be used; names the file, whatever went wrong.
    """
    # Values that are not finite are refused where they arise, or later.
    with reading(path), np.errstate(all="ignore"):
        scan = reader.open_scan(path, **options)
        check_scan(scan)
    return replace(scan, load_slice=_checking(path, scan.load_slice, scan.is_cine))


def _checking(path: Path, load_slice: Callable[[int], RawSlice], is_cine: bool) -> Callable[[int], RawSlice]:
    """``load_slice``, whose arrays are checked, and whose failures are told in one line that names the file."""

    def load(slice_id: int) -> RawSlice:
        with reading(path), np.errstate(all="ignore"):
            raw = load_slice(slice_id)
            check_slice(f"{path}: slice {slice_id}", raw, is_cine)
            return raw

    return load


def check_scan(scan: RawScan) -> None:
    """Checks what a reader says of a scan, whatever its format.

    Raises:
        UserError: There are no slices or absurdly many, a spacing or the frame time cannot be one, the placement is
            none of these slices, or what is kept of the study cannot be.
    """
    if not 1 <= scan.num_slices <= MOST_SLICES:
        raise UserError(f"{scan.path}: found {scan.num_slices} slices, allowed 1 to {MOST_SLICES}")
    for name, found in (
        ("pixel spacing in mm", scan.pixel_spacing_mm),
        ("slice spacing in mm", scan.slice_spacing_mm),
        ("frame time in ms", scan.frame_time_ms),
    ):
        for value in found if isinstance(found, tuple) else () if found is None else (found,):
            if not is_length(value):
                raise UserError(f"{scan.path}: {name}: found {value:g}, allowed a positive number in proportion")
    wrong = check_placement(scan.placement.as_attributes() if scan.placement else {}, scan.num_slices)
    if wrong:
        raise UserError(f"{scan.path}: {wrong}")
    wrong = check_study(scan.dicom)
    if wrong:
        raise UserError(f"{scan.path}: {ATTRIBUTE}: {wrong}")


def check_slice(where: str, raw: RawSlice, is_cine: bool = True) -> None:
    """Checks the arrays that a reader gives for a slice, whatever its format.

    Args:
        where: The file and slice, for messages.
        raw: The slice.
        is_cine: Whether it may have several cardiac phases.

    Raises:
        UserError: Their types or shapes are not those of :class:`RawSlice`, or k-space is not finite.
    """
    kspace, sampled = raw.kspace, raw.sampled
    if kspace.dtype != np.complex64 or kspace.ndim != 4 or 0 in kspace.shape:
        raise UserError(f"{where}: k-space: found {kspace.dtype} of shape {kspace.shape}, allowed complex64 of 4 axes")
    if not is_cine and kspace.shape[2] != 1:
        raise UserError(f"{where}: k-space: found {kspace.shape[2]} cardiac phases, allowed 1 in a static scan")
    height, *others = kspace.shape[:3]
    if sampled.dtype != bool or sampled.shape not in ((1, *others), (height, *others)):
        raise UserError(
            f"{where}: sampled: found {sampled.dtype} of shape {sampled.shape}, allowed bool (H or 1, W, T) of k-space "
            f"{kspace.shape}"
        )
    if raw.calibration is not None:
        plane = (*kspace.shape[:2], kspace.shape[3])
        found = [(array.dtype, array.shape) for array in raw.calibration]
        if found != [(np.dtype(np.complex64), plane), (np.dtype(bool), plane[:2])]:
            raise UserError(f"{where}: calibration: found {found}, allowed complex64 {plane} and bool {plane[:2]}")
    check_memory(where, 4 * kspace.nbytes)
    if not np.isfinite(kspace).all():
        raise UserError(f"{where}: found NaN or infinite values in k-space, allowed finite ones")
