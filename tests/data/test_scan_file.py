"""Which files are refused, and in which words."""

import h5py
import numpy as np
import pytest

from meddlr_greedy.data.scan_file import Geometry, read_header, read_slice, write_scan
from meddlr_greedy.errors import UserError
from meddlr_greedy.files import WriteError
from tests.helpers.examples import (
    COILS,
    FRAMES,
    HEIGHT,
    KINDS,
    MAPS,
    WIDTH,
    prospective,
    rename,
    scan_arrays,
    write_arrays,
)


def crop(arrays, name, axis):
    return {**arrays, name: arrays[name].take([0], axis=axis)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: rename(a, "kspace"), "no dataset 'kspace'"),
        (lambda a: rename(a, "maps"), "no dataset 'maps'"),
        (lambda a: rename(a, "target"), "no dataset 'target'"),
        (lambda a: crop(a, "maps", -2), "maps has shape"),
        (lambda a: crop(a, "maps", 2), "maps has shape"),
        (lambda a: crop(a, "maps", -1), "target has shape"),
        (lambda a: crop(a, "target", 1), "target has shape"),
        (lambda a: crop(a, "target", 0), "target has shape"),
        (lambda a: {**a, "kspace": a["kspace"][0, 0]}, "kspace has shape"),
        (lambda a: {**a, "kspace": a["kspace"].real}, "kspace is float32"),
        (lambda a: {**a, "kspace": a["kspace"].astype(complex)}, "kspace is complex128"),
        (lambda a: {**a, "maps": a["maps"].real}, "maps is float32"),
        (lambda a: {**a, "traj": np.zeros((3, 2))}, "not Cartesian"),
    ],
)
def test_wrong_contents_are_refused(tmp_path, kind, change, words):
    arrays = scan_arrays(0, kind)
    path = write_arrays(tmp_path / "good.h5", arrays, trajectory="cartesian")
    assert read_header(path).shape == arrays["kspace"].shape
    path = write_arrays(tmp_path / "wrong.h5", change(arrays))
    with pytest.raises(UserError, match=words) as error:
        read_header(path)
    assert str(error.value).startswith(path) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: {**a, "mask": a["mask"].astype(np.int64)}, "mask is int64; uint8 and float32"),
        (lambda a: {**a, "mask": a["mask"][..., 0]}, "mask has shape"),
        (lambda a: {**a, "mask": a["mask"][:2]}, "mask has shape"),
        (lambda a: {**a, "mask": a["mask"].repeat(2, axis=1)}, "mask has shape .* needed"),
        (lambda a: {**a, "mask": a["mask"][:, :, :, :2]}, "mask has shape"),
        (
            lambda a: {key: value for key, value in a.items() if key != "mask"},
            "no dataset 'target' .* 'mask' may lack it",
        ),
        (lambda a: {key: value for key, value in a.items() if key != "maps"}, "no dataset 'maps'"),
    ],
)
def test_wrong_prospective_scans_are_refused(tmp_path, change, words):
    assert read_header(write_arrays(tmp_path / "good.h5", prospective())).shape == (3, HEIGHT, WIDTH, FRAMES, COILS)
    with pytest.raises(UserError, match=rf"wrong\.h5: {words}"):
        read_header(write_arrays(tmp_path / "wrong.h5", change(prospective())))


@pytest.mark.parametrize("trajectory", ["radial", np.bytes_("spiral")])
def test_attribute_that_says_non_cartesian(tmp_path, trajectory):
    path = write_arrays(tmp_path / "scan.h5", scan_arrays(0, "cine"), trajectory=trajectory)
    with pytest.raises(UserError, match="scan.h5: not Cartesian"):
        read_header(path)


@pytest.mark.parametrize(
    "name, good, bad",
    [
        (
            "pixel_spacing_mm",
            [1.5, 2],
            [[1.5, 0], [1e300, 1], [1, 1e-300], [1.5, -1], [np.nan, 1], [1.5], 1.5, [1, 1, 1], ["1", "1"], "fine"],
        ),
        ("slice_spacing_mm", 8, [0, [8, 8], "thick"]),
        ("frame_time_ms", 40, [0, 1e30, -40.0, np.inf, [40, 40], "40", h5py.Empty("f")]),
    ],
)
def test_attributes_that_are_no_positive_numbers(tmp_path, name, good, bad):
    read_header(write_arrays(tmp_path / "good.h5", scan_arrays(0, "cine"), **{name: good}))
    for value in bad:
        path = write_arrays(tmp_path / "scan.h5", scan_arrays(0, "cine"), **{name: value})
        with pytest.raises(UserError, match=rf"scan\.h5: attribute {name} is .* allowed") as error:
            read_header(path)
        assert "\n" not in str(error.value)


