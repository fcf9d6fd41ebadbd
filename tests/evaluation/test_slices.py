"""The images that an evaluation keeps come back as they were."""

import numpy as np
import pytest

from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.slices import IMAGES, KeptSlice, read_slices, write_slices


def test_kept_slices_come_back(tmp_path):
    images = {name: np.full((3, 2, 4, 1), i, np.complex64) for i, name in enumerate(IMAGES)}
    slices = [
        KeptSlice("a", 2, images, Geometry((1.5, 2.0), 40.0)),
        KeptSlice("a", 10, images),
        KeptSlice("b c", 0, images),
    ]
    write_slices(tmp_path / "i.h5", slices)
    back = read_slices(tmp_path / "i.h5")
    assert [kept[:2] + kept[3:] for kept in back] == [kept[:2] + kept[3:] for kept in slices]
    for name in IMAGES:
        np.testing.assert_array_equal(back[2].images[name], images[name])
    (tmp_path / "i.h5").write_bytes(b"no")
    for path in (tmp_path / "i.h5", tmp_path / "none.h5"):
        with pytest.raises(UserError, match=path.name):
            read_slices(path)
