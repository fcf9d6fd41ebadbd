"""Slices whose k-space is read frame by frame: the images of the whole, the same errors, in bounded memory."""

import hashlib
import tracemalloc

import h5py
import numpy as np
import pytest
import sigpy
import torch
from meddlr.data.transforms.transform import build_normalizer
from meddlr.modeling import build_model

from meddlr_greedy.data.normalizers import lean
from meddlr_greedy.errors import UserError
from meddlr_greedy.reconstruction import acquired as acquired_module
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.by_frames import FrameByFrame
from meddlr_greedy.reconstruction.reconstructor import Reconstructor
from projects.cine.support.measuring import peak_bytes
from tests.helpers.networks import small_config

H, W, T, C = 15, 14, 5, 3
FRAME = H * W * C * 8


def write_scan(path, num_maps=1, mask_rows=1, shape=(H, W, T, C), slices=2, empty_frame=False):
    """A random scan; ``mask_rows`` 0: k-space is zero where it is not sampled, and no mask tells."""
    rng = np.random.default_rng(0)
    height, width, num_frames, num_coils = shape

    def normal(*size):
        return rng.standard_normal((*size, 2)).astype(np.float32).view(np.complex64)[..., 0]

    maps = normal(slices, height, width, 1, num_coils, num_maps)
    kspace = 50 * normal(slices, *shape)
    mask = (rng.uniform(size=(slices, max(mask_rows, 1), width, num_frames, 1)) < 0.4).astype(np.uint8)
    mask[:, :, width // 2] = 1
    if mask_rows > 1:
        mask[:, : height // 4] = 0  # a partial echo
    if empty_frame:
        mask[:, :, :, [1, -1]] = kspace[:, :, :, -1] = 0
    with h5py.File(path, "w") as file:
        file["maps"] = maps / np.linalg.norm(maps, axis=-2, keepdims=True)
        file["kspace"] = kspace if mask_rows else kspace * mask
        if mask_rows:
            file["mask"] = mask
    return AcquiredScan(str(path))


def make(name="CineUnrolledCNN", num_maps=1, normalizer="TopMagnitudeNormalizer", **greedy):
    cfg = small_config(name, **greedy)
    cfg.MODEL.UNROLLED.NUM_EMAPS, cfg.MODEL.NORMALIZER.NAME = num_maps, normalizer
    cfg.AUG_TRAIN.UNDERSAMPLE.NAME = "RandomMaskFunc1D"
    torch.manual_seed(0)
    return cfg, build_model(cfg.clone().freeze()).eval()


def by_frames(cfg, model, largest_part=FRAME // 12):
    """A reconstructor that reads one or two frames at a time."""
    model.largest_part = largest_part
    reconstructor = Reconstructor(cfg, model)
    assert reconstructor._by_frames is not None
    return reconstructor


NORMALIZERS = ["TopMagnitudeNormalizer", "TimeAverageNormalizer"]


@pytest.mark.parametrize("mask_rows", [0, 1, H])
@pytest.mark.parametrize("num_maps", [1, 2])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_batch_is_that_of_formulas(tmp_path, normalizer, num_maps, mask_rows):
    scan = write_scan(tmp_path / "scan.h5", num_maps, mask_rows, empty_frame=mask_rows == 1)
    cfg, _ = make(num_maps=num_maps, normalizer=normalizer)
    batch = FrameByFrame(lean(build_normalizer(cfg)), FRAME // 16)(scan, 1)  # reads frame by frame
    whole = scan.read(1)

    def adjoint(kspace):
        coil_images = sigpy.ifft(kspace.astype(np.complex128), axes=(0, 1))
        return np.einsum("hwcm,hwtc->hwtm", whole.maps[:, :, 0].conj(), coil_images)

    kspace = whole.kspace * whole.mask
    image, of_scale = adjoint(kspace), adjoint(kspace)
    if normalizer == "TimeAverageNormalizer":
        of_scale = adjoint(kspace.sum(2, keepdims=True) / whole.mask.sum(2, keepdims=True).clip(1))
    magnitude = np.sort(np.abs(of_scale).ravel())[::-1]
    scale = magnitude[int(round((1 - 0.95) * magnitude.size)) - 1]
    assert batch["std"].item() == pytest.approx(scale, rel=1e-5)
    np.testing.assert_allclose(batch["zf_image"][0], image / scale, atol=1e-5 * np.abs(image / scale).max())
    np.testing.assert_array_equal(batch["mask"][0], whole.mask)
    assert batch["dims"] == (1, H, W, T, C) and batch["mean"].item() == 0


@pytest.mark.parametrize("mask_rows", [0, 1, H])
@pytest.mark.parametrize("num_maps", [1, 2])
@pytest.mark.parametrize("name", ["CineUnrolledCNN", "CGCineUnrolledCNN", "PhaseConstrainedCineUnrolledCNN"])
def test_images_are_those_of_the_whole(tmp_path, name, num_maps, mask_rows):
    # Its start is reweighted by what is in the image: on noise, rounding grows.
    tolerance = 2e-3 if name.startswith("Phase") else 1e-5
    scan = write_scan(tmp_path / "scan.h5", num_maps, mask_rows)
    cfg, model = make(name, num_maps)
    whole = Reconstructor(cfg, model)
    assert whole._by_frames is None
    expected = [whole(scan, i) for i in range(2)]
    model.unrolled.mode = model.unrolled.mode._replace(tile=(6, 0))
    for i, found in enumerate(map(lambda i: by_frames(cfg, model)(scan, i), range(2))):
        assert found.acceleration == expected[i].acceleration
        for image, other in zip(found[:2], expected[i][:2]):
            assert image.dtype == np.complex64 and image.shape == (H, W, T, num_maps)
            np.testing.assert_allclose(image, other, rtol=0, atol=tolerance * np.abs(other).max())


def test_frames_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    scan, shapes = write_scan(tmp_path / "scan.h5"), []

    def reading(*args):
        arrays = read_slice(*args)
        shapes.extend(array.shape for name, array in arrays.items() if name == "kspace")
        return arrays

    read_slice = acquired_module.read_slice
    monkeypatch.setattr(acquired_module, "read_slice", reading)
    by_frames(*make(), FRAME // 8)(scan, 0)
    assert [shape[2] for shape in shapes] == [2, 2, 1]


@pytest.mark.parametrize("change", ["postprocessor", "normalizer", "plain network", "no limit"])
def test_what_needs_kspace_as_a_whole_gets_it(change):
    cfg, model = make()
    model.largest_part = None if change == "no limit" else FRAME
    if change == "postprocessor":
        cfg.TEST.POSTPROCESSOR.NAME = "hard_dc_all"
    if change == "normalizer":
        cfg.MODEL.NORMALIZER.NAME = "NoOpNormalizer"
    assert Reconstructor(cfg, model.model if change == "plain network" else model)._by_frames is None


def damaged(path, change):
    scan = write_scan(path)
    with h5py.File(path, "a") as file:
        change(file)
    return scan


def set_value(name, index, value):
    def change(file):
        file[name][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_value("kspace", (1, 0, 0, 3, 0), np.nan), "kspace holds NaN or infinity"),
        (set_value("maps", (1, 0, 0, 0, 0, 0), np.inf), "maps holds NaN or infinity"),
        (set_value("kspace", 1, 0), "kspace holds nothing but zeros"),
        (set_value("maps", 1, 0), "maps holds nothing but zeros"),
        (set_value("mask", 1, 0), "mask holds nothing but zeros"),
        (set_value("mask", 1, 3), "mask holds values other than 0 and 1"),
    ],
)
def test_errors_are_those_of_the_whole(tmp_path, change, words):
    path = tmp_path / "scan.h5"
    scan = damaged(path, change)
    cfg, model = make()
    for reconstructor in (Reconstructor(cfg, model), by_frames(cfg, model)):
        with pytest.raises(UserError, match=f"^{path}: slice 1: {words}$"):
            reconstructor(scan, 1)


def test_kspace_that_is_zero_where_it_is_sampled(tmp_path):
    path = tmp_path / "scan.h5"
    scan = write_scan(path)
    with h5py.File(path, "a") as file:
        file["kspace"][0] *= 1 - file["mask"][0]
    cfg, model = make()
    for reconstructor in (Reconstructor(cfg, model), by_frames(cfg, model)):
        with pytest.raises(UserError, match="slice 0: kspace is zero on all sampled lines"):
            reconstructor(scan, 0)


def test_an_image_without_signal_has_no_scale(tmp_path):
    path = tmp_path / "scan.h5"
    scan = write_scan(path)
    with h5py.File(path, "a") as file:
        file["maps"][0] = 0
        file["maps"][0, 0, 0] = 1
    with pytest.raises(UserError, match="scan, slice 0: the image holds no signal"):
        by_frames(*make())(scan, 0)


def test_hash_of_kspace_is_that_of_its_bytes(tmp_path, monkeypatch):
    scan = write_scan(tmp_path / "scan.h5")
    monkeypatch.setattr(acquired_module, "_ROWS_READ", 4 * W * T * C * 8)
    assert scan.kspace_hash(1) == hashlib.sha256(scan.read(1).kspace.tobytes()).hexdigest()


def test_memory_stays_below_that_of_kspace(tmp_path):
    """Bytes that numpy and torch hold at a time: about k-space, where the whole at once takes four times as much."""
    shape = (96, 96, 10, 24)
    scan = write_scan(tmp_path / "scan.h5", shape=shape, slices=1)
    kspace_bytes = int(np.prod(shape)) * 8
    cfg, model = make()
    whole = _peak(Reconstructor(cfg, model), scan)
    model.unrolled.mode = model.unrolled.mode._replace(tile=(16, 0))
    bounded = _peak(by_frames(cfg, model, kspace_bytes // 80), scan)
    assert bounded < 1.2 * kspace_bytes < whole / 3


def _peak(reconstructor, scan):
    reconstructor(scan, 0)  # what is found or kept at first

    def run():
        reconstructor(scan, 0)

    tracemalloc.start()
    try:
        run()
        of_numpy = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return of_numpy + peak_bytes(run, "cpu")
