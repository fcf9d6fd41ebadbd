"""DICOM files of every form, written with pydicom, come back as they went in, and lie where their headers say."""

import numpy as np
import pydicom
import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.formats.image_dicom_files import dicom_files, is_dicom
from meddlr_greedy.readers.formats.images import load_images
from meddlr_greedy.readers.images import ImagesReader
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import prepared, read
from tests.helpers.scanners import write_dicom, write_enhanced


@pytest.fixture
def small(magnitude):
    """(3, 4, 21, 14): of odd size, and each image is another one."""
    three = np.concatenate([magnitude, magnitude[:1, ::-1]])
    return np.ascontiguousarray(three[:, :, 20:41, 17:31])


def values(magnitude):
    """What is read where half of the magnitude was stored, with slope 2 and intercept 6."""
    return 2 * (magnitude // 2) + 6.0


def check_series(series, magnitude, spacing=(1.5, 1.25)):
    np.testing.assert_array_equal(series.magnitude, values(magnitude))
    assert series.pixel_spacing_mm == spacing and series.slice_spacing_mm == pytest.approx(8)
    assert series.frame_time_ms == pytest.approx(40) and series.subject_id == "S1" and series.names_subject


# --- Enhanced files ---


@pytest.mark.parametrize("legacy", [False, True])
def test_an_enhanced_file_comes_back(small, tmp_path, legacy):
    path = write_enhanced(tmp_path / "a" / "E1.dcm", small, "S1", legacy=legacy)
    for given in (path, path.parent):
        check_series(load_images(given), small)
        assert ImagesReader().find([str(given)]) == [given]
        (scan,) = prepared(tmp_path / "out" / given.name, ImagesReader(), given, options={"coils": 2})
        assert scan.stem == ("E1" if given == path else "a")
        assert read(scan)[1]["subject_id"] == "S1" and read(scan)[1]["frame_time_ms"] == pytest.approx(40)


def test_each_frame_may_have_its_own_groups(small, tmp_path):
    """Scanners put into the groups of each frame what is the same for all; and scale frames one by one."""
    alone = ("PixelSpacing", "ImageOrientationPatient", "FrameType", "InPlanePhaseEncodingDirection")
    path = write_enhanced(
        tmp_path / "E1",
        small,
        "S1",
        per_frame=alone,
        InPlanePhaseEncodingDirection=lambda s, t: "ROW",
        RescaleSlope=lambda s, t: 2 + t,
        RescaleIntercept=lambda s, t: 10 * s + 1,
    )
    t, s = np.arange(4)[:, None, None], np.arange(3)[:, None, None, None]
    np.testing.assert_array_equal(load_images(path).magnitude, (small // 2) * (2.0 + t) + 10 * s + 1)


def test_phase_encoding_along_columns_turns_an_enhanced_image(small, tmp_path):
    turned = np.ascontiguousarray(small.swapaxes(2, 3))
    path = write_enhanced(tmp_path / "E1", turned, "S1", InPlanePhaseEncodingDirection=lambda s, t: "COLUMN")
    series = load_images(path)
    check_series(series, small, (1.25, 1.5))
    np.testing.assert_allclose(series.placement.readout_direction, [0.6, 0.8, 0])
    np.testing.assert_allclose(series.placement.phase_direction, [0, 0, -1])


def test_a_folder_may_hold_an_enhanced_file_for_each_slice(small, tmp_path):
    for s in (1, 0, 2):
        at = {"ImagePositionPatient": lambda _, t, s=s: [10 - 6.4 * s, 20 + 4.8 * s, 30.0]}
        write_enhanced(tmp_path / "S1" / f"slice{2 - s}", small[s : s + 1], "S1", **at)
    check_series(load_images(tmp_path / "S1"), small)
    assert ImagesReader().find([str(tmp_path)]) == [tmp_path / "S1"]
    # A file of its own is one slice.
    np.testing.assert_array_equal(load_images(tmp_path / "S1" / "slice0").magnitude, values(small[2:]))


@pytest.mark.parametrize("position", ["index", "number"])
def test_without_trigger_times_an_enhanced_file_has_an_order(small, tmp_path, position):
    changes = {"NominalCardiacTriggerDelayTime": None}
    if position == "index":
        changes["TemporalPositionIndex"] = lambda s, t: t + 1
        series = load_images(write_enhanced(tmp_path / "E1", small, "S1", **changes))
        np.testing.assert_array_equal(series.magnitude, values(small))
    else:
        series = load_images(write_enhanced(tmp_path / "E1", small[:1], "S1", **changes))
        written = np.random.default_rng(1).permutation(4)
        np.testing.assert_array_equal(series.magnitude, values(small[:1, written]))
    assert series.frame_time_ms is None


def test_compressed_frames_come_back(small, tmp_path):
    path = write_enhanced(tmp_path / "E1", small, "S1")
    image = pydicom.dcmread(path)
    image.compress(pydicom.uid.RLELossless)
    image.save_as(path)
    check_series(load_images(path), small)


# --- Files without preamble ---


def as_data_set(path, implicit):
    """Writes a file again as old programs did: the data set alone."""
    image = pydicom.dcmread(path)
    data_set = pydicom.Dataset()
    data_set.update({element.tag: element for element in image})
    data_set.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM" and path.read_bytes()[:2] == b"\x08\0"


@pytest.mark.parametrize("form", ["explicit", "implicit", "no preamble", "mixed"])
@pytest.mark.parametrize("write", [write_dicom, write_enhanced])
def test_files_without_preamble_are_read(small, tmp_path, form, write):
    folder = tmp_path / "S1"
    write(folder if write == write_dicom else folder / "E1", small, "S1")
    for number, path in enumerate(sorted(folder.iterdir())):
        if form == "no preamble":
            path.write_bytes(path.read_bytes()[132:])
        elif form != "mixed" or number % 2:
            as_data_set(path, implicit=form != "explicit")
    images = sorted(folder.iterdir())
    write_others(folder)
    assert dicom_files(folder) == images
    check_series(load_images(folder), small)


def write_others(folder):
    """Files that are none, and of which some begin like one."""
    rng = np.random.default_rng(0)
    (folder / "notes.txt").write_text("breath-hold 7 failed\n" * 30)
    (folder / "empty").write_bytes(b"")
    (folder / "zeros").write_bytes(bytes(4000))
    (folder / "integers").write_bytes(np.arange(8, 1000, dtype="<u2").tobytes())
    (folder / "group").write_bytes(b"\x08\0\x05\0" + rng.bytes(4000))
    (folder / "tag").write_bytes(b"\x02\0\0\0UL\x04\0" + rng.bytes(4000))
    (folder / "short").write_bytes(b"\x08\0\x05\0CS\x02\0AB")
    (folder / "long").write_bytes(b"\x08\0\x05\0CS\xff\xffAB" + bytes(200))
    (folder / "backwards").write_bytes(2 * (b"\x08\0\x05\0CS\x02\0AB" + b"\x08\0\x04\0CS\x02\0AB") + bytes(200))


def test_what_is_no_data_set_is_no_dicom_file(tmp_path):
    write_others(tmp_path)
    np.save(tmp_path / "a.npy", np.ones(8))
    assert not [path.name for path in tmp_path.iterdir() if is_dicom(path)]


# --- Places ---


PLACES = {
    "oblique": [-8.0, 0.5, 9, 17.5],
    "interleaved": [0, 16, 8, 24],
    "reversed": [24.5, 16, 7.5],
    "single slice": [5.5],
}


@pytest.mark.parametrize("kind", list(PLACES))
@pytest.mark.parametrize("along_columns", [False, True])
@pytest.mark.parametrize("enhanced", [False, True])
def test_voxels_lie_where_the_header_says(tmp_path, kind, along_columns, enhanced):
    axes = np.linalg.qr(np.random.default_rng(len(kind)).standard_normal((3, 3)))[0]
    places, rows, columns = PLACES[kind], 11, 6
    # The stack leans over a little. Numbers are texts of at most 16 characters.
    corners = np.round([[-103.25, 41.5, 77.125] + place * (axes[2] + 0.25 * axes[0]) for place in places], 9)
    orientation = np.round(np.concatenate(axes[:2]), 9)
    header = {
        "ImageOrientationPatient": lambda s, t: list(orientation),
        "ImagePositionPatient": lambda s, t: list(corners[s]),
        "InPlanePhaseEncodingDirection": lambda s, t: ("COLUMN" if enhanced else "COL") if along_columns else "ROW",
    }
    magnitude = np.random.default_rng(0).integers(1, 900, (len(places), 2, rows, columns)).astype(np.uint16)
    write = write_enhanced if enhanced else write_dicom
    series = load_images(write(tmp_path / "S1", magnitude, "S1", **header))

    shape = series.magnitude.shape[2:]
    affine = series.placement.affine(series.pixel_spacing_mm, series.slice_spacing_mm, shape)
    normal = np.cross(orientation[:3], orientation[3:])
    for n, s in enumerate(sorted(range(len(places)), key=lambda s: normal @ corners[s])):
        for i, j in np.ndindex(rows, columns):
            h, w = (j, i) if along_columns else (i, j)
            assert series.magnitude[n, 1, h, w] == values(magnitude[s, 1, i, j])
            # PS3.3 C.7.6.2.1.1, where i counts rows and j columns; NIfTI turns the first two axes around.
            expected = corners[s] + orientation[:3] * 1.25 * j + orientation[3:] * 1.5 * i
            np.testing.assert_allclose((affine @ [h, w, n, 1])[:3], expected * [-1, -1, 1], atol=1e-4)


# --- What is refused ---


def change_whole(path, **attributes):
    image = pydicom.dcmread(path)
    for name, value in attributes.items():
        setattr(image, name, value)
    image.save_as(path)


def without(path, *names):
    image = pydicom.dcmread(path)
    for name in names:
        delattr(image, name)
    image.save_as(path)


def shorten(path, num_bytes):
    path.write_bytes(path.read_bytes()[:-num_bytes])


@pytest.fixture
def bad_files(tmp_path, small):
    folder = tmp_path / "bad"
    for name in ("absurd", "more", "fewer", "tall", "cut", "no_pixels", "no_places", "nonsense"):
        write_enhanced(folder / name / "E1", small, "S1")
    change_whole(folder / "absurd" / "E1", NumberOfFrames=2_000_000_000)
    change_whole(folder / "more" / "E1", NumberOfFrames=13)
    change_whole(folder / "fewer" / "E1", NumberOfFrames=11)
    change_whole(folder / "tall" / "E1", Rows=20000, Columns=20000)
    shorten(folder / "cut" / "E1", 100)
    without(folder / "no_pixels" / "E1", "PixelData")
    image = pydicom.dcmread(folder / "no_places" / "E1")
    del image.PerFrameFunctionalGroupsSequence[5].PlanePositionSequence
    image.save_as(folder / "no_places" / "E1")
    image = pydicom.dcmread(folder / "nonsense" / "E1")
    image.PerFrameFunctionalGroupsSequence[5].PlanePositionSequence[0].ImagePositionPatient = [1, 2]
    image.save_as(folder / "nonsense" / "E1")
    write_dicom(folder / "frames", small[:1, :1], "S1", NumberOfFrames=lambda s, t: 12)
    write_enhanced(folder / "still" / "E1", small[:, :1], "S1")
    write_enhanced(folder / "uneven" / "E1", small, "S1")
    write_dicom(folder / "uneven", small[:1, :3], "S1", TriggerTime=lambda s, t: 300 + t)
    write_dicom(folder / "damaged", small, "S1", SeriesInstanceUID=lambda s, t: f"1.2.{s}")
    (folder / "damaged" / "IM0003").write_bytes((folder / "damaged" / "IM0003").read_bytes()[:300])
    return folder


WRONG = [
    ("absurd", "absurd/E1: NumberOfFrames: found 2000000000, allowed 12, for which there are functional groups"),
    ("more", "more/E1: NumberOfFrames: found 13, allowed 12"),
    ("fewer", "fewer/E1: NumberOfFrames: found 11, allowed 12"),
    ("tall", "tall/E1: pixels: found 8.94 GiB declared where "),
    ("cut", "cut: pixels of E1 cannot be read"),
    ("no_pixels", "no_pixels/E1: no PixelData in it"),
    ("no_places", "no_places/E1: no ImagePositionPatient in it"),
    ("nonsense", "nonsense/E1: ImagePositionPatient: found 2, allowed finite numbers, 3 of them"),
    ("frames", "frames/IM0000: found 12 frames without functional groups, which would tell where each of them lies"),
    ("still", "still: found no cine series of magnitude, but one cardiac phase: E1"),
    ("uneven", "uneven: slices have 4 to 7 cardiac phases, allowed equally many"),
    ("damaged", "damaged/IM0003: "),
    ("damaged/IM0001", "damaged/IM0003: "),
    ("still/E1", "still/E1: found no cine series of magnitude, but one cardiac phase: E1"),
    ("still/s0001", "still/s0001: no such file or folder"),
]


@pytest.mark.parametrize("name,message", WRONG)
def test_wrong_files_are_one_line(name, message, bad_files, tmp_path, capsys):
    expect_prepare_error(f"images {{dir}}/{name} --split 1 0 0", message, bad_files, tmp_path, capsys)


def test_no_room_is_made_for_what_is_not_stored(bad_files, monkeypatch):
    def no_room(*arguments):
        raise AssertionError("decoded")

    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(no_room))
    monkeypatch.setattr(np, "empty", no_room)
    with pytest.raises(UserError, match="8.94 GiB"):
        load_images(bad_files / "tall")
