"""One slice: from measured k-space to the arrays of the scan file."""

from dataclasses import replace
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np
import torch

from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.coils import compress_coils, geometric_compression, svd_compression
from meddlr_greedy.preparation.coil_maps import sense_arrays
from meddlr_greedy.preparation.missing_lines import complete
from meddlr_greedy.preparation.settings import LEAST_CALIB_WIDTH, Preparation
from meddlr_greedy.readers.raw_scan import Calibration, RawScan, RawSlice

__all__ = ["slice_arrays"]

_COMPRESSIONS: Dict[str, Optional[Callable]] = {
    "geometric": geometric_compression,
    "svd": svd_compression,
    "none": None,
}


def slice_arrays(scan: RawScan, slice_id: int, preparation: Preparation) -> Tuple[Dict[str, np.ndarray], List[str]]:
    """Loads and prepares one slice.

    Args:
        scan: The scan.
        slice_id: Index of the slice, from 0.
        preparation: What is done with k-space.

    Returns:
        The arrays as they lie in the file, and what the user should know about the slice.

    Raises:
        UserError: The slice cannot be used.
    """
    where = f"{scan.path}: slice {slice_id}"
    raw = scan.load_slice(slice_id)
    notes: List[str] = []
    if not raw.kspace.any():
        raise UserError(f"{where}: found nothing but zeros in k-space")
    if scan.undersampled:
        empty = np.flatnonzero(~raw.sampled.any(axis=(0, 1)))
        if empty.size:
            raise UserError(f"{where}: no line of cardiac phase {empty[0]}, allowed at least one of each")
    else:
        raw, notes = complete(raw, preparation.missing, where)
    coil_maps = preparation.coil_maps
    if scan.simulated:  # all of k-space is there, so a small matrix is calibration region as a whole
        coil_maps = replace(coil_maps, calib_width=min(coil_maps.calib_width, *raw.kspace.shape[:2]))
    calibration = _calibration(where, raw, coil_maps.calib_width)
    kspace, matrix = _compressed(raw.kspace, preparation)
    if raw.calibration is not None:
        used = "come from" if calibration is not None else "do not need"
        notes = [*notes, f"{where}: coil maps {used} the lines for calibration alone"]
    if calibration is None:
        count = raw.sampled.sum(axis=2)[..., None]
        kspace_calib = kspace.sum(axis=2) / np.maximum(count, 1).astype(np.float32)
    elif matrix is None:
        kspace_calib = calibration.kspace
    else:
        kspace_calib = compress_coils(torch.from_numpy(calibration.kspace), matrix).numpy()
    arrays = sense_arrays(kspace, kspace_calib, coil_maps, has_target=not scan.undersampled)
    if scan.undersampled:
        # What an asymmetric echo left out stays out, though coil compression spreads a little into it.
        arrays["kspace"] = kspace * raw.sampled[..., None]
        arrays["mask"] = raw.sampled[..., None].astype(np.uint8)
    return arrays, notes


def _calibration(where: str, raw: RawSlice, calib_width: int) -> Optional[Calibration]:
    """Of what the maps are estimated: ``None`` is the mean of the image's own k-space over the cardiac phases.

    Raises:
        UserError: Neither that nor what was acquired for calibration covers the calibration region.
    """
    height, width = raw.kspace.shape[:2]
    own = _covered(np.broadcast_to(raw.sampled.any(axis=2), (height, width)), calib_width)
    if own == calib_width:
        return None
    other = 0 if raw.calibration is None else _covered(raw.calibration.sampled, calib_width)
    if other == calib_width:
        return raw.calibration
    largest = max(own, other)
    raise UserError(
        f"{where}: calibration region of {calib_width} x {calib_width}: only the central {largest} x {largest} of "
        f"{height} x {width} was sampled, "
        + (
            f"allowed --calib {LEAST_CALIB_WIDTH} to {largest}"
            if largest >= LEAST_CALIB_WIDTH
            else f"and coil maps need {LEAST_CALIB_WIDTH} x {LEAST_CALIB_WIDTH} or more: no --calib will do"
        )
    )


def _covered(sampled: np.ndarray, most: int) -> int:
    """Width of the largest central square, up to ``most``, of which all was sampled; ``sampled`` is (H, W)."""
    height, width = sampled.shape

    def is_sampled(size: int) -> bool:
        top, left = height // 2 - size // 2, width // 2 - size // 2
        return bool(sampled[top : top + size, left : left + size].all())

    return next((size for size in range(min(height, width, most), 0, -1) if is_sampled(size)), 0)


def _compressed(kspace: np.ndarray, preparation: Preparation) -> Tuple[np.ndarray, Optional[torch.Tensor]]:
    """K-space of virtual coils, and the matrix that makes them; ``None`` where the coils stay."""
    compression, coils = _COMPRESSIONS[preparation.compression], preparation.coils
    if compression is None or coils is None or coils >= kspace.shape[-1]:
        return kspace, None
    measured = torch.from_numpy(kspace)
    matrix = compression(measured, coils)
    return compress_coils(measured, matrix).numpy(), matrix
