"""NIfTI files written slice by slice read back as a whole."""

import io
import itertools

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


def header_with(affine, shape):
    file = io.BytesIO()
    NiftiWriter(file, shape, (1.5, 1.5), 8.0, 40.0, affine)
    file.seek(0)
    return nib.Nifti1Header.from_fileobj(file)


def test_a_qform_is_declared_where_it_is_right():
    """Of turns by about half a circle around an axis, of which the quaternion tells the small rest by one digit."""
    rng, shape = np.random.default_rng(0), (224, 160, 12, 2)
    corners = np.array([(*corner, 1) for corner in itertools.product((0, 223), (0, 159), (0, 11))])
    declared = 0
    for _ in range(200):
        turn = np.linalg.qr(np.eye(3) + 0.02 * rng.standard_normal((3, 3)))[0]
        affine = np.eye(4)
        affine[:3, :3] = np.diag([-1, -1, 1]) @ (turn * np.sign(np.diag(turn))) @ np.diag([1.5, 1.5, 8])
        affine[:3, 3] = 200 * rng.standard_normal(3)
        header = header_with(affine, shape)
        sform, qform = header.get_sform(), header.get_qform()
        assert header["sform_code"] == 1 and np.abs(corners @ (sform - affine).T).max() < 1e-4
        if header["qform_code"]:
            assert np.linalg.norm(corners @ (qform - affine).T, axis=1).max() < 0.0101
            declared += 1
        np.testing.assert_allclose(header.get_zooms(), (1.5, 1.5, 8, 40), rtol=1e-6)
    assert 100 < declared < 200


def test_a_sheared_volume_has_no_qform():
    affine = np.array([[1.5, 0, 2, 0], [0, 1.5, 0, 0], [0, 0, 8, 0], [0, 0, 0, 1]])
    header = header_with(affine, (24, 20, 3, 2))
    assert (header["sform_code"], header["qform_code"]) == (1, 0)
    np.testing.assert_array_equal(header.get_sform(), affine)
