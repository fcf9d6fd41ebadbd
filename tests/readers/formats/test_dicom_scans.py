"""Folders in which scanners left several series: what is a scan, what is left out, and what is told of it."""

import shlex

import numpy as np
import pydicom
import pytest

from meddlr_greedy import prepare
from meddlr_greedy.errors import UserError
from meddlr_greedy.preparation.sources import Source
from meddlr_greedy.readers.formats.images import load_images
from meddlr_greedy.readers.images import ImagesReader
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import prepared, read
from tests.helpers.scanners import write_dicom, write_enhanced

VIEWS = {"sax": [0.6, 0.8, 0, 0, 0, -1], "4ch": [1, 0, 0, 0, 1, 0], "2ch": [0, 1, 0, 0, 0, -1]}


@pytest.fixture
def images(magnitude):
    """Eight stacks (3, 4, 16, 12), no two images of which are the same."""
    rng = np.random.default_rng(0)
    return rng.integers(1, 3000, (8, 3, 4, 16, 12)).astype(np.uint16)


def values(magnitude):
    return 2 * (magnitude // 2) + 6.0


def write_series(folder, magnitude, number, description, place=0, view="sax", times=40.0, **changes):
    """A series whose first slice lies at a place along the normal of its view, in mm; others follow 8 mm apart."""
    normal = np.cross(VIEWS[view][:3], VIEWS[view][3:])
    header = {
        "SeriesInstanceUID": lambda s, t: f"1.2.{number}",
        "SeriesNumber": lambda s, t: number,
        "SeriesDescription": lambda s, t: description,
        "AcquisitionDate": lambda s, t: "20240102",
        "AcquisitionTime": lambda s, t: f"10{number % 60:02d}{t:02d}.5",
        "ImageOrientationPatient": lambda s, t: VIEWS[view],
        "ImagePositionPatient": lambda s, t: [*np.round(10 + (place + 8 * s) * normal, 9)],
        "TriggerTime": lambda s, t: times * t,
        **{name: lambda s, t, value=value: value for name, value in changes.items()},
    }
    present = set(folder.glob("*"))
    write_dicom(folder, magnitude, "P1", **header)
    return sorted(path.name for path in set(folder.glob("*")) - present)


def some(names):
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@pytest.fixture
def mixed(images, tmp_path):
    """A folder as of a PACS, the scans that it holds, and what there is to tell of it."""
    folder, (sax, again, long_axis, flow, *others) = tmp_path / "disc" / "P1", images
    files = {}
    files[12] = write_series(folder, sax[2:], 12, "cine_sax", place=16)
    files[13] = write_series(folder, again[1:2], 13, "cine_sax", place=8, times=41.0)
    files[1] = [
        name for view in VIEWS for name in write_series(folder, others[0][:1, :1], 1, "localizer", view=view, place=3)
    ]
    files[11] = write_series(folder, sax[1:2], 11, "cine_sax", place=8)
    files[5] = write_series(folder, long_axis[:1], 5, "cine_lax", view="4ch")
    files[6] = write_series(folder, long_axis[1:2], 6, "cine_lax", view="2ch")
    files[10] = write_series(folder, sax[:1], 10, "cine_sax", ImageType=["ORIGINAL", "PRIMARY", "M", "ND"])
    files[20] = write_series(folder, flow[:1], 20, "flow", place=8, ImageType=["ORIGINAL", "PRIMARY", "M", "ND"])
    phase = write_series(folder, flow[1:2], 20, "flow", place=8, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])
    phase += write_series(folder, flow[2:], 21, "flow", place=8, ImageType=["ORIGINAL", "PRIMARY", "PHASE MAP", "P"])
    report = pydicom.dcmread(folder / files[1][0])
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = pydicom.uid.BasicTextSRStorage
    report.save_as(folder / "report")
    scans = {
        "s0005": long_axis[:1],
        "s0006": long_axis[1:2],
        "s0010": np.stack([sax[0], again[1], sax[2]]),
        "s0020": flow[:1],
    }
    names = ["series 5 (cine_lax)", "series 6 (cine_lax)", "series 10 (cine_sax)", "series 20 (flow)"]
    notes = [
        f"{folder}: left out, one cardiac phase: {some(sorted(files[1]))}",
        f"{folder}: left out, phase images: {some(sorted(phase))}",
        f"{folder}: left out, no images: report",
        f"{folder}: holds 4 scans: {', '.join(f'{scan} is {name}' for scan, name in zip(scans, names))}",
        f"{folder}: left out, series 11 (cine_sax) was acquired again as series 13 (cine_sax): {some(files[11])}",
        f"{folder}: one scan of several series: series 10 (cine_sax), series 12 (cine_sax), series 13 (cine_sax)",
    ]
    return folder, scans, notes, files


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_folder_of_mixed_series_gives_its_scans_and_tells_of_the_rest(mixed, tmp_path, capsys, jobs):
    folder, scans, notes, _ = mixed
    paths = prepared(tmp_path / "out", ImagesReader(), folder.parent, options={"coils": 2}, progress=True, jobs=jobs)
    assert [path.stem for path in paths] == [f"P1_{name}" for name in scans]
    printed = [line[6:] for line in capsys.readouterr().out.splitlines() if line.startswith(f"note: {folder}")]
    assert sorted(printed) == sorted(notes)
    for path, (name, magnitude) in zip(paths, scans.items()):
        np.testing.assert_array_equal(load_images(folder / name).magnitude, values(magnitude))
        assert read(path)[0]["kspace"].shape[0] == len(magnitude) and read(path)[1]["subject_id"] == "P1"
    sax = load_images(folder / "s0010")
    assert sax.slice_spacing_mm == pytest.approx(8) and [*sax.notes] == notes[-2:]
    np.testing.assert_allclose(
        sax.placement.first_mm((1.5, 1.25), (16, 12))[1], 10 + 8 * np.cross(VIEWS["sax"][:3], VIEWS["sax"][3:])
    )


