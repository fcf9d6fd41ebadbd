"""NIfTI files written slice by slice read back as a whole."""

import nibabel as nib
import numpy as np
import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.nifti import LARGEST_AXIS, NiftiWriter
from tests.helpers.examples import write_arrays


@pytest.mark.parametrize("shape", [(5, 4, 3, 6), (3, 7, 2), (4, 4, 1, 1)])
def test_nifti_slice_by_slice(tmp_path, shape):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with open(tmp_path / "a.nii", "wb") as file:
        writer = NiftiWriter(file, shape, (1.0, 2.0), 3.0, 4.0)
        for s in reversed(range(shape[2])):
            writer.write_slice(s, values[:, :, s])
    image = nib.load(tmp_path / "a.nii")
    assert image.shape == shape
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), values)
    assert image.header.get_zooms() == (1.0, 2.0, 3.0, 4.0)[: len(shape)]


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("excess", [0, 1])
def test_axes_that_nifti_cannot_count(tmp_path, axis, excess):
    shape = [1, 1, 1, 2]
    shape[axis] = LARGEST_AXIS + excess
    kspace, maps = np.ones((*shape, 1), np.complex64), np.ones((*shape[:3], 1, 1, 1), np.complex64)
    path = write_arrays(tmp_path / "long.h5", {"kspace": kspace, "maps": maps})
    if not excess:
        assert AcquiredScan(path).shape == kspace.shape
        return
    with pytest.raises(UserError, match=r"long\.h5: kspace has shape .*; NIfTI allows axes up to 32767"):
        AcquiredScan(path)
