"""Simulated scans: k-space of magnitude images, as if it had been measured.

The steps of a slice: magnitude -> smooth phase -> coil sensitivities -> k-space at the full matrix -> center of k-space
(the field of view stays, the resolution drops, as a scanner would acquire it) -> noise.

A slice depends on the seed, the name of the scan and its own index. It does not depend on the split, or on what was
simulated before.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Tuple

import numpy as np

from meddlr_greedy.errors import check
from meddlr_greedy.headers.placement import Placement
from meddlr_greedy.ops.acquisition import (
    acquire,
    coil_sensitivities,
    noise_reference,
    random_smooth_phase,
    seeded_generator,
)
from meddlr_greedy.readers.acquisition import Acquisition, check_simulated
from meddlr_greedy.readers.raw_scan import RawScan, RawSlice, stem

__all__ = ["CineSeries", "acquired_spacing", "simulated_scan"]


@dataclass(frozen=True)
class CineSeries:
    """Cine images of one subject.

    Args:
        magnitude: Shape (S, T, H, W), real, finite and not negative.
        pixel_spacing_mm: Along H and W, where known.
        slice_spacing_mm: From the center of a slice to that of the next, of a single one its thickness, where known.
        frame_time_ms: Time between cardiac phases, where known.
        placement: Where the slices lie in the patient, where known.
        dicom: What is kept of the study, see :mod:`meddlr_greedy.headers.study`.
        path: The file or folder; its stem seeds the simulation.
        other_files: As in :class:`RawScan`.
        subject_id: Whom the images show.
        names_subject: Whether the file says so; else ``subject_id`` is its name.
        notes: What a user should know of the file.
    """

    magnitude: np.ndarray
    pixel_spacing_mm: Optional[Tuple[float, float]] = None
    slice_spacing_mm: Optional[float] = None
    frame_time_ms: Optional[float] = None
    placement: Optional[Placement] = None
    dicom: Mapping[str, Any] = field(default_factory=dict)
    path: Path = Path()
    other_files: Tuple[Path, ...] = ()
    subject_id: str = ""
    names_subject: bool = False
    notes: Tuple[str, ...] = ()


def simulated_scan(
    series: CineSeries, acquisition: Acquisition, acquired_matrix: Optional[Sequence[int]] = None
) -> RawScan:
    """A scan whose slices are simulated where they are loaded.

    Args:
        series: The images.
        acquisition: How k-space is acquired.
        acquired_matrix: Points (H, W) that the scanner acquired, where its images are interpolated to a larger matrix:
            outside lie no measured data. By default the matrix of the images.

    Raises:
        UserError: A matrix does not fit.
    """
    _check_matrices(series, acquisition, acquired_matrix)
    num_frames, *shape = series.magnitude.shape[1:]
    check_simulated(series.path, acquisition, shape, num_frames)
    noise_std = acquisition.noise * noise_reference(series.magnitude)
    name = stem(series.path)
    name = name if name == series.subject_id else f"{series.subject_id}/{name}"

    def load(slice_id: int) -> RawSlice:
        kspace = _acquire_slice(series.magnitude[slice_id], acquisition, noise_std, name, slice_id)
        return RawSlice(kspace, np.ones((1, *kspace.shape[1:3]), bool))

    return RawScan(
        path=series.path,
        subject_id=series.subject_id,
        num_slices=len(series.magnitude),
        load_slice=load,
        names_subject=series.names_subject,
        other_files=series.other_files,
        pixel_spacing_mm=acquired_spacing(series.pixel_spacing_mm, series.magnitude.shape[-2:], acquisition.matrix),
        slice_spacing_mm=series.slice_spacing_mm,
        frame_time_ms=series.frame_time_ms,
        placement=series.placement,
        dicom=series.dicom,
        notes=series.notes,
    )


def _acquire_slice(
    magnitude: np.ndarray, acquisition: Acquisition, noise_std: float, name: str, slice_id: int
) -> np.ndarray:
    """From magnitude (T, H0, W0) to k-space (H, W, T, C)."""
    shape, seed = (magnitude.shape[1], magnitude.shape[2]), acquisition.seed
    phase = random_smooth_phase(shape, len(magnitude), seeded_generator(seed, name, "phase", slice_id))
    kspace = acquire(
        magnitude * np.exp(1j * phase),
        coil_sensitivities(shape, acquisition.coils, seeded_generator(seed, name, "coils")),
        acquisition.matrix,
        noise_std,
        seeded_generator(seed, name, "noise", slice_id),
    )
    return np.ascontiguousarray(kspace.transpose(2, 3, 1, 0))


def acquired_spacing(
    spacing_mm: Optional[Tuple[float, float]], shape: Sequence[int], matrix: Sequence[int]
) -> Optional[Tuple[float, float]]:
    """Pixel spacing in mm at the acquired ``matrix``, of images of ``shape`` (H, W) and the same field of view."""
    if spacing_mm is None:
        return None
    spacing = np.asarray(spacing_mm) * shape / matrix
    return float(spacing[0]), float(spacing[1])


def _check_matrices(series: CineSeries, acquisition: Acquisition, acquired_matrix: Optional[Sequence[int]]) -> None:
    full = series.magnitude.shape[-2:]
    acquired = tuple(acquired_matrix or full)
    check(
        all(8 <= n <= limit for n, limit in zip(acquired, full)),
        "--acquired-matrix",
        acquired,
        f"8 to {tuple(full)}, the matrix of {series.path}",
    )
    check(
        all(n <= limit for n, limit in zip(acquisition.matrix, acquired)),
        "--matrix",
        acquisition.matrix,
        f"up to the acquired matrix {acquired} of {series.path}, since k-space holds nothing beyond",
    )
