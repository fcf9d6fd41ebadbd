"""Cine images in npy and npz files, and what may be said of images in arrays beside them."""

import os
import zipfile
from pathlib import Path
from typing import IO, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.headers.placement import Placement, check_placement, slice_spacing
from meddlr_greedy.limits import check_declared, check_memory, is_length
from meddlr_greedy.readers.formats.image_series import checked_magnitude
from meddlr_greedy.readers.raw_scan import stem
from meddlr_greedy.readers.simulation.simulated_scan import CineSeries

__all__ = ["ARRAYS", "BESIDE_IMAGES", "load_series", "series_of"]

ARRAYS = (".npy", ".npz")
_PLACEMENT = ("position_mm", "readout_direction", "phase_direction")
#: Names of arrays that tell of the images.
BESIDE_IMAGES = ("pixel_spacing_mm", "trigger_time_ms", "frame_time_ms", *_PLACEMENT)


def load_series(path: os.PathLike, variable: Optional[str] = None) -> CineSeries:
    """Reads the cine images of one subject from arrays.

    Args:
        path: ``.npy`` with the magnitude (slice, phase, row, column), or ``.npz`` with it as ``magnitude`` and
            optionally the arrays of :func:`series_of`. Rows are the readout, columns the phase encodes.
        variable: Name of the magnitude in a ``.npz`` file, where it is another one.

    Raises:
        UserError: where the file is missing, unreadable, or holds something else.
    """
    path, name = Path(path), variable or "magnitude"
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in ARRAYS:
        raise UserError(f"{path}: found a '{path.suffix}' file, allowed .npy or .npz")
    with reading(path, f"a readable {suffix} file of plain arrays"):
        arrays = {name: _npy(path)} if suffix == ".npy" else _npz(path, (name, *BESIDE_IMAGES))
    if name not in arrays:
        raise UserError(f"{path}: no array '{name}'; found {', '.join(arrays) or 'none'}")
    return series_of(path, arrays.pop(name), arrays)


def series_of(
    path: Path, magnitude: np.ndarray, arrays: Mapping[str, np.ndarray], notes: Sequence[str] = ()
) -> CineSeries:
    """The cine images of one subject, of arrays.

    Args:
        path: The file, for messages; its name is the subject.
        magnitude: (slice, phase, row, column). Rows are the readout, columns the phase encodes.
        arrays: What is known of it, as far as it is there: ``pixel_spacing_mm`` (2,), along rows and columns;
            ``trigger_time_ms`` (..., phase), or ``frame_time_ms``, from phase to phase; and, all together,
            ``position_mm`` (slice, 3), ``readout_direction`` (3,) and ``phase_direction`` (3,) of a
            :class:`Placement`. Others are left alone.
        notes: What there is to tell already.

    Raises:
        UserError: An array is not allowed.
    """
    magnitude, found_notes = checked_magnitude(path, magnitude)
    num_slices, num_frames = magnitude.shape[:2]
    spacing = _optional(path, arrays, "pixel_spacing_mm", (2,))
    if spacing is not None and not all(map(is_length, spacing)):
        raise UserError(
            f"{path}: pixel_spacing_mm: found {spacing[0]:g} {spacing[1]:g}, allowed above 0, in proportion"
        )
    placement = _placement(path, arrays, num_slices)
    return CineSeries(
        magnitude=magnitude,
        pixel_spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        slice_spacing_mm=None if placement is None else slice_spacing(placement.position_mm @ placement.normal),
        frame_time_ms=_frame_time(path, arrays, num_frames),
        placement=placement,
        path=path,
        subject_id=stem(path),
        notes=(*notes, *found_notes),
    )


def _frame_time(path: Path, arrays: Mapping[str, np.ndarray], num_frames: int) -> Optional[float]:
    trigger = _optional(path, arrays, "trigger_time_ms", (..., num_frames))
    if trigger is not None and not (np.diff(trigger) > 0).all():
        raise UserError(f"{path}: trigger_time_ms: found times that do not increase from phase to phase")
    step = _optional(path, arrays, "frame_time_ms", ())
    if step is not None and not is_length(float(step)):
        raise UserError(f"{path}: frame_time_ms: found {float(step):g}, allowed above 0, in proportion")
    if trigger is None:
        return None if step is None else float(step)
    if step is not None:
        raise UserError(f"{path}: found trigger_time_ms and frame_time_ms, allowed one of them")
    return None if num_frames < 2 else float(np.diff(trigger).mean())


def _placement(path: Path, arrays: Mapping[str, np.ndarray], num_slices: int) -> Optional[Placement]:
    found = {name: arrays[name] for name in _PLACEMENT if name in arrays}
    wrong = check_placement(found, num_slices)
    if wrong:
        raise UserError(f"{path}: {wrong}")
    return Placement.of(found)


def _npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        _check_header(path, file, path.stat().st_size)
        file.seek(0)
        return np.load(file, allow_pickle=False)


def _npz(path: Path, keys: Sequence[str]) -> Dict[str, np.ndarray]:
    """The arrays that are used; of the others, their names with nothing in them."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        arrays = {Path(name).stem: np.zeros(0) for name in members}
        for key in keys:
            info = members.get(f"{key}.npy")
            if info is None:
                if key in arrays:
                    raise UserError(f"{path}: {key}: found a member that is no .npy file, allowed an array")
                continue
            check_declared(f"{path}: {key}", info.file_size, info.compress_size)
            with archive.open(info) as file:
                _check_header(f"{path}: {key}", file, info.file_size)
            with archive.open(info) as file:
                arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
        return arrays


def _check_header(where: object, file: IO[bytes], num_bytes: int) -> None:
    """Checks that a npy file of a length holds the array that its header declares, before numpy makes room for it."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    declared = dtype.itemsize
    for size in shape:
        if size < 0:
            raise UserError(f"{where}: found the shape {shape}, allowed axes of 0 and more")
        declared *= size
    if declared > num_bytes and not dtype.hasobject:
        raise UserError(f"{where}: found {dtype} of shape {shape} in {num_bytes} bytes, truncated or damaged")
    check_memory(where, declared)


def _optional(path: Path, arrays: Mapping[str, np.ndarray], key: str, shape: Tuple) -> Optional[np.ndarray]:
    if key not in arrays:
        return None
    array = arrays[key]
    fits = array.shape[-1:] == shape[1:] if shape[:1] == (...,) else array.shape == shape
    if not fits or not array.size or array.dtype.kind not in "uif" or not np.isfinite(array).all():
        allowed = str(shape).replace("Ellipsis", "...")
        raise UserError(
            f"{path}: {key}: found {array.dtype} of shape {array.shape}, allowed finite numbers of shape {allowed}"
        )
    return array if array.dtype.kind == "f" else array.astype(float)  # differences of unsigned integers wrap around
