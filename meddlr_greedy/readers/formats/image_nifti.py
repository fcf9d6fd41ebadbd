"""Cine images in NIfTI files, of both versions, in one file or in a pair of header and data."""

import logging
import math
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.headers.placement import Placement
from meddlr_greedy.limits import LARGEST_LENGTH, check_declared, check_memory, is_length
from meddlr_greedy.readers.formats.image_series import checked_magnitude
from meddlr_greedy.readers.raw_scan import stem
from meddlr_greedy.readers.simulation.simulated_scan import CineSeries

__all__ = ["NIFTI", "data_of", "load_nifti"]

NIFTI = (".nii", ".nii.gz", ".hdr")
_MILLIMETERS = {"meter": 1e3, "mm": 1.0, "micron": 1e-3}
_MILLISECONDS = {"sec": 1e3, "msec": 1, "usec": 1e-3}
_TIME = 3  # its axis
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_LARGEST_HEADER = 16 << 20  # where data begin
_SAME_LENGTH = 1e-3  # relative; headers hold single precision, and programs round


def load_nifti(path: Path) -> CineSeries:
    """Reads a NIfTI file (x, y, slice, phase); further axes may be there, of length 1.

    Some programs write time as the fifth axis, and 1 as the fourth: then the time between phases is not known.
    The third axis is never taken for time, whatever its length: in NIfTI it is that of slices.

    Args:
        path: The file; of a pair its header, ``.hdr``, beside which lie the data, ``.img``.

    Raises:
        UserError: It is missing, unreadable, or holds something else than a cine series.
    """
    image, data = _loaded(path)
    found, is_fifth = data.shape, data.ndim == _TIME + 2 and data.shape[_TIME] == 1
    if is_fifth:
        data = data[:, :, :, 0]
    elif data.ndim > _TIME + 1 and {*data.shape[_TIME + 1 :]} == {1}:
        data = data.reshape(data.shape[: _TIME + 1])
    if data.ndim != _TIME + 1:
        no_phases = "no cardiac phases: " if data.ndim == _TIME else ""
        single = "; of a single slice (x, y, 1, phase)" if data.ndim == _TIME else ""
        raise UserError(f"{path}: {no_phases}found {len(found)} axes {found}, allowed (x, y, slice, phase){single}")

    step = _spacing(path, _TIME, image.header.get_zooms()[_TIME])
    in_milliseconds = _MILLISECONDS.get(image.header.get_xyzt_units()[1])
    frame_time = None
    if step is not None and in_milliseconds is not None and not is_fifth:
        frame_time = step * in_milliseconds
    magnitude = data.transpose(2, 3, 0, 1)
    affine = _affine(path, image.header)
    (first, second, between_slices), told = _spacings(path, image.header, affine)
    spacing: Optional[Tuple[float, float]] = None if first is None or second is None else (first, second)
    placement = None if affine is None else _placement(affine, magnitude.shape)
    # dim_info: which axes are readout and phase encode.
    if image.header.get_dim_info()[:2] in ((1, 0), (1, None), (None, 0)):
        magnitude, spacing = magnitude.swapaxes(2, 3), spacing and (spacing[1], spacing[0])
        if placement is not None:
            placement = Placement(placement.position_mm, placement.phase_direction, placement.readout_direction)
    magnitude, notes = checked_magnitude(path, np.ascontiguousarray(magnitude))
    notes += told
    if is_fifth:
        notes.append(f"{path}: phases are along the fifth axis, whose step is not said to be a time")
    return CineSeries(
        magnitude=magnitude,
        pixel_spacing_mm=spacing,
        slice_spacing_mm=between_slices,
        frame_time_ms=frame_time,
        placement=placement,
        path=path,
        other_files=tuple(data_of(path)),
        subject_id=stem(path),
        notes=tuple(notes),
    )