def test_a_scan_of_a_folder_is_made_again_where_its_files_changed(mixed, tmp_path, capsys):
    folder, scans, _, files = mixed
    command = shlex.split(f"images {folder} --output {tmp_path}/out --split 1 0 0 --coils 2")
    prepare.main(command)
    written = {path.name: path.stat().st_ino for path in (tmp_path / "out" / "scans").iterdir()}
    assert sorted(written) == [f"P1_{name}.h5" for name in scans]
    # One image of the slice that was acquired again, and one that is left out.
    for name in (files[13][2], files[11][1]):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    capsys.readouterr()
    prepare.main([*command, "--overwrite"])
    assert "3 of 4 files were there; kept" in capsys.readouterr().out
    again = {path.name: path.stat().st_ino for path in (tmp_path / "out" / "scans").iterdir()}
    assert [name for name in written if written[name] != again[name]] == ["P1_s0010.h5"]


@pytest.mark.parametrize("number", [7, None])
def test_one_series_for_each_slice_is_one_scan(images, tmp_path, number):
    """With the bits and the name of the same slices in one series, also where descriptions number the slices."""
    found = {}
    for kind in ("one", "each"):
        folder = tmp_path / kind / "P1"
        for s in (2, 0, 1):
            series = (30, "sax_b") if kind == "one" else (30 + 2 * s, f"sax_b{s}")
            changes = {} if number else {"SeriesNumber": None, "SeriesInstanceUID": None if kind == "one" else f"1.{s}"}
            write_series(folder, images[0, s : s + 1], *series, place=8 * s, **changes)
        (path,) = prepared(tmp_path / f"out_{kind}", ImagesReader(), folder.parent, options={"coils": 2})
        assert path.stem == "P1"
        found[kind], attributes = read(path)
        assert attributes["slice_spacing_mm"] == pytest.approx(8)
    for name, array in found["one"].items():
        np.testing.assert_array_equal(array, found["each"][name])


