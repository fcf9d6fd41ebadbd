"""The beating-heart phantom as a scan: a subject is a name, and is drawn where its first slice is loaded."""

import functools
from pathlib import Path

import numpy as np

from meddlr_greedy.ops.acquisition import seeded_generator
from meddlr_greedy.readers.acquisition import Acquisition
from meddlr_greedy.readers.raw_scan import RawScan
from meddlr_greedy.readers.simulation.beating_heart import Anatomy, beating_heart
from meddlr_greedy.readers.simulation.canvas import FIELD_OF_VIEW_MM
from meddlr_greedy.readers.simulation.simulated_scan import CineSeries, acquired_spacing, simulated_scan

__all__ = ["phantom_scan"]


def phantom_scan(path: Path, slices: int, frames: int, settings: Acquisition) -> RawScan:
    """A subject, drawn when its first slice is loaded.

    Args:
        path: The name of the subject, which seeds it.
        slices: Number of slices S.
        frames: Number of cardiac phases T.
        settings: How k-space is acquired.
    """
    subject_id = path.name
    # Drawn finer than acquired: cropping k-space then blurs and rings as it does for a real object.
    shape = (2 * settings.matrix[0], 2 * settings.matrix[1])

    def anatomy() -> np.random.Generator:
        return seeded_generator(settings.seed, subject_id, "anatomy")

    spacing = (FIELD_OF_VIEW_MM / shape[0], FIELD_OF_VIEW_MM / shape[1])

    @functools.cache
    def drawn() -> RawScan:
        positions = (np.arange(slices) + 0.5) / slices
        magnitude = np.stack([beating_heart(shape, frames, position, anatomy()) for position in positions])
        return simulated_scan(CineSeries(magnitude, path=path, subject_id=subject_id), settings)

    return RawScan(
        path=path,
        subject_id=subject_id,
        num_slices=slices,
        load_slice=lambda slice_id: drawn().load_slice(slice_id),
        pixel_spacing_mm=acquired_spacing(spacing, shape, settings.matrix),
        frame_time_ms=60_000 / Anatomy.random(anatomy()).heart_rate_bpm / frames,
    )
