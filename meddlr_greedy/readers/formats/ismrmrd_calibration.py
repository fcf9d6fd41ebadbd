"""Lines of an ISMRMRD file that were acquired for calibration: the center of k-space, for coil maps."""

from dataclasses import replace
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.formats.ismrmrd_header import Encoding, Header
from meddlr_greedy.readers.formats.ismrmrd_layout import READOUT_FIELDS, Layout, encoding_of, flagged

__all__ = ["CALIBRATION", "CALIBRATION_AND_IMAGING", "CalibrationLines", "calibration_lines", "centered"]

#: Flags by their names in ``ismrmrd.constants``. A line with both is a line of the image, too.
CALIBRATION = "ACQ_IS_PARALLEL_CALIBRATION"
CALIBRATION_AND_IMAGING = "ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING"

_SAME_FOV = 0.005  # relative: k-space on a grid that is finer or coarser by this is shifted by a tenth of a line


class CalibrationLines(NamedTuple):
    """Acquisitions of the calibration region of all slices.

    Attributes:
        indices: In the file.
        layout: Where they lie in k-space; their matrix may be another than that of the image.
    """

    indices: np.ndarray
    layout: Layout


def calibration_lines(
    path: Path, header: Header, encoding: Encoding, heads: np.ndarray, alone: np.ndarray, image: np.ndarray
) -> Tuple[Optional[CalibrationLines], List[str]]:
    """The lines of the calibration region, which may lie in an encoding space of their own.

    Where they lie between lines of the image (embedded), those of the image that are for calibration too belong to
    them: scanners acquire for calibration alone only what an undersampled image lacks.

    Args:
        path: The file, for messages.
        header: Its header.
        encoding: That of the image.
        heads: Of all acquisitions.
        alone: Indices of those for calibration alone.
        image: Indices of those of the image.

    Returns:
        The lines, ``None`` where there are none or they cannot be used; and in that case why.
    """
    if not alone.size:
        return None, []
    try:
        own = encoding_of(path, header, heads[alone])
        _check_grid(path, own, encoding)
        _check_coils(path, heads[alone], heads[image])
        shared = image[flagged(heads[image], CALIBRATION_AND_IMAGING)]
        fields = ("encoding_space_ref", *READOUT_FIELDS)
        is_alike = np.all([heads[field][shared] == heads[field][alone[0]] for field in fields], axis=0)
        indices = np.sort(np.concatenate([alone, shared[is_alike]]))
        own = _at_least_as_fine(own, encoding.height(encoding.matrix[0]))
        return CalibrationLines(indices, Layout.of(path, own, heads[indices])), []
    except UserError as error:
        reason = str(error).replace(f"{path}: ", "")
        return None, [f"{path}: {alone.size} acquisitions of calibration alone cannot be used: {reason}"]


def _check_grid(path: Path, own: Encoding, encoding: Encoding) -> None:
    for axis, found, allowed in (
        ("x", own.recon_fov_mm, encoding.recon_fov_mm),
        ("y", own.fov_mm[1], encoding.fov_mm[1]),
    ):
        if abs(found / allowed - 1) > _SAME_FOV:
            raise UserError(f"{path}: field of view along {axis}: found {found:g} mm, allowed {allowed:g} of the image")


def _at_least_as_fine(own: Encoding, height: int) -> Encoding:
    """The encoding with zeros around a short readout, until its images have at least ``height`` points along it.

    Oversampling is removed in the image. Coarse points there would cut off more at one end of the field of view than at
    the other, and other parts of it than in the image that the maps are for.
    """
    times = -(-height // own.height(own.matrix[0]))
    return replace(own, matrix=(times * own.matrix[0], own.matrix[1]))


def _check_coils(path: Path, found: np.ndarray, allowed: np.ndarray) -> None:
    for field in ("active_channels", "channel_mask"):
        if (found[field] != allowed[field][0]).any():
            raise UserError(f"{path}: {field}: found other coils than those of the image")


def centered(array: np.ndarray, matrix: Sequence[int]) -> np.ndarray:
    """Centered k-space (H, W, ...) on a matrix of another size: zeros are added around, or the edge is left out."""
    result = np.zeros((*matrix, *array.shape[2:]), array.dtype)
    target, source = [], []
    for size, wanted in zip(array.shape, matrix):
        first = wanted // 2 - size // 2  # where element 0 comes to lie
        begin, end = max(first, 0), min(first + size, wanted)
        target.append(slice(begin, end))
        source.append(slice(begin - first, end - first))
    result[tuple(target)] = array[tuple(source)]
    return result
