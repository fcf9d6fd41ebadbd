"""Cine images in files of MATLAB."""

import re
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.formats.image_arrays import BESIDE_IMAGES, series_of
from meddlr_greedy.readers.formats.mat_file import MatArray, mat_arrays
from meddlr_greedy.readers.simulation.simulated_scan import CineSeries

__all__ = ["MAT", "holds_images", "load_mat"]

MAT = ".mat"
#: What the images are called, where several arrays have their axes; in lower case.
_NAMES = ("magnitude", "img", "image", "images", "cine", "data")
_KSPACE = re.compile(r"k[-_]?space|k[-_]?data|ksp|kus", re.IGNORECASE)
_MOST_SHOWN = 6  # variables in a message
_AXES = {4: "(row, column, slice, phase)", 3: "(row, column, phase), a single slice"}


def load_mat(path: Path, variable: Optional[str] = None) -> CineSeries:
    """Reads the cine images of one subject from a MAT file of version 5 to 7.3.

    Args:
        path: The file. In it is an array of MATLAB's size (row, column, slice, phase), or (row, column, phase) for a
            single slice, and optionally the arrays of :func:`series_of`. Rows are the readout, columns the phase
            encodes. The magnitude is taken of complex images.
        variable: Its name. By default it is the only array of 3 or 4 axes, or the only such one of a usual name.

    Raises:
        UserError: where the file is missing, unreadable, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    arrays = mat_arrays(path)
    images = _images(path, arrays, variable)
    images.check()
    axes = len(images.shape)
    size = " x ".join(map(str, images.shape[::-1]))
    notes = [f"{path}: {images.name} of {size} taken for {_AXES[axes]}"]
    values = images.read()
    if images.kind == "complex":
        notes.append(f"{path}: {images.name} is complex, its magnitude is taken")
        values = np.abs(values)
    if axes == 3:
        values = values[:, None]
    beside = {name: _beside(arrays[name]) for name in BESIDE_IMAGES if name in arrays}
    return series_of(path, np.ascontiguousarray(values.transpose(1, 0, 3, 2)), beside, notes)


def holds_images(path: Path) -> bool:
    """Whether a MAT file has an array that may be images; one that is damaged counts as such, to be told of."""
    try:
        return bool(_candidates(mat_arrays(path)))
    except UserError:
        return True


def _candidates(arrays: Dict[str, MatArray]) -> List[MatArray]:
    return [a for a in arrays.values() if a.kind in ("real", "complex") and len(a.shape) in _AXES]


def _images(path: Path, arrays: Dict[str, MatArray], variable: Optional[str]) -> MatArray:
    named = [f"{name} ({array})" for name, array in arrays.items()] or ["nothing"]
    more = f" and {len(named) - _MOST_SHOWN} more" if len(named) > _MOST_SHOWN else ""
    listed = ", ".join(named[:_MOST_SHOWN]) + more
    found = _candidates(arrays)
    if variable is not None:
        found = [array for array in found if array.name == variable]
        if not found:
            raise UserError(f"{path}: --variable: found no numbers of 3 or 4 axes of the name '{variable}' in {listed}")
        return found[0]
    if len(found) > 1:
        found = [array for array in found if array.name.lower() in _NAMES] or found
    if len(found) != 1:
        hint = "; --variable tells which" if found else ""
        raise UserError(f"{path}: found {listed}, allowed one array of numbers of 3 or 4 axes{hint}")
    if found[0].kind == "complex" and _KSPACE.search(found[0].name):
        raise UserError(
            f"{path}: found {found[0].name}, k-space by its name, allowed images; `prepare cmrxrecon` reads k-space, "
            "and --variable takes it for images all the same"
        )
    return found[0]


def _beside(array: MatArray) -> np.ndarray:
    """Numbers that tell of the images; MATLAB knows no vectors, but rows and columns."""
    if array.kind != "real":
        raise UserError(f"{array.path}: {array.name}: found {array}, allowed real numbers")
    array.check()
    values = array.read().T.squeeze()
    return values[None] if array.name == "position_mm" and values.ndim == 1 else values
