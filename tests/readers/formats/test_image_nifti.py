"""NIfTI in all its forms, written by nibabel: values, geometry, and what is refused."""

import nibabel
import numpy as np
import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.headers.placement import Placement
from meddlr_greedy.readers.formats.images import load_images
from meddlr_greedy.readers.images import ImagesReader
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import expected_magnitude, prepared, psnr, read, target_and_support

FORMS = {
    "one file": (nibabel.Nifti1Image, "S1.nii"),
    "compressed": (nibabel.Nifti1Image, "S1.nii.gz"),
    "version 2": (nibabel.Nifti2Image, "S1.nii"),
    "version 2, compressed": (nibabel.Nifti2Image, "S1.nii.gz"),
    "a pair": (nibabel.Nifti1Pair, "S1.hdr"),
    "a pair of version 2": (nibabel.Nifti2Pair, "S1.hdr"),
    "a pair, by its data": (nibabel.Nifti1Pair, "S1.img"),
}
#: Voxels of 1.5 x 1.25 x 8 mm, at no right angle to any axis.
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0] @ np.diag([1.5, 1.25, 8])
AFFINE[:3, 3] = (-40.0, 17, 120)


def written(form, folder, magnitude, affine=AFFINE):
    kind, name = FORMS[form]
    image = kind(np.ascontiguousarray(magnitude.transpose(2, 3, 0, 1)), affine)
    image.header.set_zooms((1.5, 1.25, 8, 40))
    image.header.set_xyzt_units("mm", "msec")
    folder.mkdir(exist_ok=True)
    nibabel.save(image, folder / name)
    return folder / name


@pytest.mark.parametrize("form", FORMS)
def test_every_form_comes_back_in_its_place(magnitude, tmp_path, form):
    source = written(form, tmp_path / "in", magnitude)
    for given in (source, tmp_path / "in"):
        (found,) = ImagesReader().find([str(given)])
        assert found.name == ("S1.hdr" if "pair" in form else source.name)
    series = load_images(found)
    np.testing.assert_array_equal(series.magnitude, magnitude)
    assert series.frame_time_ms == 40 and series.subject_id == "S1"

    (path,) = prepared(tmp_path / "out", ImagesReader(), source, options={"noise": 0, "matrix": (32, 40)})
    (full,) = prepared(tmp_path / "full", ImagesReader(), source, options={"noise": 0})
    target, support = target_and_support(full)
    assert psnr(target, expected_magnitude(magnitude, "S1"), support) > 50
    for file, shape in ((full, (64, 48)), (path, (32, 40))):
        attributes = read(file)[1]
        placement = Placement.of(attributes)
        affine = placement.affine(attributes["pixel_spacing_mm"], attributes["slice_spacing_mm"], shape)
        middle = [shape[0] // 2, shape[1] // 2, 1, 1]
        np.testing.assert_allclose(affine @ middle, AFFINE @ [32, 24, 1, 1], atol=1e-4)
        step = np.array([64 / shape[0], 48 / shape[1], 1])
        np.testing.assert_allclose(affine[:3, :3], AFFINE[:3, :3] * step, atol=1e-5)


def test_other_data_of_a_pair_are_noticed(magnitude, tmp_path):
    small = np.ascontiguousarray(magnitude[:, :2, 20:44, 14:34])
    source = written("a pair", tmp_path / "in", small)
    options = {"noise": 0, "coils": 2}
    (path,) = prepared(tmp_path / "out", ImagesReader(), source, options=options)
    done = path.stat().st_mtime_ns
    prepared(tmp_path / "out", ImagesReader(), source, options=options)
    assert path.stat().st_mtime_ns == done
    data = source.with_suffix(".img")
    data.write_bytes(data.read_bytes()[::-1])
    with pytest.raises(UserError, match="made of another file or with other options"):
        prepared(tmp_path / "out", ImagesReader(), source, options=options)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("scaled", [False, True])
def test_small_negative_values_of_numbers_of_any_kind(magnitude, tmp_path, number, scaled):
    """``scaled`` numbers are stored with a slope and an intercept, of which a negative value can come."""
    stored = magnitude.transpose(2, 3, 0, 1).astype(number)
    slope, intercept = (0.5, -20.0) if scaled else (1.0, 0.0)
    if not scaled:
        stored[:5, 3] = -0.09 * stored.max()
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, tmp_path / "a.nii")
    # nibabel scales where it writes; so the numbers are put there as they are.
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    content[352:] = stored.tobytes("F")
    (tmp_path / "a.nii").write_bytes(content)
    values = slope * stored.astype(float) + intercept
    assert values.min() < 0
    series = load_images(tmp_path / "a.nii")
    np.testing.assert_allclose(series.magnitude, np.maximum(values, 0).transpose(2, 3, 0, 1), rtol=1e-6)
    (note,) = series.notes
    assert f"magnitude: found {values.min():g} to {values.max():g}; what is below 0 was set to 0" in note


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory, magnitude):
    folder = tmp_path_factory.mktemp("bad")
    small = np.ascontiguousarray(magnitude[:1, :, :16, :16])
    volume = np.ascontiguousarray(small[0].transpose(1, 2, 0))
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "three.nii")
    nibabel.save(nibabel.Nifti1Image(volume[:, :, None, :, None, None], np.eye(4)), folder / "six.nii")
    nibabel.save(nibabel.Nifti1Image(np.stack([volume] * 2, -1)[:, :, None], np.eye(4)), folder / "two_sets.nii")
    nibabel.save(nibabel.AnalyzeImage(volume.astype(np.int16)[:, :, None], np.eye(4)), folder / "analyze.hdr")
    for name in ("alone", "short", "lying"):
        nibabel.save(
            nibabel.Nifti1Pair(np.ascontiguousarray(small.transpose(2, 3, 0, 1)), AFFINE), folder / f"{name}.hdr"
        )
    (folder / "alone.img").unlink()
    data = folder / "short.img"
    data.write_bytes(data.read_bytes()[:-9])
    header = bytearray((folder / "lying.hdr").read_bytes())
    header[42:48] = np.array([30000, 30000, 3000], "<i2").tobytes()
    (folder / "lying.hdr").write_bytes(header)
    deep = AFFINE * [1, 1, 0, 1]
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(small.transpose(2, 3, 0, 1)), np.eye(4)), folder / "flat.nii")
    content = bytearray((folder / "flat.nii").read_bytes())
    content[280:328] = deep[:3].astype("<f4").tobytes()
    (folder / "flat.nii").write_bytes(content)
    return folder


WRONG = [
    (
        "three.nii",
        "no cardiac phases: found 3 axes (16, 16, 4), allowed (x, y, slice, phase); of a single slice (x, y, 1,",
    ),
    ("two_sets.nii", "two_sets.nii: found 5 axes (16, 16, 1, 4, 2), allowed (x, y, slice, phase)"),
    ("analyze.hdr", "analyze.hdr: found "),
    ("alone.hdr", "alone.hdr: "),
    ("short.hdr", "short.hdr: truncated, damaged or not a NIfTI file"),
    ("lying.hdr", "lying.hdr: found "),
    ("flat.nii", "flat.nii: found an orientation that is none, allowed an invertible matrix"),
]


@pytest.mark.parametrize("name,message", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(name, message, bad_files, tmp_path, capsys):
    expect_prepare_error(f"images {{dir}}/{name} --split 1 0 0", message, bad_files, tmp_path, capsys)


def test_further_axes_of_length_1(bad_files):
    assert load_images(bad_files / "six.nii").magnitude.shape == (1, 4, 16, 16)