def test_another_acquisition_of_the_same_slices_is_another_scan(images, tmp_path):
    """At another heart rate (stress), or with other phases. Of two runs of one rate the later one counts."""
    folder = tmp_path / "P1"
    for number, (stack, times) in enumerate(zip(images, (40.0, 30.0, 42.0))):
        for s in (1, 0, 2):
            write_series(folder, stack[s : s + 1], 10 * number + s + 1, "sax", place=8 * s, times=times)
    write_series(folder, images[3, 1:2, :3], 40, "sax", place=8)
    expected = {"s0021": images[2], "s0011": images[1], "s0040": images[3, 1:2, :3]}
    assert ImagesReader().find([str(folder)]) == [folder / name for name in sorted(expected)]
    for name, stack in expected.items():
        np.testing.assert_array_equal(load_images(folder / name).magnitude, values(stack))
    notes = load_images(folder / "s0021").notes
    assert sum("was acquired again as series" in note for note in notes) == 3


@pytest.mark.parametrize("later", ["time", "number"])
def test_the_later_acquisition_counts(images, tmp_path, later):
    folder = tmp_path / "P1"
    first, second = (8, 4) if later == "time" else (4, 8)
    changes = {"AcquisitionDate": None, "AcquisitionTime": None} if later == "number" else {}
    write_series(
        folder, images[0, :1], first, "sax", **{**changes, **({"AcquisitionTime": "101500"} if not changes else {})}
    )
    write_series(
        folder, images[1, :1], second, "sax", **{**changes, **({"AcquisitionTime": "101501"} if not changes else {})}
    )
    series = load_images(folder)
    np.testing.assert_array_equal(series.magnitude, values(images[1, :1]))
    assert any(f"left out, series {first} (sax) was acquired again as series {second} (sax)" in n for n in series.notes)


@pytest.mark.parametrize("enhanced", [False, True])
def test_two_views_of_one_series_are_two_scans(images, tmp_path, enhanced):
    views = {"ImageOrientationPatient": lambda s, t: VIEWS["4ch" if s else "sax"]}
    if enhanced:
        place = write_enhanced(tmp_path / "E1.dcm", images[0, :2], "", whole={"SeriesNumber": 7}, **views)
    else:
        place = write_dicom(tmp_path / "E1", images[0, :2], "", SeriesNumber=lambda s, t: 7, **views)
    paths = ImagesReader().find([str(place)])
    assert paths == [place / "s0007-1", place / "s0007-2"]
    found = sorted((load_images(path).magnitude for path in paths), key=np.sum)
    for series, stack in zip(found, sorted((values(images[0, s : s + 1]) for s in range(2)), key=np.sum)):
        np.testing.assert_array_equal(series, stack)
    with pytest.raises(UserError, match="found the scans s0007-1, s0007-2, allowed one: .*/s0007-1"):
        load_images(place)
    scans = prepared(tmp_path / "out", ImagesReader(), place, options={"coils": 2})
    assert [scan.stem for scan in scans] == ["E1_s0007-1", "E1_s0007-2"]
    assert {read(scan)[1]["subject_id"] for scan in scans} == {"E1"}


def test_frames_of_phase_are_left_out_of_an_enhanced_file(images, tmp_path):
    kinds = {"ComplexImageComponent": lambda s, t: "PHASE" if s == 1 else "MAGNITUDE"}
    series = load_images(
        write_enhanced(tmp_path / "E1", images[0], "P1", whole={"ComplexImageComponent": "MIXED"}, **kinds)
    )
    np.testing.assert_array_equal(series.magnitude, values(images[0, [0, 2]]))
    assert series.notes == (f"{tmp_path}/E1: left out, phase images: E1",)


