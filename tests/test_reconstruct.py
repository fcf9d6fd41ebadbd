"""Reconstruction of scans without targets: the same images as in evaluation, whole files, bounded memory."""

import os
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from meddlr.data.transforms.transform import build_normalizer
from meddlr.modeling import build_model
from PIL import Image

from meddlr_greedy import reconstruct
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.build import build_val_loader
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from meddlr_greedy.evaluation.images import in_file_units
from meddlr_greedy.reconstruction import scan as scan_module
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.nifti import NiftiWriter
from projects.cine.benchmarks.reconstruct import peaks_of_reconstruct, write_acquired
from tests.helpers.viewer_pages import data_of

CINE, FLAT = ("CineUnrolledCNN", "beat"), ("GeneralizedUnrolledCNN", "flat")


@pytest.fixture
def trained(write_config, tmp_path):
    """trained(arch, data, modules=..., extra=...) -> config file, weights of a network that has not been trained."""

    def make(arch, data, modules=2, extra=""):
        config = str(write_config(arch, modules=modules, data=data, extra=extra))
        torch.manual_seed(1)
        folder = tmp_path / f"weights-{modules}"
        folder.mkdir()
        GreedyCheckpointer(build_model(load_config(config)), str(folder)).save("model")
        return config, str(folder / "model.pth")

    return make


@pytest.fixture
def prospective(datasets, tmp_path):
    """prospective(data, **attributes) -> a scan of a data set as if undersampled when acquired: no target, a mask."""

    def make(data, with_mask=True, name="scan", **attributes):
        path = tmp_path / f"{name}.h5"
        with h5py.File(datasets / data / "test" / f"{data}_test_0.h5") as full, h5py.File(path, "w") as file:
            kspace = full["kspace"][()]
            mask = np.zeros((kspace.shape[0], 1, *kspace.shape[2:-1], 1), np.uint8)
            center = mask.shape[2] // 2
            mask[:, :, ::2] = mask[:, :, center - 2 : center + 2] = 1  # as FixedMaskFunc
            file["maps"] = full["maps"][()]
            file["kspace"] = kspace * mask
            if with_mask:
                file["kspace"][...] = kspace  # what is not sampled is of no meaning
                file["mask"] = mask
            file.attrs.update(attributes)
        return path

    return make


def run(config, weights, *args):
    reconstruct.main(["--config-file", config, "--weights", weights, *map(str, args)])


def images_of_evaluation(config, weights, data, num_modules=0):
    """(S, H, W, [T,] M) of the first test scan, in the units of the file."""
    cfg = load_config(config)
    model = build_model(cfg).eval()
    GreedyCheckpointer(model, "").load(weights)
    model.num_inference_modules = num_modules
    normalizer = build_normalizer(cfg)
    images = []
    with torch.no_grad():
        for batch in build_val_loader(cfg, f"{data}_test"):
            scale = {key: batch[key] for key in ("mean", "std")}
            if batch["metadata"][0]["scan_id"].endswith("_0"):
                images.append(in_file_units(normalizer, model(batch)["pred"], scale)[0])
    return np.stack(images)


@pytest.mark.parametrize("arch,data", [CINE, FLAT])
@pytest.mark.parametrize("modules", [2, None])
@pytest.mark.parametrize("with_mask", [True, False])
def test_same_images_as_in_evaluation(trained, prospective, tmp_path, arch, data, modules, with_mask):
    config, weights = trained(arch, data, modules)
    run(config, weights, prospective(data, with_mask), "--output", tmp_path / "out")
    with h5py.File(tmp_path / "out" / "scan_recon.h5") as file:
        image = file["image"][()]
    expected = images_of_evaluation(config, weights, data)
    assert image.dtype == np.complex64 and image.shape == expected.shape
    np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_files(trained, prospective, tmp_path, capsys):
    config, weights = trained(*CINE)
    attributes = {"pixel_spacing_mm": (1.5, 2.0), "frame_time_ms": 40.0, "slice_spacing_mm": 8.0, "subject_id": "x"}
    out = tmp_path / "new" / "out"
    run(config, weights, prospective("beat", **attributes), prospective("beat", name="other"), "--output", out)
    printed = capsys.readouterr().out
    assert "note: " + str(tmp_path / "other.h5") + " has no attribute pixel_spacing_mm, slice_spacing_mm" in printed
    assert f"note: {tmp_path / 'scan.h5'}" not in printed
    assert printed.count("undersampled, R = 1.5, ") == 2 and "fully sampled" not in printed
    names = [f"{name}_recon.{suffix}" for name in ("other", "scan") for suffix in ("gif", "h5", "nii")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "report.html"])

    network, *sampled = data_of(out / "report.html")["about"]
    assert network == f"CineUnrolledCNN trained greedily in 2 modules, weights {weights}"
    assert sampled == [f"K-space of {name}: undersampled, R = 1.5." for name in ("scan", "other")]

    with h5py.File(out / "scan_recon.h5") as file:
        image = file["image"][()]
        assert file.attrs["subject_id"] == "x" and file.attrs["weights"] == weights
        np.testing.assert_array_equal(file.attrs["pixel_spacing_mm"], (1.5, 2.0))
    volumes = nib.load(out / "scan_recon.nii")
    assert volumes.header.get_zooms() == (1.5, 2.0, 8.0, 40.0)
    assert volumes.header.get_xyzt_units() == ("mm", "msec")
    assert volumes.header["sform_code"] == volumes.header["qform_code"] == 0
    expected = np.linalg.norm(image, axis=-1).transpose(1, 2, 0, 3)
    np.testing.assert_allclose(volumes.get_fdata(), expected, rtol=1e-6)
    assert nib.load(out / "other_recon.nii").header.get_xyzt_units() == ("unknown", "unknown")
    with Image.open(out / "scan_recon.gif") as picture:
        assert picture.n_frames == image.shape[3] and picture.info["duration"] == 40


