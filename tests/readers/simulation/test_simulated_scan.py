"""Scans simulated from a series of images."""

import json
from dataclasses import replace

import numpy as np
import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.preparation.settings import CoilMaps, Preparation
from meddlr_greedy.preparation.slice import slice_arrays
from meddlr_greedy.readers.acquisition import Acquisition
from meddlr_greedy.readers.formats.image_arrays import load_series
from meddlr_greedy.readers.simulation.beating_heart import beating_heart
from meddlr_greedy.readers.simulation.simulated_scan import simulated_scan
from tests.helpers.heart import prepare_series, read_scans, relative_difference
from tests.helpers.runs import ROOT

PIG = ROOT.parent / "shared" / "data" / "pig_cine_sax" / "pig_cine_sax.npz"


@pytest.fixture(scope="module")
def series_file(tmp_path_factory):
    """Five slices of a phantom acquired at 48 x 40 and, as scanners do, interpolated to 64 x 64."""
    path = tmp_path_factory.mktemp("series") / "heart.npz"
    slices = [beating_heart((48, 40), 4, position, np.random.default_rng(3)) for position in np.linspace(0, 1, 5)]
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(slices, axes=(-2, -1))), axes=(-2, -1))
    padded = np.pad(kspace, [(0, 0), (0, 0), (8, 8), (12, 12)])
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(padded, axes=(-2, -1))), axes=(-2, -1))
    np.savez(
        path,
        magnitude=np.round(200 * np.abs(image)).astype(np.uint16),
        pixel_spacing_mm=np.array([1.5, 1.25]),
        trigger_time_ms=np.tile([10.0, 60, 110, 160], (5, 1)),
    )
    return path


def test_slices_of_a_scan_share_coils_but_neither_phase_nor_noise(tmp_path):
    image = beating_heart((32, 32), 3, 0.5, np.random.default_rng(0))
    np.save(tmp_path / "twice.npy", np.stack([image, image]))
    scans = {}
    for noise in (0, 0.02):
        folder = prepare_series(tmp_path / str(noise), tmp_path / "twice.npy", ("2", "0", "0"), coils=4, noise=noise)
        (scans[noise],) = read_scans(folder).values()
    first, second = scans[0]["target"]
    body = np.abs(first) > 0.1
    assert relative_difference(np.abs(first), np.abs(second)) < 0.02
    assert np.std(np.angle(first / np.where(body, second, 1))[body]) > 0.1
    overlap = np.abs((scans[0]["maps"][0].conj() * scans[0]["maps"][1]).sum(axis=-2))
    assert overlap[body.any(axis=2)].min() > 0.99
    noise = scans[0.02]["kspace"] - scans[0]["kspace"]
    correlation = np.vdot(noise[0], noise[1]) / np.linalg.norm(noise[0]) / np.linalg.norm(noise[1])
    assert np.abs(correlation) < 5 / np.sqrt(noise[0].size)


def test_series_in_slice_blocks(series_file, tmp_path):
    options = {"matrix": (32, 32), "coils": 4, "noise": 0, "acquired_matrix": (48, 40)}
    folder = prepare_series(tmp_path / "heart", series_file, ("0-0,4-4", "none", "2-3"), **options)
    scans = read_scans(folder)
    assert list(scans) == ["heart_test", "heart_train"]
    annotation = json.loads((folder / "annotations" / "test.json").read_text())
    assert annotation["info"]["split_by"] == "slice blocks of one subject"
    assert annotation["images"][0]["slices"] == [2, 3]
    assert annotation["images"][0]["kspace_size"] == [2, 32, 32, 4, 4]
    assert not (folder / "annotations" / "val.json").exists()
    attributes = scans["heart_test"]["attributes"]
    np.testing.assert_allclose(attributes["pixel_spacing_mm"], [3, 2.5])  # the field of view stays 96 x 80 mm
    assert attributes["frame_time_ms"] == 50 and json.loads(attributes["parameters"])["source"] == "heart.npz"

    magnitude = load_series(series_file).magnitude[2:4].astype(float)
    coarse = magnitude.reshape(2, 4, 32, 2, 32, 2).mean(axis=(3, 5)).transpose(0, 2, 3, 1)
    target = np.abs(scans["heart_test"]["target"][..., 0])
    assert np.corrcoef(coarse.ravel(), target.ravel())[0, 1] > 0.9


def test_a_slice_does_not_depend_on_the_split(series_file, tmp_path):
    options = {"matrix": (32, 24), "coils": 3}
    alone = prepare_series(tmp_path / "alone", series_file, ("3-3", "none", "none"), **options)
    all_of_them = prepare_series(tmp_path / "all", series_file, ("5", "0", "0"), **options)
    (alone,), (all_of_them,) = read_scans(alone).values(), read_scans(all_of_them).values()
    np.testing.assert_array_equal(alone["kspace"][0], all_of_them["kspace"][3])
    np.testing.assert_array_equal(alone["target"][0], all_of_them["target"][3])


@pytest.mark.skipif(not PIG.exists(), reason=f"needs {PIG.name}; test_series_in_slice_blocks is its generated twin")
def test_pig_series():
    series = load_series(PIG)
    series = replace(series, magnitude=series.magnitude[10:11, ::4])
    acquisition = Acquisition(matrix=(128, 128), coils=4)
    scan = simulated_scan(series, acquisition, (224, 160))
    arrays, _ = slice_arrays(scan, 0, Preparation(CoilMaps(), coils=None, compression="none"))
    assert scan.num_slices == 1 and arrays["kspace"].shape == (128, 128, 5, 4)
    assert scan.frame_time_ms == pytest.approx(60_000 / 95 / 20, rel=0.01)
    np.testing.assert_allclose(scan.pixel_spacing_mm, 210 / 128, rtol=1e-3)
    coarse = series.magnitude[0].astype(float).reshape(5, 128, 2, 128, 2).mean(axis=(2, 4)).transpose(1, 2, 0)
    target = np.abs(arrays["target"][..., 0])
    assert np.corrcoef(coarse.ravel(), target.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("matrix", [(50, 40), (48, 42), (64, 64)])
def test_kspace_beyond_the_acquired_matrix_is_refused(series_file, tmp_path, matrix):
    with pytest.raises(UserError, match=r"--matrix: found .* up to the acquired matrix \(48, 40\) of .*heart.npz"):
        prepare_series(tmp_path / "large", series_file, matrix=matrix, acquired_matrix=(48, 40))
    assert not (tmp_path / "large").exists()


def test_magnitude_may_be_in_any_unit(series_file, tmp_path):
    """Up to the largest that is allowed, scaling the images scales the result, without a warning."""
    magnitude = load_series(series_file).magnitude[2:3].astype(np.float32)
    magnitude /= magnitude.max()
    targets = []
    for scale in (1, 1e-15, 0.999e15):
        np.save(tmp_path / "a.npy", scale * magnitude)
        options = {"matrix": (48, 40), "coils": 4}
        folder = prepare_series(tmp_path / str(scale), tmp_path / "a.npy", ("1", "0", "0"), **options)
        (scan,) = read_scans(folder).values()
        targets.append(np.abs(scan["target"]) / scale)
    assert targets[0].max() > 0.5
    assert max(relative_difference(target, targets[0]) for target in targets[1:]) < 0.01
