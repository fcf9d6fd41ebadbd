"""Missing lines are taken from other cardiac phases."""

import numpy as np

from meddlr_greedy.preparation.missing_lines import complete
from meddlr_greedy.readers.raw_scan import RawSlice


def test_filled_from_the_nearest_phase_around_the_cycle():
    kspace = np.arange(1, 7, dtype=np.complex64) * np.ones((1, 3, 1, 1), np.complex64)
    raw = RawSlice(kspace.transpose(0, 1, 3, 2)[..., 0][..., None], np.ones((1, 3, 6), bool))
    raw.sampled[0, 1, 0] = raw.sampled[0, 2, [2, 3]] = False
    filled, _ = complete(raw, "fill", "a")
    assert filled.kspace[0, 0, :, 0].real.tolist() == [1, 2, 3, 4, 5, 6]
    assert filled.kspace[0, 1, :, 0].real.tolist() == [6, 2, 3, 4, 5, 6]
    assert filled.kspace[0, 2, :, 0].real.tolist() == [1, 2, 2, 5, 5, 6]
    assert filled.sampled.all()
