"""NIfTI files written slice by slice read back as a whole."""

import nibabel as nib
import numpy as np
import pytest

from meddlr_greedy.reconstruction.nifti import NiftiWriter


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