@pytest.mark.parametrize(
    "changes,kind",
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "phase"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"]}, "phase"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "R", "ND"]}, "real"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "I", "ND"]}, "imaginary"),
        ({"ComplexImageComponent": "PHASE"}, "phase"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], "ComplexImageComponent": "REAL"}, None),
        ({"ImageType": ["DERIVED", "PRIMARY", "M", "DIS2D"]}, None),
        ({"ImageType": ["P", "M"]}, None),
        ({"ImageType": "P"}, None),
    ],
)
def test_what_is_magnitude(images, tmp_path, changes, kind):
    write_series(tmp_path / "P1", images[0], 3, "cine", **changes)
    if kind is None:
        np.testing.assert_array_equal(load_images(tmp_path / "P1").magnitude, values(images[0]))
    else:
        with pytest.raises(UserError, match=f"found no cine series of magnitude, but {kind} images: IM0000, IM0001"):
            load_images(tmp_path / "P1")


def test_images_that_are_no_slices_are_left_out_beside_a_scan(images, tmp_path):
    folder = tmp_path / "P1"
    write_series(folder, images[0], 3, "cine")
    (shot,) = write_series(folder, images[1, :1, :1], 99, "screen")
    image = pydicom.dcmread(folder / shot)
    del image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing
    image.save_as(folder / shot)
    (color,) = write_series(folder, images[1, :1, :1], 98, "map", SamplesPerPixel=3)
    series = load_images(folder)
    np.testing.assert_array_equal(series.magnitude, values(images[0]))
    assert series.notes == (f"{folder}: left out, no magnitude images whose place is known: {shot}, {color}",)
    # Not so where others of the series have a place, or where nobody knows the series.
    for uid in ("1.2.3", None):
        image.SeriesInstanceUID = uid
        image.save_as(folder / shot)
        with pytest.raises(UserError, match=f"{shot}: no PixelSpacing, ImageOrientationPatient, ImagePositionPatient"):
            load_images(folder)


def test_matrix_and_phase_encoding_tell_scans_apart(images, tmp_path):
    folder = tmp_path / "P1"
    write_series(folder, images[0, :1], 3, "cine")
    write_series(folder, images[1, :1, :, :14], 4, "cine", place=8)
    write_series(folder, images[2, :1], 5, "cine", place=16, PixelSpacing=[1.5, 1.5])
    write_series(folder, images[3, :1], 6, "cine", place=24, InPlanePhaseEncodingDirection="COL")
    write_series(folder, images[4, :1], 7, "other", place=32)
    write_series(folder, images[5, :1], 8, "cine", place=40, StudyInstanceUID="1.2.3.4")
    write_series(folder, images[6, :1], 9, "cine", place=48, PatientID="P2")
    paths = ImagesReader().find([str(folder)])
    assert [path.name for path in paths] == [f"s{number:04d}" for number in range(3, 10)]
    assert [load_images(path).subject_id for path in paths] == 6 * ["P1"] + ["P2"]
    assert load_images(paths[3]).magnitude.shape == (1, 4, 12, 16)


# --- Paths ---


def test_a_file_stands_for_its_scan(mixed, tmp_path):
    folder, _, notes, files = mixed

    def find(*numbers):
        return ImagesReader().find([str(folder / files[number][1]) for number in numbers])

    assert find(5, 10, 12, 13) == [folder / "s0005", folder / "s0010"]
    source = Source(ImagesReader(), [str(folder / files[5][0])], {"coils": 2})
    (path,) = source.find(tmp_path / "out")
    assert path == folder / "s0005" and source.open_scan(path).subject_id == "P1"
    assert source.fingerprint(path)["source"] == "s0005" and not source.left_out([path])
    np.testing.assert_array_equal(load_images(folder / files[5][0]).magnitude, load_images(folder / "s0005").magnitude)
    assert ImagesReader().find([str(folder / "s0010")]) == [folder / "s0010"]
    for number, message in ((1, "in no cine series of magnitude .*one cardiac phase: "), (11, "in no cine series")):
        (path,) = find(number)
        with pytest.raises(UserError, match=f"{files[number][1]}: {message}"):
            load_images(path)