def _loaded(path: Path) -> Tuple[Any, np.ndarray]:
    """The image of nibabel, and its values."""
    import nibabel

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with reading(path, "a NIfTI file"), _quiet(nibabel.imageglobals.logger):
        image: Any = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Pair):  # what the classes of all forms of NIfTI derive from
            raise UserError(f"{path}: found {type(image).__name__}, allowed NIfTI")
        _check_size(path, image)
        return image, np.asanyarray(image.dataobj)


def data_of(header: Path) -> List[Path]:
    """The file of the data, of a header that is a file of its own; nothing where it is not there."""
    endings = {".hdr": ".img", ".HDR": ".IMG"}
    found = [header.with_suffix(endings[header.suffix])] if header.suffix in endings else []
    return [data for data in found if data.is_file()]


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """nibabel repairs headers and says so in lines of its own; what is used of them is checked here."""
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was_disabled


def _check_size(path: Path, image: Any) -> None:
    """Compares what the header declares with the file, before room is made for it."""
    shape = image.header.get_data_shape()
    if any(size < 1 for size in shape):
        raise UserError(f"{path}: dim: found {shape}, allowed axes of 1 and more")
    begin = float(image.dataobj.offset)
    if not 0 <= begin <= _LARGEST_HEADER:
        raise UserError(f"{path}: vox_offset: found {begin:g}, allowed 0 to {_LARGEST_HEADER}")
    num_bytes = math.prod(map(int, shape)) * image.get_data_dtype().itemsize
    check_declared(path, num_bytes, Path(image.file_map["image"].filename).stat().st_size)
    check_memory(path, num_bytes)


def _affine(path: Path, header: Any) -> Optional[np.ndarray]:
    """(4, 4), from voxels to mm in RAS: the sform where it is set, else the qform, as in viewers; else ``None``."""
    for affine, code in (header.get_sform(coded=True), header.get_qform(coded=True)):
        if not code:
            continue
        if affine is None or not np.isfinite(affine).all() or not np.abs(np.linalg.det(affine[:3, :3])) > 0:
            raise UserError(f"{path}: found an orientation that is none, allowed an invertible matrix (sform or qform)")
        return np.diag([*[_millimeters(header)] * 3, 1.0]) @ affine
    return None


def _millimeters(header: Any) -> float:
    """How many are in the unit of the header; what is of no unit is taken to be in mm."""
    return _MILLIMETERS.get(header.get_xyzt_units()[0], 1.0)


def _placement(affine: np.ndarray, shape: Tuple[int, ...]) -> Placement:
    """Of images (S, T, H, W)."""
    affine = _RAS_TO_LPS @ affine[:3]
    num_slices, _, height, width = shape
    middles = [(height // 2, width // 2, s, 1) for s in range(num_slices)]
    directions = affine[:, :2] / np.linalg.norm(affine[:, :2], axis=0)
    return Placement(np.array(middles) @ affine.T, *directions.T)


def _spacings(path: Path, header: Any, affine: Optional[np.ndarray]) -> Tuple[List[Optional[float]], List[str]]:
    """Along x, y and from slice to slice in mm, and what there is to tell of them.

    Viewers show what the matrix says. Where it says about the same as pixdim, the digits are those of pixdim.
    """
    zooms = [float(zoom) for zoom in header.get_zooms()[:3]]
    spacings = [_spacing(path, axis, zoom * _millimeters(header)) for axis, zoom in enumerate(zooms)]
    if affine is None:
        return spacings, []
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose([spacing or 0 for spacing in spacings], lengths, rtol=_SAME_LENGTH, atol=0):
        return spacings, []
    found, used = (" x ".join(f"{value:g}" for value in values) for values in (zooms, lengths))
    note = f"{path}: pixdim {found} does not agree with sform or qform, whose voxels of {used} mm are used"
    return [_spacing(path, axis, length) for axis, length in enumerate(lengths)], [note]


def _spacing(path: Path, axis: int, value: Any) -> Optional[float]:
    """``None`` where it is 0, which stands for a spacing that is not known."""
    if value == 0:
        return None
    if not is_length(value):
        raise UserError(f"{path}: pixdim: found {value:g} along axis {axis}, allowed 0 to {LARGEST_LENGTH:g}")
    return float(value)
