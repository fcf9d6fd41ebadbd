"""HDF5 files of k-space alone get maps, and targets where they were fully sampled; they stay as they are."""

import h5py
import numpy as np
import pytest
import torch

from meddlr_greedy import prepare
from meddlr_greedy.data.scan_file import write_scan
from meddlr_greedy.headers.placement import Placement
from meddlr_greedy.preparation.settings import CoilMaps, Preparation
from meddlr_greedy.readers.kspace_files import KspaceFileReader
from tests.helpers.errors import expect_prepare_error
from tests.helpers.fastmri import fastmri_kspace, write_fastmri
from tests.helpers.heart import COILS, HEIGHT, PHASES, SLICES, WIDTH, kt_mask, prepared, psnr, read

MAPS = Preparation(CoilMaps(calib_width=20, crop=0.5), coils=None, compression="none")
PLACEMENT = Placement(np.array([[1.0, 2, 3], [1, 2, 11]]), np.array([1.0, 0, 0]), np.array([0.0, 1, 0]))


def stored(heart, kind):
    """k-space (S, H, W, T, C) of cine, or (S, H, W, C) of the first phase."""
    kspace = heart.kspace.transpose(0, 3, 4, 1, 2).astype(np.complex64)
    return kspace if kind == "cine" else kspace[:, :, :, 0]


def write(path, attributes=None, **arrays):
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    num_slices = len(arrays["kspace"])
    slices = ({name: array[i] for name, array in arrays.items()} for i in range(num_slices))
    write_scan(path, num_slices, slices, attributes or {})
    return path


@pytest.mark.parametrize("kind", ["cine", "2D"])
def test_maps_and_targets_are_added(heart, tmp_path, kind):
    attributes = {"subject_id": "P7", "pixel_spacing_mm": (1.5, 1.25), "slice_spacing_mm": 8.0}
    attributes.update({"frame_time_ms": 40.0} if kind == "cine" else {}, **PLACEMENT.as_attributes())
    kspace = stored(heart, kind)
    source = write(tmp_path / "in" / "a.h5", attributes, kspace=kspace)
    before = source.read_bytes()
    (path,) = prepared(tmp_path / "out", KspaceFileReader(), tmp_path / "in", preparation=MAPS)
    arrays, found = read(path)
    np.testing.assert_array_equal(arrays["kspace"], kspace)
    frames = (1,) if kind == "cine" else ()
    assert arrays["maps"].shape == (SLICES, HEIGHT, WIDTH, *frames, COILS, 1)
    target = arrays["target"][..., 0]
    expected = heart.image.transpose(0, 2, 3, 1) if kind == "cine" else heart.image[:, 0]
    support = np.abs(arrays["maps"]).sum(axis=(-2, -1)) > 0
    assert psnr(target, expected, support) > 50 and support.mean() > 0.5
    for name, value in attributes.items():
        np.testing.assert_array_equal(found[name], value)
    assert source.read_bytes() == before and [*source.parent.iterdir()] == [source]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("kind", ["cine", "2D"])
