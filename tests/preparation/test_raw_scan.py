"""What readers share: missing lines, and the spacing of slices."""

import numpy as np
import pytest

from meddlr_greedy.preparation.raw_scan import RawSlice, complete, slice_spacing
from meddlr_greedy.preparation.readers.images import ImagesReader
from tests.helpers.heart import prepared, read
from tests.helpers.scanners import write_nifti


@pytest.mark.parametrize(
    "places,expected",
    [([0, -8, -16.04], 8.02), ([3.0], None), ([0, 8, 24], None), ([0, 0], None), ([5, 13], 8)],
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
