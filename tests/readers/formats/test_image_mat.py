"""Cine images in MAT files of both kinds, written by scipy and h5py."""

import json
import struct

import h5py
import numpy as np
import pytest
import scipy.io

from meddlr_greedy.errors import UserError
from meddlr_greedy.preparation.sources import Source
from meddlr_greedy.readers.formats.images import load_images
from meddlr_greedy.readers.images import ImagesReader
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import PHASES, SLICES, expected_magnitude, prepared, psnr, read, target_and_support
from tests.helpers.scanners import write_mat

KINDS = ("version 5", "compressed", "version 7.3")


def matlab(magnitude):
    """(slice, phase, row, column) to (row, column, slice, phase), in MATLAB's order of the memory."""
    return np.asfortranarray(magnitude.transpose(2, 3, 0, 1))


def written(kind, path, **variables):
    if kind == "version 7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, values in variables.items():
                stored = np.atleast_2d(values).T  # MATLAB knows no vectors
                if np.iscomplexobj(values):
                    stored = np.rec.fromarrays([stored.real, stored.imag], names="real,imag")
                file[name] = stored
    else:
        scipy.io.savemat(path, variables, do_compression=kind == "compressed")
    return path


PLACE = {
    "position_mm": np.array([[1.0, 2, 3], [1, 2 - 8 * 0.6, 3 + 8 * 0.8]]),
    "readout_direction": np.array([1.0, 0, 0]),
    "phase_direction": np.array([0, 0.8, 0.6]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_come_back(magnitude, tmp_path, kind):
    beside = {"pixel_spacing_mm": np.array([1.5, 1.25]), "trigger_time_ms": 40 * np.arange(PHASES), **PLACE}
    source = written(kind, tmp_path / "S1.mat", cine=matlab(magnitude), **beside, note=np.arange(3))
    series = load_images(source)
    np.testing.assert_array_equal(series.magnitude, magnitude)
    assert series.pixel_spacing_mm == (1.5, 1.25) and series.frame_time_ms == 40
    assert series.slice_spacing_mm == pytest.approx(8) and series.subject_id == "S1"
    assert series.notes == (f"{source}: cine of 64 x 48 x 2 x 4 taken for (row, column, slice, phase)",)

    (path,) = prepared(tmp_path / "out", ImagesReader(), source, options={"noise": 0})
    target, support = target_and_support(path)
    assert psnr(target, expected_magnitude(magnitude, "S1"), support) > 50
    attributes = read(path)[1]
    for name, values in PLACE.items():
        np.testing.assert_allclose(attributes[name], values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [np.float32, np.float64, np.int16, np.uint8])
def test_a_single_slice_of_any_numbers(magnitude, tmp_path, kind, number):
    small = (magnitude[:1, :3, :17, :14] // 8).astype(number)
    place = {**PLACE, "position_mm": PLACE["position_mm"][:1]}
    source = written(kind, tmp_path / "a.MAT", img=matlab(small)[:, :, 0], frame_time_ms=np.array(33.5), **place)
    series = load_images(source)
    np.testing.assert_array_equal(series.magnitude, small)
    assert series.magnitude.dtype == number
    assert series.frame_time_ms == 33.5 and series.pixel_spacing_mm is None and series.slice_spacing_mm is None
    np.testing.assert_array_equal(series.placement.position_mm, place["position_mm"])
    assert series.notes == (f"{source}: img of 17 x 14 x 3 taken for (row, column, phase), a single slice",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [np.complex64, np.complex128])
def test_of_complex_images_the_magnitude_is_taken(heart, tmp_path, kind, number):
    image = heart.image.astype(number)
    series = load_images(written(kind, tmp_path / "a.mat", data=matlab(image)))
    np.testing.assert_array_equal(series.magnitude, np.abs(image))
    assert series.notes[1].endswith("a.mat: data is complex, its magnitude is taken")


@pytest.mark.parametrize("kind", KINDS)
def test_which_variable(magnitude, tmp_path, kind):
    small = matlab(magnitude[:, :, ::4, ::4])
    variables = {"Image": small, "labels": small + 1, "other": small[..., 0] + 2, "roi": small > 3, "t": "a text"}
    source = written(kind, tmp_path / "a.mat", **({**variables, "t": np.ones(1)} if kind == KINDS[2] else variables))
    for name, added in ((None, 0), ("labels", 1), ("other", 2)):
        scan = Source(ImagesReader(), [str(source)], {"variable": name, "matrix": (8, 8)}).open_scan(source)
        assert any(f"a.mat: {name or 'Image'} of 16 x 12" in note for note in scan.notes)
        assert load_images(source, name).magnitude.min() == small.min() + added
    (path,) = prepared(tmp_path / "out", ImagesReader(), source, options={"variable": "labels", "coils": 2})
    assert json.loads(read(path)[1]["parameters"])["options"]["variable"] == "labels"


def test_mat_files_in_folders(magnitude, tmp_path, capsys):
    small = matlab(magnitude[:, :, ::2, ::2])
    for name in ("a", "b"):
        written(KINDS[0], tmp_path / f"{name}.mat", img=small)
    (tmp_path / "c").mkdir()
    written(KINDS[1], tmp_path / "c" / "contours.mat", contours={"x": np.ones(3)}, y=np.ones(3))
    written(KINDS[2], tmp_path / "c" / "points.mat", y=np.ones((2, 3)))
    options = {"noise": 0, "coils": 2}
    paths = prepared(tmp_path / "out", ImagesReader(), tmp_path, split=("1", "1", "0"), options=options, progress=True)
    assert [path.stem for path in paths] == ["a", "b"]
    assert f"note: {tmp_path}/c: left out, no images in contours.mat, points.mat" in capsys.readouterr().out


def test_k_space_is_not_taken_for_images(heart, tmp_path):
    source = write_mat(tmp_path / "a.mat", matlab(heart.kspace[:, :, 0]), "kspace_single_full")
    with pytest.raises(UserError, match="found kspace_single_full, k-space by its name, .*`prepare cmrxrecon` reads"):
        load_images(source)
    assert load_images(source, "kspace_single_full").magnitude.shape == heart.image.shape


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory, magnitude):
    folder = tmp_path_factory.mktemp("bad")
    small = matlab(magnitude[:, :, :16, :16])

    def write(name, kind=KINDS[0], **variables):
        return written(kind, folder / f"{name}.mat", **variables)

    write("two", one=small, other=small)
    write("many", **{f"v{i}": np.ones(1) for i in range(10)})
    write("two_named", img=small, image=small)
    write("none", a=np.ones(3), b="text", c={"img": small})
    write("five", img=small[..., None])
    write("still", img=small[..., :1, None][..., 0, :])
    write("negative", KINDS[1], img=-small.astype(float))
    write("nan", KINDS[2], img=small * np.nan)
    write("cells", img=np.array([small, small], object))
    write("yes", img=small > 5)
    write("times", img=small, trigger_time_ms=np.array([3.0, 2, 1, 0]))
    write("both_times", img=small, trigger_time_ms=40 * np.arange(4), frame_time_ms=40)
    write("no_time", img=small, frame_time_ms=-40.0)
    write("few", img=small, pixel_spacing_mm=np.ones(3))
    write("words", img=small, pixel_spacing_mm="1.5 mm")
    write("places", img=small, **{**PLACE, "position_mm": np.ones((3, 3))})
    write("no_directions", KINDS[1], img=small, position_mm=PLACE["position_mm"])
    write("one_direction", img=small, **{**PLACE, "phase_direction": PLACE["readout_direction"]})
    for kind, name in zip(KINDS, ("cut5", "cut7", "cut73")):
        content = write(name, kind, img=small).read_bytes()
        (folder / f"{name}.mat").write_bytes(content[: len(content) // 2])
    content = bytearray(write("rows", img=small).read_bytes())
    content[128 + 32 : 128 + 36] = struct.pack("<I", 10**8)
    (folder / "rows.mat").write_bytes(content)
    with h5py.File(folder / "chunks.mat", "w") as file:
        file.create_dataset("img", (10**7, 3, 16, 16), "f4", chunks=(1, 3, 16, 16))
    with h5py.File(folder / "link.mat", "w") as file:
        file["img"] = h5py.ExternalLink("missing.mat", "/img")
    (folder / "text.mat").write_text("hello")
    return folder


WRONG = [
    ("two", "found one (uint16 of shape (4, 2, 16, 16)), other (uint16 of shape (4, 2, 16, 16)), allowed one array of"),
    ("two", "numbers of 3 or 4 axes; --variable tells which"),
    ("two_named", "found img (uint16 of shape (4, 2, 16, 16)), image (uint16 of"),
    ("none", "none.mat: found a (float64 of shape (3, 1)), b (char), c (struct), allowed one array of numbers"),
    ("five", "five.mat: found img (uint16 of shape (1, 4, 2, 16, 16)), allowed one array"),
    ("still", "still.mat: no cardiac phases: found 1, allowed 2 or more"),
    ("negative", "negative.mat: magnitude: found -"),
    ("nan", "nan.mat: magnitude: found NaN"),
    ("cells", "cells.mat: found img (cell), allowed one array of numbers"),
    ("yes", "yes.mat: found img (logical of shape (4, 2, 16, 16)), allowed one array of numbers"),
    ("times", "times.mat: trigger_time_ms: found times that do not increase"),
    ("both_times", "both_times.mat: found trigger_time_ms and frame_time_ms, allowed one of them"),
    ("no_time", "no_time.mat: frame_time_ms: found -40, allowed above 0"),
    ("few", "few.mat: pixel_spacing_mm: found float64 of shape (3,), allowed finite numbers of shape (2,)"),
    ("words", "words.mat: pixel_spacing_mm: found char, allowed real numbers"),
    ("places", "attribute position_mm is float64 of shape (3, 3); allowed finite numbers of shape (2, 3)"),
    ("no_directions", "attribute position_mm without readout_direction; allowed all of"),
    ("one_direction", "readout_direction and phase_direction are no two unit vectors"),
    ("cut5", "cut5.mat: found no variable at byte 128, truncated or damaged"),
    ("cut7", "cut7.mat: truncated, damaged or not a MAT file"),
    ("cut73", "cut73.mat: truncated, damaged or not a MAT file"),
    ("rows", "rows.mat: img: found uint16 of shape (4, 2, 16, 100000000) in "),
    ("chunks", "chunks.mat: img: found 0 of 10000000 chunks"),
    ("link", "link.mat: img: found a link to missing.mat: /img, which is not there"),
    ("text", "text.mat: truncated, damaged or not a MAT file of version 5 to 7.3"),
    ("two --variable three", "--variable: found no numbers of 3 or 4 axes of the name 'three' in one (uint16"),
    ("yes --variable img", "--variable: found no numbers of 3 or 4 axes of the name 'img'"),
    ("absent", "absent.mat: no such file"),
    ("many", "v5 (float64 of shape (1, 1)) and 4 more, allowed one array"),
]


@pytest.mark.parametrize("name,message", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(name, message, bad_files, tmp_path, capsys):
    name, _, options = name.partition(" ")
    arguments = f"images {{dir}}/{name}.mat {options} --split 1 0 0"
    expect_prepare_error(arguments, message, bad_files, tmp_path, capsys)


def test_the_shape_of_the_test(magnitude):
    assert magnitude.shape[:2] == (SLICES, PHASES) and len({*magnitude.shape}) == 4
