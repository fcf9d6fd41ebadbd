"""What no reader may hand over is refused."""

from pathlib import Path

import numpy as np
import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.preparation.checks import check_scan, check_slice
from meddlr_greedy.readers.raw_scan import RawScan, RawSlice


@pytest.mark.parametrize(
    "name,value,message",
    [
        ("num_slices", 0, "found 0 slices"),
        ("num_slices", 10**9, "found 1000000000 slices, allowed 1 to 4096"),
        ("pixel_spacing_mm", (1.0, float("nan")), "pixel spacing in mm: found nan"),
        ("pixel_spacing_mm", (1e300, 1.0), "pixel spacing in mm: found 1e.300"),
        ("slice_spacing_mm", float("inf"), "slice spacing in mm: found inf"),
        ("frame_time_ms", -40.0, "frame time in ms: found -40"),
    ],
)
def test_what_no_reader_may_say(name, value, message):
    with pytest.raises(UserError, match=rf"a\.h5: {message}"):
        check_scan(RawScan(Path("a.h5"), "S", **{"num_slices": 1, "load_slice": lambda i: i, name: value}))


@pytest.mark.parametrize(
    "kspace,sampled,message",
    [
        (np.zeros((2, 3, 4, 5)), np.ones((1, 3, 4), bool), "k-space: found float64"),
        (np.zeros((2, 3, 0, 5), np.complex64), np.ones((1, 3, 0), bool), "k-space: found complex64 of shape"),
        (np.zeros((2, 3, 4, 5), np.complex64), np.ones((3, 3, 4), bool), "sampled: found bool of shape"),
        (np.zeros((2, 3, 4, 5), np.complex64), np.ones((1, 3, 4)), "sampled: found float64"),
        (np.full((2, 3, 4, 5), np.inf, np.complex64), np.ones((1, 3, 4), bool), "found NaN or infinite values"),
    ],
)
def test_arrays_that_no_reader_may_give(kspace, sampled, message):
    with pytest.raises(UserError, match=f"a.h5: slice 0: {message}"):
        check_slice("a.h5: slice 0", RawSlice(kspace, sampled))
