"""What readers share: missing lines, and the spacing of slices."""

from pathlib import Path

import numpy as np
import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.formats.images import ImagesReader
from meddlr_greedy.readers.raw_scan import (
    RawScan,
    RawSlice,
    check_scan,
    check_slice,
    complete,
    plain_text,
    slice_spacing,
)
from tests.helpers.heart import prepared, read
from tests.helpers.scanners import write_nifti


@pytest.mark.parametrize(
    "places,expected",
    [
        ([0, -8, -16.04], 8.02),
        ([3.0], None),
        ([0, 8, 24], None),
        ([0, 0], None),
        ([5, 13], 8),
        ([0, 8, 0, 8], None),
        ([0, np.nan, 8], None),
    ],
)
def test_slices_have_a_spacing_where_it_is_one(places, expected):
    assert slice_spacing(np.array(places, float)) == (expected and pytest.approx(expected))


@pytest.mark.parametrize("split,expected", [("0-1 2-2 none", 8), ("0-0,2-2 1-1 none", None)])
def test_slices_apart_have_no_spacing(magnitude, tmp_path, split, expected):
    source = write_nifti(tmp_path / "a.nii", np.concatenate([magnitude, magnitude])[:3])
    paths = prepared(tmp_path / "out", ImagesReader(), source, split=split.split())
    train = read(next(path for path in paths if path.stem.endswith("train")))[1]
    assert train.get("slice_spacing_mm") == (expected and pytest.approx(expected))


def test_filled_from_the_nearest_phase_around_the_cycle():
    kspace = np.arange(1, 7, dtype=np.complex64) * np.ones((1, 3, 1, 1), np.complex64)
    raw = RawSlice(kspace.transpose(0, 1, 3, 2)[..., 0][..., None], np.ones((1, 3, 6), bool))
    raw.sampled[0, 1, 0] = raw.sampled[0, 2, [2, 3]] = False
    filled, _ = complete(raw, "fill", "a")
    assert filled.kspace[0, 0, :, 0].real.tolist() == [1, 2, 3, 4, 5, 6]
    assert filled.kspace[0, 1, :, 0].real.tolist() == [6, 2, 3, 4, 5, 6]
    assert filled.kspace[0, 2, :, 0].real.tolist() == [1, 2, 2, 5, 5, 6]
    assert filled.sampled.all()


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


def test_names_that_are_not_utf8_are_written_as_text():
    assert plain_text("P\udcff\n1 ö") == "P%FF%0A1 ö"
