"""Images, written with the formats' own libraries, come back as they went in, and as the magnitude of a scan."""

import gzip
import struct
import zipfile

import nibabel
import numpy as np
import pydicom
import pytest

from meddlr_greedy.readers.formats.image_arrays import load_series
from meddlr_greedy.readers.formats.images import load_images
from meddlr_greedy.readers.images import ImagesReader
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import PHASES, expected_magnitude, prepared, psnr, read, target_and_support
from tests.helpers.scanners import write_dicom, write_enhanced, write_nifti


def written_images(kind, tmp_path, magnitude):
    if kind == "dicom":
        return write_dicom(tmp_path / "S1", magnitude, "S1"), 2 * (magnitude // 2) + 6.0
    if kind == "dicom, enhanced":
        return write_enhanced(tmp_path / "S1.dcm", magnitude, "S1"), 2 * (magnitude // 2) + 6.0
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
    "kind",
    [
        "dicom",
        "dicom, enhanced",
        "dicom, phase encoding along columns",
        "nifti",
        "nifti, second axis the readout",
        "npz",
    ],
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


def test_npz_may_tell_where_its_slices_lie(magnitude, tmp_path):
    """The formula of a position: the center of pixel (H // 2, W // 2), which is so many steps from every other one."""
    directions = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0].T
    corners = np.array([[7.0, -20, 30]]) + 9.5 * np.arange(2)[:, None] * directions[2]
    height, width = 17, 14
    middles = corners + (height // 2) * 1.5 * directions[0] + (width // 2) * 1.25 * directions[1]
    np.savez(
        tmp_path / "a.npz",
        series=magnitude[:, :, :height, :width],
        magnitude=np.ones(3),
        pixel_spacing_mm=np.array([1.5, 1.25]),
        frame_time_ms=np.float32(40),
        position_mm=middles,
        readout_direction=directions[0],
        phase_direction=directions[1],
    )
    series = load_images(tmp_path / "a.npz", "series")
    np.testing.assert_array_equal(series.magnitude, magnitude[:, :, :height, :width])
    assert series.slice_spacing_mm == pytest.approx(9.5) and series.frame_time_ms == 40
    affine = series.placement.affine((1.5, 1.25), 9.5, (height, width))
    for h, w, s in np.ndindex(height, width, 2):
        expected = corners[s] + 1.5 * h * directions[0] + 1.25 * w * directions[1]
        np.testing.assert_allclose((affine @ [h, w, s, 1])[:3], expected * [-1, -1, 1], atol=1e-9)
    options = {"noise": 0, "coils": 2, "variable": "series"}
    (path,) = prepared(tmp_path / "out", ImagesReader(), tmp_path / "a.npz", options=options)
    np.testing.assert_allclose(read(path)[1]["position_mm"], middles)


def test_trigger_times_that_say_nothing_leave_the_order_to_numbers(magnitude, tmp_path):
    small = magnitude[:, :, :16, :16]
    numbers = {"InstanceNumber": lambda s, t: 10 * s + 3 * t + 1, "TriggerTime": lambda s, t: 0.0}
    series = load_images(write_dicom(tmp_path / "S1", small, "S1", **numbers))
    np.testing.assert_array_equal(series.magnitude, 2 * (small // 2) + 6.0)
    assert series.frame_time_ms is None


def test_pixel_spacings_may_differ_by_rounding(magnitude, tmp_path):
    spacing = {"PixelSpacing": lambda s, t: [1.5, 1.25 + 1e-6 * t]}
    series = load_images(write_dicom(tmp_path / "S1", magnitude[:, :, :16, :16], "S1", **spacing))
    assert series.pixel_spacing_mm == pytest.approx((1.5, 1.25), rel=1e-4)


@pytest.mark.parametrize("axes", [(None, 0), (0, None)])
def test_nifti_of_five_axes(magnitude, tmp_path, axes):
    """Time is the fifth axis for some programs; others write a fifth one of length 1."""
    data = np.ascontiguousarray(magnitude.transpose(2, 3, 0, 1)).astype(np.float32)
    data = data[:, :, :, None] if axes[0] is None else data[..., None]
    image = nibabel.Nifti1Image(data, np.diag([1.5, 1.25, 8, 1]))
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_zooms((1.5, 1.25, 8, 40, 1))
    nibabel.save(image, tmp_path / "a.NII.GZ")
    series = load_images(tmp_path / "a.NII.GZ")
    np.testing.assert_array_equal(series.magnitude, magnitude)
    assert series.frame_time_ms == (None if axes[0] is None else 40) and series.subject_id == "a"
    assert bool(series.notes) == (axes[0] is None)


@pytest.mark.parametrize("kind", ["npy", "nii"])
def test_small_negative_values_are_of_interpolation(magnitude, tmp_path, kind):
    negative = magnitude.astype(np.float32)
    negative[0, 0, :3] = -0.05 * negative.max()
    path = tmp_path / f"a.{kind.upper()}"
    if kind == "nii":
        write_nifti(path, negative)
    else:
        with path.open("wb") as file:
            np.save(file, negative)
    assert ImagesReader().find([str(tmp_path)]) == [path]
    scan = ImagesReader().open_scan(path)
    assert any("what is below 0 was set to 0" in note for note in scan.notes)
    np.testing.assert_array_equal(load_images(path).magnitude, np.maximum(negative, 0))


NO_IMAGES = {
    "DICOMDIR": pydicom.uid.MediaStorageDirectoryStorage,
    "report": pydicom.uid.BasicTextSRStorage,
    "state": pydicom.uid.GrayscaleSoftcopyPresentationStateStorage,
    "private": "1.2.3.4",
}


def write_no_image(path, uid):
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid, "1.2.3"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    found = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID, found.PatientID = uid, "1.2.3", "somebody else"
    found.save_as(path, enforce_file_format=True)


def test_dicom_objects_that_are_no_images_are_left_out(magnitude, tmp_path, capsys):
    small = magnitude[:1, :, :24, :24]
    for subject in ("S1", "S2"):
        write_dicom(tmp_path / "disc" / subject, small, subject)
    write_no_image(tmp_path / "disc" / "DICOMDIR", NO_IMAGES["DICOMDIR"])
    (tmp_path / "disc" / "reports").mkdir()
    for name in ("report", "private"):
        write_no_image(tmp_path / "disc" / "reports" / name, NO_IMAGES[name])
    write_no_image(tmp_path / "disc" / "S2" / "state", NO_IMAGES["state"])
    options = {"noise": 0, "coils": 2}
    paths = prepared(
        tmp_path / "out", ImagesReader(), tmp_path / "disc", split=("1", "1", "0"), options=options, progress=True
    )
    assert [path.stem for path in paths] == ["S1", "S2"]
    output = capsys.readouterr().out
    assert f"note: {tmp_path}/disc: left out, its DICOM files are no images: DICOMDIR" in output
    assert f"note: {tmp_path}/disc/reports: left out, its DICOM files are no images: private, report" in output
    assert output.count("its DICOM files are no images") == 2  # none of the series
    assert f"note: {tmp_path}/disc/S2: left out, no images: state" in output


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
    for name, (offset, kind, value) in NIFTI_HEADERS.items():
        (folder / f"{name}.nii").write_bytes(patched(content, offset, kind, value))
    (folder / "bomb.nii.gz").write_bytes(gzip.compress(patched(content, *NIFTI_HEADERS["dim_absurd"])))
    phase = magnitude.astype(np.float32) - 300
    write_nifti(folder / "phase.nii", phase)
    for name, (tag, value) in DICOM_NUMBERS.items():
        # pydicom itself refuses to write nonsense.
        write_dicom(folder / name, small[:1, :2], "", **{tag: lambda s, t, value=value: value})
    for tag, as_stored in (("NumberOfFrames", b"xx"), ("TriggerTime", b"ab"), ("PixelSpacing", b"1.5\\x ")):
        write_dicom(folder / f"nonsense_{tag}", small[:1, :2], "", NumberOfFrames=lambda s, t: 1)
        first = sorted((folder / f"nonsense_{tag}").iterdir())[0]
        nonsense(first, tag, as_stored)
    (folder / "report_alone").mkdir()
    write_no_image(folder / "report_alone" / "SR", NO_IMAGES["report"])
    write_arrays(folder / "arrays")
    return folder


# Of the NIfTI header: where, of which kind, and what.
NIFTI_HEADERS = {
    "dim_negative": (42, "<h", -64),
    "dim_absurd": (46, "<h", 32767),
    "pixdim_nan": (80, "<f", float("nan")),
    "slices_nan": (88, "<f", float("nan")),
    "pixdim_infinite": (84, "<f", float("inf")),
    "pixdim_absurd": (88, "<f", 1e30),
    "time_nan": (92, "<f", float("nan")),
    "offset_absurd": (108, "<f", 1e12),
}
DICOM_NUMBERS = {
    "flat": ("PixelSpacing", [1.5, 0]),
    "backwards": ("PixelSpacing", [-1.5, 1]),
    "wide": ("PixelSpacing", [1e30, 1]),
    "one_direction": ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
    "steep": ("RescaleSlope", 1e300),
    "tall": ("Rows", 65535),
}


def patched(content, offset, kind, value):
    return content[:offset] + struct.pack(kind, value) + content[offset + struct.calcsize(kind) :]


def nonsense(path, tag, value):
    """Another value in the place of a number, of a length that need not be the same."""
    image = pydicom.dcmread(path)
    number = pydicom.datadict.tag_for_keyword(tag)
    stored = pydicom.dataelem.RawDataElement(pydicom.tag.Tag(number), image[tag].VR, len(value), value, 0, False, True)
    image._dict[stored.tag] = stored
    with pydicom.config.disable_value_validation():
        image.save_as(path)


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
    place = {"position_mm": np.ones((3, 3)), "readout_direction": np.eye(3)[0], "phase_direction": np.eye(3)[1]}
    np.savez(folder / "nowhere.npz", magnitude=good, **{**place, "position_mm": np.ones((2, 3))})
    np.savez(folder / "half_a_place.npz", magnitude=good, readout_direction=np.eye(3)[0])
    np.savez(folder / "long_direction.npz", magnitude=good, **{**place, "phase_direction": np.array([0, 2.0, 0])})
    np.savez(folder / "object_place.npz", magnitude=good, **{**place, "phase_direction": np.array([None, {}, 1])})
    np.savez(folder / "step.npz", magnitude=good, frame_time_ms=np.zeros(2))
    np.savez(folder / "no_step.npz", magnitude=good, frame_time_ms=np.nan)
    np.save(folder / "huge.npy", 1e38 * good)
    np.save(folder / "double.npy", 1e300 * good.astype(float))
    np.savez(folder / "good.npz", magnitude=good)
    with zipfile.ZipFile(folder / "no_npy.npz", "w") as archive:
        archive.writestr("magnitude", "hello")
    with zipfile.ZipFile(folder / "text_inside.npz", "w") as archive:
        archive.writestr("magnitude.npy", "hello")
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("magnitude.npy", bytes(70 << 20))
    for name, shape in (("declares.npy", (10**9, 2, 16, 16)), ("negative_shape.npy", (-3, 2, 16, 16))):
        with (folder / name).open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.write(good.tobytes())
    (folder / "truncated.npz").write_bytes((folder / "good.npz").read_bytes()[:-300])
    (folder / "text.npy").write_text("hello")
    (folder / "image.dcm").write_text("hello")


WRONG = [
    ("images {dir}/dim_negative.nii", "dim_negative.nii: "),
    ("images {dir}/dim_absurd.nii", "dim_absurd.nii: "),
    ("images {dir}/bomb.nii.gz", "bomb.nii.gz: found "),
    ("images {dir}/offset_absurd.nii", "offset_absurd.nii: vox_offset: found 1e+12, allowed 0 to"),
    ("images {dir}/pixdim_nan.nii", "pixdim_nan.nii: pixdim: found nan along axis 0, allowed 0 to 1e+06"),
    ("images {dir}/pixdim_infinite.nii", "pixdim: found inf along axis 1"),
    ("images {dir}/slices_nan.nii", "pixdim: found nan along axis 2"),
    ("images {dir}/pixdim_absurd.nii", "pixdim: found 1e+30 along axis 2"),
    ("images {dir}/time_nan.nii", "pixdim: found nan along axis 3"),
    ("images {dir}/phase.nii", "phase.nii: magnitude: found -300 to"),
    ("images {dir}/flat", "IM0000: PixelSpacing: found 0, allowed above 0, up to 1e+06"),
    ("images {dir}/backwards", "PixelSpacing: found -1.5, allowed above 0"),
    ("images {dir}/wide", "PixelSpacing: found 1e+30, allowed above 0"),
    ("images {dir}/one_direction", "IM0000: ImageOrientationPatient: found 1, 0, 0, 1, 0, 0, allowed two unit"),
    ("images {dir}/steep", "steep: magnitude: found NaN or infinite"),
    ("images {dir}/tall", "tall: pixels of IM0000 cannot be read"),
    ("images {dir}/nonsense_NumberOfFrames", "NumberOfFrames: found none, allowed finite numbers, 1 of them"),
    ("images {dir}/nonsense_TriggerTime", "TriggerTime: found none, allowed finite numbers, 1 of them"),
    ("images {dir}/nonsense_PixelSpacing", "PixelSpacing: found none, allowed finite numbers, 2 of them"),
    ("images {dir}/report_alone", "report_alone: found no DICOM, NIfTI, npy, npz or MAT file in this folder"),
    ("images {arrays}/no_npy.npz", "no_npy.npz: magnitude: found a member that is no .npy file"),
    ("images {arrays}/text_inside.npz", "text_inside.npz: truncated, damaged or not a readable .npz"),
    ("images {arrays}/bomb.npz", "bomb.npz: magnitude: found 70 MiB declared where"),
    ("images {arrays}/declares.npy", "found float32 of shape (1000000000, 2, 16, 16) in"),
    ("images {arrays}/negative_shape.npy", "found the shape (-3, 2, 16, 16), allowed axes of 0 and more"),
    ("images {arrays}/good.npz --coils 100000000", "--coils: found 100000000, allowed at least 1, at most 1024"),
    ("images {arrays}/good.npz --matrix 99999999 8", "--matrix: found (99999999, 8), allowed at least 8, at most 4096"),
    ("images {arrays}/good.npz --acquired-matrix 12 -1", "--acquired-matrix: found -1, allowed at least 8"),
    ("images {dir}/truncated.nii", "truncated.nii: truncated, damaged or not a NIfTI file"),
    ("images {dir}/text.nii.gz", "text.nii.gz: truncated, damaged or not a NIfTI file"),
    ("images {dir}/volume.nii", "volume.nii: no cardiac phases: found 3 axes"),
    ("images {dir}/still.nii", "still.nii: no cardiac phases: found 1, allowed 2 or more"),
    ("images {dir}/nan.nii", "nan.nii: magnitude: found NaN"),
    ("images {dir}/image.jpg", "image.jpg: found a '.jpg' file, allowed .npy, .npz, .nii"),
    ("images {dir}/empty", "empty: found no DICOM, NIfTI, npy, npz or MAT file"),
    ("images {dir}/two_patients", "two_patients: found 2 patients in one series, allowed one"),
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
    (
        "images {arrays}/nowhere.npz",
        "attribute position_mm is float64 of shape (2, 3); allowed finite numbers of shape",
    ),
    (
        "images {arrays}/half_a_place.npz",
        "attribute readout_direction without position_mm; allowed all of position_mm,",
    ),
    ("images {arrays}/long_direction.npz", "readout_direction and phase_direction are no two unit vectors"),
    ("images {arrays}/object_place.npz", "object_place.npz: truncated, damaged or not a readable .npz"),
    ("images {arrays}/step.npz", "frame_time_ms: found float64 of shape (2,), allowed finite numbers of shape ()"),
    ("images {arrays}/no_step.npz", "frame_time_ms: found float64 of shape (), allowed finite"),
    ("images {arrays}/good.npz --variable other", "good.npz: no array 'other'; found magnitude"),
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