def test_files_that_are_no_hdf5(tmp_path):
    good = tmp_path / "good.h5"
    write_arrays(good, scan_arrays(0, "cine"))
    torn, text = tmp_path / "torn.h5", tmp_path / "text.h5"
    torn.write_bytes(good.read_bytes()[:-1000])
    text.write_text("no data")
    for path in (torn, text):
        with pytest.raises(UserError, match=f"{path.name}: truncated, damaged or not an HDF5 file"):
            read_header(str(path))
    with pytest.raises(UserError, match="missing.h5: no such file"):
        read_header(str(tmp_path / "missing.h5"))


@pytest.mark.parametrize("kind", KINDS)
def test_without_training_no_target_is_needed_and_a_mask_counts(tmp_path, kind):
    arrays = scan_arrays(0, kind)
    path = write_arrays(tmp_path / "full.h5", arrays)
    assert read_header(path, for_training=False).contents == {"kspace", "maps", "target"}
    del arrays["target"]
    path = write_arrays(tmp_path / "without.h5", arrays)
    assert read_header(path, for_training=False).contents == {"kspace", "maps"}
    with pytest.raises(UserError, match=r"without\.h5: no dataset 'target'"):
        read_header(path)
    mask = np.ones((3, 1, WIDTH, *([FRAMES] if kind == "cine" else []), 1), np.uint8)
    path = write_arrays(tmp_path / "mask.h5", {**arrays, "mask": mask})
    assert read_header(path, for_training=False).contents == {"kspace", "maps", "mask"}
    path = write_arrays(tmp_path / "wrong.h5", {**arrays, "mask": mask[:, :, 1:]})
    with pytest.raises(UserError, match=r"wrong\.h5: mask has shape .* or .* is needed"):
        read_header(path, for_training=False)


def test_in_training_a_mask_counts_in_cine_alone(tmp_path):
    mask = np.ones((3, 1, WIDTH, 1), np.uint8)
    path = write_arrays(tmp_path / "plane.h5", {**scan_arrays(0, "plane"), "mask": mask})
    assert read_header(path).contents == {"kspace", "maps", "target"}
    assert read_header(write_arrays(tmp_path / "cine.h5", prospective())).contents == {"kspace", "maps", "mask"}


def slices_of(arrays):
    return ({name: array[s] for name, array in arrays.items()} for s in range(3))


@pytest.mark.parametrize("arrays", [scan_arrays(0, "cine"), scan_arrays(0, "plane"), prospective()])
def test_what_is_written_is_read(tmp_path, arrays):
    path = tmp_path / "new" / "scan.h5"
    attributes = {"pixel_spacing_mm": (1.5, 2.0), "slice_spacing_mm": 8.0, "frame_time_ms": None, "subject_id": "x"}
    write_scan(path, 3, slices_of(arrays), attributes)
    header = read_header(str(path))
    assert header.shape == arrays["kspace"].shape and header.num_maps == MAPS
    assert header.is_cine == (arrays["kspace"].ndim == 5) and header.contents == set(arrays)
    assert header.geometry == Geometry((1.5, 2.0), None) and header.slice_spacing_mm == 8.0
    assert header.attributes["subject_id"] == "x" and "frame_time_ms" not in header.attributes
    for s in range(3):
        found = read_slice(str(path), s, arrays)
        assert all(np.array_equal(found[name], array[s]) for name, array in arrays.items())
        assert all(found[name].dtype == array.dtype for name, array in arrays.items())


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def broken():
        yield next(slices_of(scan_arrays(0, "cine")))
        raise UserError("slice 1: found NaN")

    path = tmp_path / "scan.h5"
    with pytest.raises(UserError, match="^slice 1: found NaN$"):
        write_scan(path, 3, broken(), {})
    assert not list(tmp_path.iterdir())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Dataset, "__setitem__", full)
    with pytest.raises(WriteError, match=r"scan\.h5: cannot be written \(No space left on device\)"):
        write_scan(path, 3, slices_of(scan_arrays(0, "cine")), {})
    assert not list(tmp_path.iterdir())


def test_a_slice_that_cannot_be_read(tmp_path):
    path = tmp_path / "scan.h5"
    write_arrays(path, scan_arrays(0, "cine"))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"scan\.h5: slice 2: truncated, damaged or not a readable"):
        read_slice(str(path), 2, ["kspace"])