def test_an_undersampled_file_keeps_its_mask(heart, tmp_path, kind, dtype):
    mask = kt_mask()
    mask[WIDTH // 2 - 10 : WIDTH // 2 + 10] = True
    mask = np.broadcast_to(mask[None, None, :, :, None], (SLICES, 1, WIDTH, PHASES, 1))
    mask = (mask if kind == "cine" else mask[:, :, :, 0]).astype(dtype)
    kspace = stored(heart, kind)  # in 2D, values that were not sampled are of no meaning
    source = write(tmp_path / "a.h5", kspace=kspace, mask=mask)
    (path,) = prepared(tmp_path / "out", KspaceFileReader(), source, preparation=MAPS)
    arrays, _ = read(path)
    assert {*arrays} == {"kspace", "maps", "mask"} and arrays["mask"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["mask"], mask)
    np.testing.assert_array_equal(arrays["kspace"], kspace * mask)


def test_a_full_mask_is_none(heart, tmp_path):
    mask = np.ones((SLICES, 1, WIDTH, PHASES, 1), np.uint8)
    source = write(tmp_path / "a.h5", kspace=stored(heart, "cine"), mask=mask)
    (path,) = prepared(tmp_path / "out", KspaceFileReader(), source, preparation=MAPS)
    assert {*read(path)[0]} == {"kspace", "maps", "target"}


def test_corners_of_k_space_may_be_missing(heart, tmp_path):
    """As of 3D scans, whose two phase encodes are sampled within an ellipse."""
    rows, columns = np.ogrid[-1 : 1 : 1j * HEIGHT, -1 : 1 : 1j * WIDTH]
    ellipse = (rows**2 + columns**2 <= 1)[..., None]
    source = write(tmp_path / "a.h5", kspace=stored(heart, "2D") * ellipse)
    (path,) = prepared(tmp_path / "out", KspaceFileReader(), source, preparation=MAPS)
    assert "target" in read(path)[0]


def test_options_are_those_of_the_others(heart, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the command at the end is for the machine
    write(tmp_path / "in" / "a.h5", {"subject_id": "P7"}, kspace=stored(heart, "2D"))
    options = "--maps 2 --crop 0.5 --compression svd --coils 4 --split 1 1 0"
    prepare.main(f"maps {tmp_path}/in --output {tmp_path}/out {options}".split())
    arrays, _ = read(tmp_path / "out" / "scans" / "a_train.h5")
    assert arrays["maps"].shape == (1, HEIGHT, WIDTH, 4, 2)
    assert "knee/demo.yaml" in capsys.readouterr().out


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory, heart):
    folder = tmp_path_factory.mktemp("bad")
    kspace = stored(heart, "cine")
    maps = np.ones((SLICES, HEIGHT, WIDTH, 1, COILS, 1), np.complex64)
    write(folder / "has_maps.h5", kspace=kspace, maps=maps)
    write(folder / "lines.h5", kspace=kspace * (np.arange(WIDTH) % 2 == 0)[:, None, None])
    points = np.random.default_rng(0).random((HEIGHT, WIDTH, 1)) < 0.4
    write(folder / "points.h5", kspace=stored(heart, "2D") * points)
    write(folder / "double.h5", kspace=kspace.astype(np.complex128))
    write(folder / "three.h5", kspace=kspace[..., 0, 0])
    write(folder / "half.h5", kspace=kspace, mask=np.full((SLICES, 1, WIDTH, PHASES, 1), 0.5, np.float32))
    write_fastmri(folder / "fastmri.h5", fastmri_kspace(heart.coil_images[:, 0]))
    with h5py.File(folder / "empty.h5", "w"):
        pass
    return folder


WRONG = [
    ("has_maps.h5", "has_maps.h5: found maps in it, allowed a file without: it can be used as it is"),
    ("lines.h5", "lines.h5: slice 0: lines 1, 3, 5"),
    ("points.h5", "points.h5: slice 0: found lines with holes along the readout, allowed every line of every phase"),
    ("double.h5", "double.h5: kspace is complex128; only complex64 is allowed"),
    (
        "three.h5",
        "three.h5: kspace has shape (2, 64, 48); allowed are (S, H, W, T, C) for cine and (S, H, W, C) for 2D",
    ),
    ("half.h5", "half.h5: slice 0: mask holds values other than 0 and 1"),
    (
        "fastmri.h5",
        "fastmri.h5: found ismrmrd_header in it, allowed kspace without a header of fastMRI; 'prepare fastmri' reads",
    ),
    ("empty.h5", "empty.h5: no dataset 'kspace' in it; found: nothing"),
]


@pytest.mark.parametrize("name,message", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(name, message, bad_files, tmp_path, capsys):
    expect_prepare_error(f"maps {{dir}}/{name} --split 1 0 0", message, bad_files, tmp_path, capsys)