def test_a_file_of_the_only_scan_stands_for_its_folder(images, tmp_path):
    write_series(tmp_path / "P1", images[0], 3, "cine")
    for given in ("P1", "P1/IM0004", "P1/s0003"):
        assert ImagesReader().find([str(tmp_path / given)]) == [tmp_path / "P1"]
    with pytest.raises(UserError, match="s0004: no such file or folder"):
        ImagesReader().find([str(tmp_path / "P1" / "s0004")])


def test_names_of_scans_are_no_names_of_folders(images, tmp_path):
    """Exports have folders for series, too."""
    for series, view in ((3, "sax"), (4, "4ch")):
        write_series(tmp_path / "P1", images[series, :1], series, "cine", view=view)
    write_series(tmp_path / "P1" / "s0003", images[0, :1], 9, "cine")
    expected = {"s0003": images[0, :1], "s0003_": images[3, :1], "s0004": images[4, :1]}
    paths = ImagesReader().find([str(tmp_path)])
    assert paths == [tmp_path / "P1" / name for name in expected]
    for path in paths:
        np.testing.assert_array_equal(load_images(path).magnitude, values(expected[path.name]))
    scans = prepared(tmp_path / "out", ImagesReader(), tmp_path / "P1", options={"coils": 2})
    assert [scan.stem for scan in scans] == ["P1_s0003_", "P1_s0004", "s0003"]


def test_scans_of_folders_of_one_name_have_names_of_their_own(images, tmp_path):
    for patient in ("A.1", "B.1"):
        for series, view in ((3, "sax"), (4, "4ch")):
            write_series(tmp_path / patient / "d.x", images[series, :1], series, "cine", view=view)
    scans = prepared(tmp_path / "out", ImagesReader(), tmp_path / "A.1", tmp_path / "B.1", options={"coils": 2})
    assert [scan.stem for scan in scans] == [f"{p}.1_d.x_s000{s}" for p in "AB" for s in (3, 4)]


def test_series_without_numbers_are_named_by_their_descriptions(images, tmp_path):
    for series, view, description in (
        (3, "sax", "cine/../sax 1.5"),
        (4, "4ch", ""),
        (5, "2ch", "\N{GREEK SMALL LETTER MU}"),
    ):
        write_series(tmp_path / "P1", images[series, :1], series, description, view=view, SeriesNumber=None)
    names = [path.name for path in ImagesReader().find([str(tmp_path)])]
    assert sorted(names) == ["cine_sax_1_5", "scan-1", "scan-2"]


def test_folders_without_cine_are_told_of(images, tmp_path, capsys):
    write_series(tmp_path / "disc" / "scout", images[0, :, :1], 1, "localizer")
    write_series(tmp_path / "disc" / "P1", images[1], 2, "cine")
    (path,) = prepared(tmp_path / "out", ImagesReader(), tmp_path / "disc", options={"coils": 2}, progress=True)
    assert path.stem == "P1"
    told = f"{tmp_path}/disc/scout: found no cine series of magnitude, but one cardiac phase: IM0000, IM0001, IM0002"
    assert f"note: {told}\n" in capsys.readouterr().out
    (tmp_path / "disc" / "P1").rename(tmp_path / "P1")
    expect_prepare_error("images {dir} --split 1 0 0", told, tmp_path / "disc", tmp_path / "elsewhere", capsys)


def test_one_bad_scan_of_a_folder_is_skipped_and_the_others_are_there(images, tmp_path, capsys):
    write_series(tmp_path / "P1", images[0], 1, "cine")
    lost = write_series(tmp_path / "P1", images[1], 2, "cine", view="4ch")
    (tmp_path / "P1" / lost[0]).unlink()
    with pytest.raises(SystemExit):
        prepare.main(shlex.split(f"images {tmp_path}/P1 --split 1 0 0 --coils 2 --output {tmp_path}/out"))
    error = capsys.readouterr().err
    assert f"{tmp_path}/P1/s0002: slices have 3 to 4 cardiac phases" in error and "1 of 2 files could not" in error
    assert [path.name for path in (tmp_path / "out" / "scans").iterdir()] == ["P1_s0001.h5"]