PLACED = {
    "pixel_spacing_mm": (1.5, 2.0),
    "position_mm": np.array([[0.0, 0, 0], [8, 0, 0]]),
    "readout_direction": np.array([0, 1.0, 0]),
    "phase_direction": np.array([0, 0, 1.0]),
}


def test_dicom(trained, prospective, tmp_path, capsys):
    config, weights = trained(*CINE)
    placed, out = prospective("beat", **PLACED), tmp_path / "out"
    unknown = prospective("beat", name="unknown")
    words = f"--dicom: {unknown}: found no attribute position_mm, pixel_spacing_mm"
    expect_error(capsys, words, config, weights, placed, unknown, "--output", out, "--dicom")
    assert not out.exists()
    run(config, weights, placed, "--output", out, "--dicom")
    assert f"{out}/scan_recon.gif, {out}/scan_recon_dicom\n" in capsys.readouterr().out
    expected = nib.load(out / "scan_recon.nii").get_fdata()
    images = [pydicom.dcmread(path) for path in sorted((out / "scan_recon_dicom").iterdir())]
    assert len(images) == expected.shape[2] * expected.shape[3] == 8
    for number, image in enumerate(images):
        found = image.pixel_array * float(image.RescaleSlope)
        np.testing.assert_allclose(found, expected[:, :, number // 4, number % 4], atol=expected.max() / 65535)
    held = out / "scan_recon_dicom" / "held.h5"
    held.write_bytes(placed.read_bytes())
    words = f"--output: {out}/scan_recon_dicom: holds the input {held}"
    expect_error(capsys, words, config, weights, placed, held, "--output", out, "--dicom")


def test_files_of_2d(trained, prospective, tmp_path):
    config, weights = trained(*FLAT)
    out = tmp_path / "out"
    run(config, weights, prospective("flat", pixel_spacing_mm=(1.0, 2.0)), "--output", out)
    assert sorted(path.name for path in out.iterdir()) == [
        "report.html",
        "scan_recon.h5",
        "scan_recon.nii",
        "scan_recon.png",
    ]
    volume = nib.load(out / "scan_recon.nii")
    assert volume.shape == (20, 16, 2)
    assert b"slice spacing unknown" in volume.header["descrip"].item()


def test_scan_with_target(trained, datasets, tmp_path, capsys):
    """Fully sampled, so all lines count, which is told; the target is drawn beside."""
    config, weights = trained(*CINE)
    path = datasets / "beat" / "test" / "beat_test_1.h5"
    run(config, weights, path, "--output", tmp_path)
    with Image.open(tmp_path / "beat_test_1_recon.gif") as picture:
        width = picture.size[0]
    scan = AcquiredScan(str(path))
    assert scan.read(0).mask.all()
    assert f"note: {path}: fully sampled, so there is nothing to fill in" in capsys.readouterr().out
    assert data_of(tmp_path / "report.html")["about"][1] == "K-space of beat_test_1: fully sampled."
    assert scan.read_target(0).shape == scan.shape[1:-1] + (1,)
    assert width > 3 * 200


@pytest.mark.parametrize("arch,data", [CINE, FLAT])
def test_config_beside_the_weights(trained, prospective, tmp_path, arch, data):
    config, weights = trained(arch, data)
    path = prospective(data)
    run(config, weights, path, "--output", tmp_path / "a")
    beside = Path(config).rename(Path(weights).parent / "config.yaml")
    reconstruct.main(["--weights", weights, str(path), "--output", str(tmp_path / "b")])
    with h5py.File(tmp_path / "a" / "scan_recon.h5") as a, h5py.File(tmp_path / "b" / "scan_recon.h5") as b:
        np.testing.assert_array_equal(a["image"][()], b["image"][()])
        assert b.attrs["config_file"] == str(beside)


@pytest.mark.parametrize("num", [1, 2, 4])
def test_early_exit(trained, prospective, tmp_path, num):
    config, weights = trained(*CINE, modules=4)
    run(config, weights, prospective("beat"), "--output", tmp_path / "out", "--modules", num)
    with h5py.File(tmp_path / "out" / "scan_recon.h5") as file:
        image = file["image"][()]
        assert file.attrs["modules"] == str(num)
    expected = [images_of_evaluation(config, weights, "beat", k) for k in (1, 2, 4)]
    close = [np.allclose(image, e, rtol=1e-4, atol=1e-5) for e in expected]
    assert close == [num == k for k in (1, 2, 4)]


def test_checkpoints_of_greedy_and_plain_networks_fit_both_configs(trained, prospective, tmp_path):
    (greedy, greedy_weights), (plain, plain_weights) = (trained(*CINE, modules=modules) for modules in (4, None))
    path = prospective("beat")
    for i, (config, weights) in enumerate(
        ((greedy, greedy_weights), (greedy, plain_weights), (plain, greedy_weights), (plain, plain_weights))
    ):
        run(config, weights, path, "--output", tmp_path / str(i))
    images = [h5py.File(tmp_path / str(i) / "scan_recon.h5")["image"][()] for i in range(4)]
    for image in images[1:]:  # both networks were made from one seed
        np.testing.assert_allclose(image, images[0], rtol=1e-5, atol=1e-6)


def test_images_do_not_depend_on_settings_of_the_training_data(trained, prospective, tmp_path):
    """Undersampling and augmentation of the config are not for what has been acquired; the scale is undone."""
    config, weights = trained(*CINE)
    path = prospective("beat")
    run(config, weights, path, "--output", tmp_path / "a")
    with h5py.File(path, "a") as file:
        file["kspace"][...] *= 1000
    text = (
        Path(config).read_text().replace("FixedMaskFunc, ACCELERATIONS: [2]", "UniformKtMaskFunc, ACCELERATIONS: [9]")
    )
    assert text != Path(config).read_text()
    Path(config).write_text(text)
    run(config, weights, path, "--output", tmp_path / "b")
    first, second = (h5py.File(tmp_path / name / "scan_recon.h5")["image"][()] for name in "ab")
    np.testing.assert_allclose(second, 1000 * first, rtol=1e-3, atol=1e-2 * np.abs(first).max())


# ---- What can be wrong


def edit(function):
    def damage(path):
        with h5py.File(path, "a") as file:
            function(file)

    return damage


def replace(file, name, value):
    del file[name]
    file[name] = value


def set_value(name, index, value):
    def change(file):
        file[name][index] = value

    return edit(change)


def truncate(path):
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    "damage,words",
    [
        (lambda path: path.unlink(), "no such file"),
        (truncate, "truncated, damaged or not an HDF5 file"),
        (lambda path: path.write_text("hello"), "truncated, damaged or not an HDF5 file"),
        (edit(lambda file: file.__delitem__("maps")), "no dataset 'maps'"),
        (edit(lambda file: file.__delitem__("kspace")), "no dataset 'kspace'"),
        (edit(lambda file: replace(file, "maps", file["maps"][..., :2, :])), "maps has shape"),
        (edit(lambda file: replace(file, "maps", np.repeat(file["maps"], 2, -1))), "NUM_EMAPS"),
        (edit(lambda file: replace(file, "kspace", file["kspace"][()].real)), "kspace is float32"),
        (edit(lambda file: replace(file, "kspace", file["kspace"][..., 0])), "maps has shape"),
        (edit(lambda file: replace(file, "mask", file["mask"][:, :, :-1])), "mask has shape"),
        (edit(lambda file: replace(file, "mask", file["mask"][()].astype(float))), "mask is float64"),
        (edit(lambda file: file.attrs.update(slice_spacing_mm=-1.0)), "slice_spacing_mm"),
        (edit(lambda file: file.attrs.update(slice_spacing_mm="thick")), "attribute slice_spacing_mm is 'thick'"),
        (edit(lambda file: file.attrs.update(trajectory="radial")), "not Cartesian"),
        (set_value("kspace", (1, 0, 0, 0, 0), np.nan), "slice 1: kspace holds NaN"),
        (set_value("maps", (1, 0, 0, 0, 0, 0), np.inf), "slice 1: maps holds NaN or infinity"),
        (set_value("kspace", 1, 0), "slice 1: kspace holds nothing but zeros"),
        (set_value("maps", 0, 0), "slice 0: maps holds nothing but zeros"),
        (set_value("mask", 1, 0), "slice 1: mask holds nothing but zeros"),
        (set_value("mask", 1, 3), "slice 1: mask holds values other than 0 and 1"),
    ],
)
def test_wrong_scans(trained, prospective, tmp_path, capsys, damage, words):
    config, weights = trained(*CINE)
    path = prospective("beat")
    damage(path)
    expect_error(capsys, words, config, weights, path, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_what_comes_out_is_checked(trained, prospective, tmp_path, capsys):
    config, weights = trained(*CINE)
    path = prospective("beat")
    with h5py.File(path, "a") as file:
        file["kspace"][...] *= 1e25
    expect_error(capsys, "holds NaN or infinity", config, weights, path, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_picture_never_costs_the_images(trained, prospective, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no font")

    config, weights = trained(*CINE)
    monkeypatch.setattr(scan_module, "draw_cine_gif", fail)
    run(config, weights, prospective("beat"), "--output", tmp_path / "out")
    assert "scan_recon.gif: no picture (ValueError: no font)" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["log.txt", "report.html", "scan_recon.h5", "scan_recon.nii"]


def test_wrong_options(trained, prospective, tmp_path, capsys):
    config, weights = trained(*CINE)
    plain, _ = trained(*CINE, modules=None)
    path, out = prospective("beat"), ["--output", tmp_path / "out"]
    expect_error(capsys, "--modules: found 3, allowed is 1 to 2", config, weights, path, *out, "--modules", 3)
    expect_error(capsys, "--modules: found 0", config, weights, path, *out, "--modules", 0)
    expect_error(capsys, "CineUnrolledCNN (MODEL.META_ARCHITECTURE) has no", plain, weights, path, *out, "--modules", 1)
    expect_error(capsys, "found 'gpu'", config, weights, path, *out, "--device", "gpu")
    expect_error(capsys, "--device: found 'cuda:3', but", config, weights, path, *out, "--device", "cuda:3")
    expect_error(capsys, "no file 'gone.pth'", config, "gone.pth", path, *out)
    expect_error(capsys, "train first", config, "", path, *out)
    expect_error(capsys, "takes cine, 5 axes", config, weights, prospective("flat", name="flat"), *out)
    (tmp_path / "b").mkdir()
    twin = path.rename(tmp_path / "b" / "scan.h5")
    expect_error(capsys, "has the same name", config, weights, prospective("beat"), twin, *out)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    expect_error(capsys, f"--output: {tmp_path / 'file'}: cannot", config, weights, twin, "--output", tmp_path / "file")
    expect_error(capsys, f"no config.yaml beside '{weights}'; give", "", weights, twin, *out)
    expect_error(capsys, "--config-file: missing; give the config", "", "", twin, *out)


@pytest.mark.parametrize(
    "fails", [(os, "posix_fallocate"), (NiftiWriter, "write_slice"), (scan_module, "draw_cine_gif")]
)
def test_disk_full(trained, prospective, tmp_path, capsys, monkeypatch, fails):
    """Nothing half-written, and what was there before stays."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    config, weights = trained(*CINE)
    out = tmp_path / "out"
    out.mkdir()
    (out / "scan_recon.h5").write_text("before")
    monkeypatch.setattr(*fails, full)
    expect_error(capsys, "No space left on device", config, weights, prospective("beat"), "--output", out)
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "scan_recon.h5"]
    assert (out / "scan_recon.h5").read_text() == "before"


def expect_error(capsys, words, config, weights, *args):
    with pytest.raises(SystemExit) as end:
        run(config, weights, *args)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2
    assert error.startswith("error: ") and words in error, error


# ---- Memory


def test_memory_does_not_grow_with_the_number_of_slices(trained, tmp_path):
    """In one process, first a scan of 4 slices and then one of 64, each 1 MB: the peak grows by the report alone."""
    config, weights = trained(*CINE)
    paths = [tmp_path / f"slices{count}.h5" for count in (4, 64)]
    for path, count in zip(paths, (4, 64)):
        write_acquired(path, count, shape=(80, 48, 8), num_coils=4)
    of_4, of_64 = peaks_of_reconstruct(Path(config), Path(weights), tmp_path / "out", paths)
    assert paths[1].stat().st_size > 60 * 2**20
    assert of_64 - of_4 < 24 * 2**20
