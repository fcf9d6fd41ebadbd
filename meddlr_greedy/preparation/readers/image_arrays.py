"""Cine images in npy and npz files."""

import os
import zipfile
from pathlib import Path
from typing import IO, Dict, Optional, Tuple

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.limits import check_declared, check_memory, is_length
from meddlr_greedy.preparation.raw_scan import stem
from meddlr_greedy.preparation.readers.image_series import checked_magnitude
from meddlr_greedy.preparation.simulate import CineSeries

__all__ = ["ARRAYS", "load_series"]

ARRAYS = (".npy", ".npz")
_KEYS = ("magnitude", "pixel_spacing_mm", "trigger_time_ms")


def load_series(path: os.PathLike) -> CineSeries:
    """Reads the cine images of one subject from arrays.

    Args:
        path: ``.npy`` with the magnitude (slice, phase, row, column), or ``.npz`` with it as ``magnitude`` and
            optionally ``pixel_spacing_mm`` (2,) and ``trigger_time_ms`` (..., phase).
            Rows are the readout, columns the phase encodes.

    Raises:
        UserError: where the file is missing, unreadable, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in ARRAYS:
        raise UserError(f"{path}: found a '{path.suffix}' file, allowed .npy or .npz")
    with reading(path, f"a readable {suffix} file of plain arrays"):
        arrays = {"magnitude": _npy(path)} if suffix == ".npy" else _npz(path)
    if "magnitude" not in arrays:
        raise UserError(f"{path}: no array 'magnitude'; found {', '.join(arrays) or 'none'}")

    magnitude, notes = checked_magnitude(path, arrays["magnitude"])
    num_frames = magnitude.shape[1]
    spacing = _optional(path, arrays, "pixel_spacing_mm", (2,))
    if spacing is not None and not all(map(is_length, spacing)):
        raise UserError(
            f"{path}: pixel_spacing_mm: found {spacing[0]:g} {spacing[1]:g}, allowed above 0, in proportion"
        )
    trigger = _optional(path, arrays, "trigger_time_ms", (..., num_frames))
    if trigger is not None and not (np.diff(trigger) > 0).all():
        raise UserError(f"{path}: trigger_time_ms: found times that do not increase from phase to phase")
    return CineSeries(
        magnitude=magnitude,
        pixel_spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        frame_time_ms=None if trigger is None or num_frames < 2 else float(np.diff(trigger).mean()),
        path=path,
        subject_id=stem(path),
        notes=tuple(notes),
    )


def _npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        _check_header(path, file, path.stat().st_size)
        file.seek(0)
        return np.load(file, allow_pickle=False)


def _npz(path: Path) -> Dict[str, np.ndarray]:
    """The arrays that are used; of the others, their names with nothing in them."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        arrays = {Path(name).stem: np.zeros(0) for name in members}
        for key in _KEYS:
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


def _optional(path: Path, arrays: Dict[str, np.ndarray], key: str, shape: Tuple) -> Optional[np.ndarray]:
    if key not in arrays:
        return None
    array = arrays[key]
    fits = array.shape[-1:] == shape[1:] if shape[0] is ... else array.shape == shape
    if not fits or not array.size or array.dtype.kind not in "uif" or not np.isfinite(array).all():
        allowed = str(shape).replace("Ellipsis", "...")
        raise UserError(
            f"{path}: {key}: found {array.dtype} of shape {array.shape}, allowed finite numbers of shape {allowed}"
        )
    return array if array.dtype.kind == "f" else array.astype(float)  # differences of unsigned integers wrap around
