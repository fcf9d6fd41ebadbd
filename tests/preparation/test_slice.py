"""One slice: coil compression."""

import numpy as np
import pytest

from meddlr_greedy.preparation.settings import CoilMaps, Preparation
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from tests.helpers.heart import COILS, EXACT, prepared, psnr, read, target_and_support
from tests.helpers.scanners import write_mrd


def test_fewer_coils_stay(heart, tmp_path):
    """The default fits every scan."""
    source = write_mrd(tmp_path / "a.h5", heart.coil_images)
    arrays = []
    for name, preparation in {"default": Preparation(CoilMaps(crop=0)), "kept": EXACT}.items():
        (path,) = prepared(tmp_path / name, IsmrmrdReader(), source, preparation=preparation)
        arrays.append(read(path)[0])
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name])
    assert arrays[0]["kspace"].shape[-1] == COILS < Preparation().coils


@pytest.mark.parametrize("compression,coils", [("geometric", COILS), ("svd", COILS), ("geometric", 4), ("svd", 5)])
def test_virtual_coils(heart, tmp_path, compression, coils):
    preparation = Preparation(CoilMaps(crop=0), coils, compression)
    source = write_mrd(tmp_path / "a.h5", heart.coil_images)
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), source, preparation=preparation)
    target, support = target_and_support(path)
    assert read(path)[0]["kspace"].shape[-1] == coils
    assert psnr(target, heart.image, support) > (50 if coils == COILS else 35)
