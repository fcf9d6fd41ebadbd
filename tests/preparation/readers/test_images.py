"""Images, written with the formats' own libraries, come back as they went in, and as the magnitude of a scan."""

import nibabel
import numpy as np
import pydicom
import pytest

from meddlr_greedy.ops.acquisition import coil_sensitivities, seeded_generator
from meddlr_greedy.preparation.readers.images import ImagesReader, load_images, load_series
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import PHASES, prepared, psnr, read, target_and_support
from tests.helpers.scanners import write_dicom, write_nifti


def expected_magnitude(magnitude, subject):
    """The root sum of squares of the simulated coils is part of what is acquired."""
    maps = coil_sensitivities(magnitude.shape[-2:], 8, seeded_generator(0, subject, "coils"))
    return magnitude * np.linalg.norm(maps, axis=0)


def written_images(kind, tmp_path, magnitude):
    if kind == "dicom":
        return write_dicom(tmp_path / "S1", magnitude, "S1"), 2 * (magnitude // 2) + 6.0
    if kind == "dicom, phase encoding along columns":
        return write_dicom(tmp_path / "S1", magnitude, "S1", "COL"), 2 * (magnitude // 2) + 6.0
    if kind == "nifti":
        return write_nifti(tmp_path / "S1.nii.gz", magnitude), magnitude
    if kind == "nifti, second axis the readout":
        return write_nifti(tmp_path / "S1.nii", magnitude.swapaxes(2, 3), (1, 0, 2)), magnitude
    np.savez(
        tmp_path / "S1.npz",
        magnitude=magnitude,
        pixel_spacing_mm=np.array([1.5, 1.25]),
        trigger_time_ms=np.arange(PHASES) * 40.0,
    )
    return tmp_path / "S1.npz", magnitude


@pytest.mark.parametrize(
    "kind", ["dicom", "dicom, phase encoding along columns", "nifti", "nifti, second axis the readout", "npz"]
)
def test_images_come_back(magnitude, tmp_path, kind):
    source, expected = written_images(kind, tmp_path, magnitude)
    series = load_images(source)
    np.testing.assert_array_equal(series.magnitude, expected)
    swapped = kind in ("dicom, phase encoding along columns", "nifti, second axis the readout")
    spacing = [1.25, 1.5] if swapped else [1.5, 1.25]
    np.testing.assert_allclose(series.pixel_spacing_mm, spacing)
    between_slices = None if kind == "npz" else pytest.approx(8)
    assert series.slice_spacing_mm == between_slices
    assert series.frame_time_ms == pytest.approx(40) and series.subject_id == "S1"

    options = {"noise": 0}
    (path,) = prepared(tmp_path / "out", ImagesReader(), source, options=options)
    target, support = target_and_support(path)
    assert psnr(target, expected_magnitude(expected, "S1"), support) > 50
    np.testing.assert_allclose(read(path)[1]["pixel_spacing_mm"], spacing)
    assert read(path)[1]["frame_time_ms"] == pytest.approx(40)
    assert read(path)[1].get("slice_spacing_mm") == between_slices


def test_npy_and_npz_give_the_same(magnitude, tmp_path):
    np.save(tmp_path / "heart.npy", magnitude)
    np.testing.assert_array_equal(load_series(tmp_path / "heart.npy").magnitude, magnitude)
    assert load_series(tmp_path / "heart.npy").pixel_spacing_mm is None


# --- Wrong input ---

EMPTY_TAGS = ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "TriggerTime", "RescaleSlope")


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory, magnitude):
    folder = tmp_path_factory.mktemp("bad")
    write_nifti(folder / "good.nii", magnitude[:1])
    content = (folder / "good.nii").read_bytes()
    (folder / "truncated.nii").write_bytes(content[: len(content) // 2])
    (folder / "text.nii.gz").write_text("hello")
    nibabel.save(nibabel.Nifti1Image(magnitude[0].astype(np.int16), np.eye(4)), folder / "volume.nii")
    write_nifti(folder / "still.nii", magnitude[:, :1])
    write_nifti(folder / "nan.nii", magnitude * np.float32("nan"))
    (folder / "image.jpg").write_text("hello")
    (folder / "empty").mkdir()
    small = magnitude[:, :, :16, :16]
    write_dicom(folder / "two_patients", small, "", PatientID=lambda s, t: f"S{s}")
    write_dicom(folder / "two_views", small, "", ImageOrientationPatient=lambda s, t: [1, 0, 0, 0, 1 - s, s])
    write_dicom(folder / "twice", small, "", TriggerTime=lambda s, t: min(40.0 * t, 80))
    write_dicom(folder / "cut", small, "")
    first = sorted((folder / "cut").iterdir())[0]
    first.write_bytes(first.read_bytes()[:-100])
    for tag in EMPTY_TAGS:
        write_dicom(folder / f"empty_{tag}", small, "", **{tag: lambda s, t: None})
    write_dicom(folder / "few_numbers", small, "", ImagePositionPatient=lambda s, t: [1, 2])
    write_dicom(folder / "some_times", small, "")
    first = sorted((folder / "some_times").iterdir())[0]
    untimed = pydicom.dcmread(first)
    del untimed.TriggerTime
    untimed.save_as(first)
    write_dicom(folder / "uneven", small, "")
    sorted((folder / "uneven").iterdir())[0].unlink()
    write_arrays(folder / "arrays")
    return folder


def write_arrays(folder):
    folder.mkdir()
    good = np.ones((3, 2, 16, 16), np.float32)
    np.save(folder / "rank.npy", good[0])
    np.save(folder / "complex.npy", good * 1j)
    np.save(folder / "negative.npy", -good)
    np.save(folder / "object.npy", np.array([None, {}]), allow_pickle=True)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        bad = good.copy()
        bad[1, 0, 3, 4] = value
        np.save(folder / f"{name}.npy", bad)
    empty = good.copy()
    empty[2] = 0
    np.save(folder / "empty.npy", empty)
    np.savez(folder / "key.npz", image=good)
    np.savez(folder / "spacing.npz", magnitude=good, pixel_spacing_mm=np.ones(3))
    np.savez(folder / "flat.npz", magnitude=good, pixel_spacing_mm=np.array([1.5, 0]))
    np.savez(folder / "trigger.npz", magnitude=good, trigger_time_ms=np.array([0, np.nan]))
    np.savez(folder / "backwards.npz", magnitude=good, trigger_time_ms=np.array([40, 0], np.uint16))
    np.savez(folder / "standing.npz", magnitude=good, trigger_time_ms=np.array([[0.0, 40], [7, 7]]))
    np.save(folder / "huge.npy", 1e38 * good)
    np.save(folder / "double.npy", 1e300 * good.astype(float))
    np.savez(folder / "good.npz", magnitude=good)
    (folder / "truncated.npz").write_bytes((folder / "good.npz").read_bytes()[:-300])
    (folder / "text.npy").write_text("hello")
    (folder / "image.dcm").write_text("hello")


WRONG = [
    ("images {dir}/truncated.nii", "truncated.nii: truncated, damaged or not a NIfTI file"),
    ("images {dir}/text.nii.gz", "text.nii.gz: truncated, damaged or not a NIfTI file"),
    ("images {dir}/volume.nii", "volume.nii: no cardiac phases: found 3 axes"),
    ("images {dir}/still.nii", "still.nii: no cardiac phases: found 1, allowed 2 or more"),
    ("images {dir}/nan.nii", "nan.nii: magnitude: found NaN"),
    ("images {dir}/image.jpg", "image.jpg: found a '.jpg' file, allowed .npy, .npz, .nii"),
    ("images {dir}/empty", "empty: found no DICOM, NIfTI, npy or npz file"),
    ("images {dir}/two_patients", "two_patients: found 2 patients, allowed one in a folder"),
    ("images {dir}/two_views", "two_views: found images of several orientations"),
    ("images {dir}/twice", "twice: found two images at one place and time"),
    ("images {dir}/cut", "cut: pixels of IM0000 cannot be read"),
    *(
        (f"images {{dir}}/empty_{tag}", f"empty_{tag}/IM0000: {tag}: found none, allowed finite numbers, ")
        for tag in EMPTY_TAGS
    ),
    ("images {dir}/few_numbers", "IM0000: ImagePositionPatient: found 2, allowed finite numbers, 3 of them"),
    ("images {dir}/some_times", "some_times: found images with and without TriggerTime, allowed all of one kind"),
    ("images {dir}/uneven", "uneven: slices have 3 to 4 cardiac phases, allowed equally many"),
    ("images {dir}/good.nii --matrix 65 48", "--matrix: found (65, 48), allowed up to the acquired matrix (64, 48)"),
    ("images {dir}/good.nii --noise -1", "--noise: found -1.0"),
    ("images {arrays}/absent.npz", "absent.npz: no such file"),
    ("images {arrays}/rank.npy", "rank.npy: magnitude: found float32 of shape (2, 16, 16), allowed (slice, phase"),
    ("images {arrays}/complex.npy", "allowed real numbers"),
    ("images {arrays}/negative.npy", "negative.npy: magnitude: found -1 to -1, allowed 0 to 1e+15"),
    ("images {arrays}/huge.npy", "huge.npy: magnitude: found 1e+38 to 1e+38, allowed 0 to 1e+15"),
    ("images {arrays}/double.npy", "double.npy: magnitude: found 1e+300 to 1e+300, allowed"),
    ("images {arrays}/object.npy", "object.npy: truncated, damaged or not a readable .npy"),
    ("images {arrays}/nan.npy", "nan.npy: magnitude: found NaN or infinite"),
    ("images {arrays}/inf.npy", "inf.npy: magnitude: found NaN or infinite"),
    ("images {arrays}/empty.npy", "slice 2 is zero everywhere"),
    ("images {arrays}/key.npz", "key.npz: no array 'magnitude'; found image"),
    ("images {arrays}/spacing.npz", "pixel_spacing_mm: found float64 of shape (3,), allowed"),
    ("images {arrays}/flat.npz", "flat.npz: pixel_spacing_mm: found 1.5 0, allowed above 0"),
    ("images {arrays}/backwards.npz", "backwards.npz: trigger_time_ms: found times that do not increase"),
    ("images {arrays}/standing.npz", "standing.npz: trigger_time_ms: found times that do not increase"),
    ("images {arrays}/trigger.npz", "trigger_time_ms: found float64 of shape (2,), allowed finite"),
    ("images {arrays}/truncated.npz", "truncated.npz: truncated, damaged or not a readable .npz"),
    ("images {arrays}/text.npy", "text.npy: truncated, damaged or not a readable .npy"),
    ("images {arrays}/image.dcm", "found a '.dcm' file, allowed .npy, .npz, .nii"),
    (
        "images {arrays}/good.npz --matrix 18 16",
        "--matrix: found (18, 16), allowed up to the acquired matrix (16, 16)",
    ),
    ("images {arrays}/good.npz --acquired-matrix 12 17", "--acquired-matrix: found (12, 17), allowed 8 to (16, 16)"),
    ("images {arrays}/good.npz --acquired-matrix 12 10 --matrix 12 12", "up to the acquired matrix (12, 10)"),
    ("images {arrays}/good.npz --split 1 1 2", "sum 4"),
]


@pytest.mark.parametrize("arguments,message", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, message, bad_files, tmp_path, capsys):
    arguments = arguments.replace("{arrays}", "{dir}/arrays")
    split = "" if "--split" in arguments else " --split 1 0 0"
    expect_prepare_error(arguments + split, message, bad_files, tmp_path, capsys)
