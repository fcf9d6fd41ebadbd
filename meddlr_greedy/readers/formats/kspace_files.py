"""HDF5 files of k-space in the layout of scan files, meddlr's or this package's own, that lack coil maps."""

from pathlib import Path
from typing import Dict, List

import numpy as np

from meddlr_greedy.data.scan_file import ScanHeader, check_mask, read_header, read_slice
from meddlr_greedy.errors import UserError
from meddlr_greedy.hdf5 import reading_hdf5
from meddlr_greedy.limits import check_memory
from meddlr_greedy.ops.axes import CINE_AXES
from meddlr_greedy.readers.formats.sampled import not_zero
from meddlr_greedy.readers.formats.suited import FASTMRI_HEADER, is_ismrmrd_group, suited_command
from meddlr_greedy.readers.raw_scan import RawScan, RawSlice, stem

__all__ = ["open_scan"]


def open_scan(path: Path, undersampled: bool) -> RawScan:
    """Opens an HDF5 file.

    The attributes of scan files (``subject_id``, spacings, frame time, where slices lie) are kept.

    Args:
        path: The file.
        undersampled: Whether it is undersampled on purpose; so is one whose mask has zeros.

    Raises:
        UserError: The file cannot be used, or has maps.
    """
    _refuse_other_formats(path)
    header = read_header(str(path), for_training=False, needs_maps=False)
    if "maps" in header.contents:
        raise UserError(f"{path}: found maps in it, allowed a file without: it can be used as it is")
    check_memory(f"{path}: kspace: a slice", 8 * int(np.prod(header.shape[1:], dtype=object)))
    subject = header.attributes.get("subject_id", "")
    subject = subject.decode("utf-8", "replace") if isinstance(subject, bytes) else str(subject)
    has_mask = "mask" in header.contents
    notes = [f"{path}: its target is not kept: one of the new maps is made"] if "target" in header.contents else []
    return RawScan(
        path=path,
        subject_id=subject or stem(path),
        num_slices=header.shape[0],
        load_slice=lambda slice_id: _load_slice(path, slice_id, header),
        names_subject=bool(subject),
        is_cine=header.is_cine,
        undersampled=undersampled or (has_mask and not _is_full(path, header)),
        pixel_spacing_mm=header.geometry.pixel_spacing_mm,
        slice_spacing_mm=header.slice_spacing_mm,
        frame_time_ms=header.geometry.frame_time_ms,
        placement=header.placement,
        notes=tuple(notes),
    )


def _refuse_other_formats(path: Path) -> None:
    with reading_hdf5(path) as file:
        if FASTMRI_HEADER in file:
            raise UserError(
                f"{path}: found {FASTMRI_HEADER} in it, allowed kspace without a header of fastMRI"
                f"{suited_command(file)}"
            )
        if any(is_ismrmrd_group(file, name) for name in file):
            raise UserError(f"{path}: found an ISMRMRD group in it, allowed kspace{suited_command(file)}")


def _is_full(path: Path, header: ScanHeader) -> bool:
    """Whether the mask of a file has no zeros."""
    return all(_read(path, slice_id, ["mask"])["mask"].all() for slice_id in range(header.shape[0]))


def _read(path: Path, slice_id: int, names: List[str]) -> Dict[str, np.ndarray]:
    arrays = read_slice(str(path), slice_id, names)
    if "mask" in arrays:
        check_mask(str(path), slice_id, "mask", arrays["mask"])
    return arrays


def _load_slice(path: Path, slice_id: int, header: ScanHeader) -> RawSlice:
    arrays = _read(path, slice_id, ["kspace", *(["mask"] if "mask" in header.contents else [])])
    if len(header.shape) != CINE_AXES:
        arrays = {name: array[:, :, None] for name, array in arrays.items()}
    kspace = arrays["kspace"]
    if "mask" not in arrays:
        return RawSlice(kspace, not_zero(kspace))
    # Where nothing was sampled values are of no meaning.
    return RawSlice(kspace * (arrays["mask"] != 0), arrays["mask"][..., 0] != 0)
