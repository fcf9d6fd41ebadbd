"""What a file of a data set tells of its slices."""

import numpy as np
import pytest

from meddlr_greedy.readers.images import ImagesReader
from tests.helpers.heart import prepared, read
from tests.helpers.scanners import write_nifti


@pytest.mark.parametrize("split,expected", [("0-1 2-2 none", 8), ("0-0,2-2 1-1 none", None)])
def test_slices_apart_have_no_spacing(magnitude, tmp_path, split, expected):
    source = write_nifti(tmp_path / "a.nii", np.concatenate([magnitude, magnitude])[:3])
    paths = prepared(tmp_path / "out", ImagesReader(), source, split=split.split())
    train = read(next(path for path in paths if path.stem.endswith("train")))[1]
    assert train.get("slice_spacing_mm") == (expected and pytest.approx(expected))
