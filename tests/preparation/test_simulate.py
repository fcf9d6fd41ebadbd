"""Simulated cine data: the physics, the files, and what happens to wrong input."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import sigpy as sp
import torch
from meddlr.forward import SenseModel

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import check_dataset_names, register_datasets
from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.acquisition import (
    Acquisition,
    coil_sensitivities,
    crop_kspace,
    noise_reference,
    seeded_generator,
)
from meddlr_greedy.preparation import simulate
from meddlr_greedy.preparation.annotations import say_what_is_next
from meddlr_greedy.preparation.phantom import Anatomy, beating_heart, left_ventricular_volume
from meddlr_greedy.preparation.simulate import (
    load_series,
    parse_split,
    simulate_phantom_dataset,
    simulate_series_dataset,
)

PIG = Path(__file__).resolve().parents[3] / "shared" / "data" / "pig_cine_sax" / "pig_cine_sax.npz"

SMALL = {"acquisition": Acquisition(matrix=(32, 24), coils=4), "subjects": 3, "slices": 2, "frames": 4}


def read_scans(folder):
    """{"<split>/<scan>.h5": {"kspace": ..., "maps": ..., "target": ..., "attributes": ...}}."""
    scans = {}
    for path in sorted(folder.glob("*/*.h5")):
        with h5py.File(path, "r") as file:
            scan = {key: file[key][()] for key in file}
            scans[path.relative_to(folder).as_posix()] = {**scan, "attributes": dict(file.attrs)}
    return scans


def relative_difference(a, b):
    return np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(b)


def equal_scans(a, b):
    return all(np.array_equal(a[key], b[key]) for key in ("kspace", "maps", "target"))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return simulate_phantom_dataset(tmp_path_factory.mktemp("root") / "phantom", **SMALL)


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


# --- Physics ---


def test_cropping_kspace_is_evaluating_the_fourier_series_of_fewer_frequencies():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((12, 10)) + 1j * rng.standard_normal((12, 10))
    kspace = sp.fft(image)
    low = sp.ifft(crop_kspace(kspace, (6, 4)))

    def dft(n_positions, n_frequencies, sign):
        position = (np.arange(n_positions) - n_positions // 2) / n_positions
        frequency = np.arange(n_frequencies) - n_frequencies // 2
        return np.exp(sign * 2j * np.pi * np.outer(position, frequency))

    # Coefficients of the Fourier series by explicit sums over the fine grid; the series on the coarse grid.
    coefficients = dft(12, 6, -1).T @ image @ dft(10, 4, -1) / image.size
    expected = dft(6, 6, 1) @ coefficients @ dft(4, 4, 1).T
    np.testing.assert_allclose(low, expected, atol=1e-12)


def test_cropping_kspace_keeps_intensities():
    image = np.full((3, 30, 20), 7.0, np.complex64)
    low = sp.ifft(crop_kspace(sp.fft(image, axes=(-2, -1)), (14, 9)), axes=(-2, -1))
    assert low.dtype == np.complex64
    np.testing.assert_allclose(low, np.full((3, 14, 9), 7), rtol=1e-5)


def test_noise_has_the_defined_level_and_is_white(tmp_path):
    level = 0.2
    quiet, noisy = (
        read_scans(
            simulate_phantom_dataset(
                tmp_path / str(noise), Acquisition((32, 24), coils=4, noise=noise), subjects=3, slices=1, frames=4
            )
        )
        for noise in (0, level)
    )
    for name, subject in (("train/subject000.h5", "subject000"), ("test/subject002.h5", "subject002")):
        anatomy = seeded_generator(0, subject, "anatomy")
        reference = np.percentile(beating_heart((64, 48), 4, 0.5, anatomy), 95)
        noise = (noisy[name]["kspace"] - quiet[name]["kspace"]) / (level * reference)
        samples = np.concatenate([noise.real.ravel(), noise.imag.ravel()])
        assert abs(samples.std() - 1) < 5 / np.sqrt(2 * samples.size)
        assert abs(samples.mean()) < 5 / np.sqrt(samples.size)
        coils = noise.reshape(-1, 4)
        correlation = np.abs(coils.conj().T @ coils / len(coils) / 2 - np.eye(4))
        assert correlation.max() < 5 / np.sqrt(len(coils))


def test_noise_reference_is_the_95th_percentile():
    assert noise_reference(np.arange(101.0)) == 95


@pytest.mark.parametrize("num_coils", [1, 5, 8])
def test_coil_sensitivities_are_smooth_and_cover_the_image(num_coils):
    coarse, fine = (coil_sensitivities(shape, num_coils, np.random.default_rng(1)) for shape in ((40, 30), (160, 120)))
    assert coarse.shape == (num_coils, 40, 30) and coarse.dtype == np.complex64
    total = np.linalg.norm(coarse, axis=0)
    assert 0.6 < total.min() and total.max() < 1.4
    # A smooth function changes four times less over a pixel a quarter as large; a jump would not.
    change = [max(np.abs(np.diff(maps, axis=axis)).max() for axis in (1, 2)) for maps in (coarse, fine)]
    assert change[1] < 0.4 * change[0]


def test_espirit_maps_are_zero_where_there_is_only_noise(phantom):
    for scan in read_scans(phantom).values():
        norm = np.linalg.norm(scan["maps"], axis=-2)
        assert np.all(np.isclose(norm, 1, rtol=1e-4) | (norm == 0))
        assert 0 < (norm == 0).mean() < 0.6
        assert not scan["target"][np.broadcast_to(norm == 0, scan["target"].shape)].any()


# --- Phantom ---


@pytest.mark.parametrize("ejection_fraction", [0.5, 0.65])
def test_volume_curve(ejection_fraction):
    def volume(phase):
        return left_ventricular_volume(np.asarray(phase), ejection_fraction)

    cycle = volume(np.linspace(0, 1, 1001))
    assert cycle[0] == 1 and cycle[-1] == pytest.approx(1)
    assert volume(0.35) == pytest.approx(1 - ejection_fraction) == cycle.min()
    assert np.all(np.diff(cycle[:351]) <= 0) and np.all(np.diff(cycle[351:]) >= -1e-12)
    diastasis = cycle[(np.linspace(0, 1, 1001) > 0.61) & (np.linspace(0, 1, 1001) < 0.83)]
    assert np.ptp(diastasis) < 1e-12 and 1 - ejection_fraction < diastasis[0] < 1


def left_ventricular_blood(frames, seed):
    """Pixels of bright blood within the left ventricle's end-diastolic outline, (T,)."""
    anatomy = Anatomy.random(np.random.default_rng(seed))
    position = (np.arange(150) - 75) * 2.0
    x, y = position - anatomy.heart_center[0] - anatomy.heart_tilt[0] / 2, position[:, None] - anatomy.heart_center[1]
    inside = np.hypot(x, y - anatomy.heart_tilt[1] / 2) < anatomy.lv_radius
    return ((frames > 0.7) & inside).sum(axis=(1, 2))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ventricle_contracts_and_narrows_to_the_apex(seed):
    base, middle, apex = (
        left_ventricular_blood(beating_heart((150, 150), 20, position, np.random.default_rng(seed)), seed)
        for position in (0.2, 0.5, 0.9)
    )
    assert 6 <= middle.argmin() <= 8  # 35 % of 20 frames
    assert middle.min() < 0.75 * middle[0]
    assert base[0] > middle[0] > 1.5 * apex[0] > 0


def test_phantom_images():
    frames = beating_heart((60, 48), 5, 0.4, np.random.default_rng(5))
    assert frames.shape == (5, 60, 48) and frames.dtype == np.float32
    assert frames.min() >= 0 and 0.9 < frames.max() < 1.5
    np.testing.assert_array_equal(frames, beating_heart((60, 48), 5, 0.4, np.random.default_rng(5)))
    assert relative_difference(beating_heart((60, 48), 5, 0.4, np.random.default_rng(6)), frames) > 0.1
    # Breath-hold: what lies away from the heart stands still.
    assert np.ptp(frames, axis=0)[-10:].max() == 0 and np.ptp(frames, axis=0).max() > 0.3
    # A finer matrix shows the same subject: its pixels average to the coarser ones.
    fine = beating_heart((180, 144), 5, 0.4, np.random.default_rng(5))
    fine = np.roll(fine, (1, 1), axis=(1, 2)).reshape(5, 60, 3, 48, 3).mean(axis=(2, 4))
    assert relative_difference(fine, frames) < 0.1


# --- Files ---


def test_shapes_types_and_attributes(phantom):
    scans = read_scans(phantom)
    assert len(scans) == 3
    for file_name, scan in scans.items():
        assert scan["kspace"].shape == (2, 32, 24, 4, 4)
        assert scan["maps"].shape == (2, 32, 24, 1, 4, 1)
        assert scan["target"].shape == (2, 32, 24, 4, 1)
        assert {scan[key].dtype for key in ("kspace", "maps", "target")} == {np.dtype(np.complex64)}
        assert all(np.isfinite(scan[key]).all() for key in ("kspace", "maps", "target"))
        attributes = scan["attributes"]
        assert attributes["subject_id"] == Path(file_name).stem
        parameters = json.loads(attributes["parameters"])
        assert parameters["source"] == "beating-heart phantom" and parameters["seed"] == 0
        np.testing.assert_allclose(attributes["pixel_spacing_mm"], [300 / 32, 300 / 24])
        assert 60_000 / 88 <= 4 * attributes["frame_time_ms"] <= 60_000 / 52
    assert sorted(path.name for path in phantom.iterdir()) == ["annotations", "test", "train", "val"]
    assert list(phantom.parent.iterdir()) == [phantom]


def test_target_is_the_adjoint_of_the_kspace(phantom):
    for scan in read_scans(phantom).values():
        signal_model = SenseModel(torch.from_numpy(scan["maps"]))
        target = signal_model(torch.from_numpy(scan["kspace"]), adjoint=True)
        assert target.shape == scan["target"].shape
        assert relative_difference(target, scan["target"]) < 1e-5


def test_signal_model_of_the_target_gives_the_noise_free_kspace(tmp_path):
    """What is lost: the rim where maps are cut, and ringing, which does not follow the sensitivities."""
    acquisition = Acquisition(matrix=(64, 56), coils=8, noise=0)
    folder = simulate_phantom_dataset(tmp_path / "a", acquisition, subjects=1, frames=3, split=("1", "0", "0"))
    (scan,) = read_scans(folder).values()
    kspace = SenseModel(torch.from_numpy(scan["maps"]))(torch.from_numpy(scan["target"]))
    assert -20 * np.log10(relative_difference(kspace, scan["kspace"])) > 32


def test_annotations_are_complete_and_splits_disjoint(phantom):
    subjects, files = [], []
    for split in ("train", "val", "test"):
        annotation = json.loads((phantom / "annotations" / f"{split}.json").read_text())
        assert annotation["info"]["split_by"] == "subjects"
        assert annotation["info"]["parameters"]["matrix"] == [32, 24]
        for image in annotation["images"]:
            assert image["file_name"].startswith(f"{split}/")
            with h5py.File(phantom / image["file_name"], "r") as file:
                assert image["kspace_size"] == list(file["kspace"].shape)
                assert image["subject_id"] == file.attrs["subject_id"]
            subjects.append(image["subject_id"])
            files.append(image["file_name"])
    assert len(set(subjects)) == len(subjects) == 3
    assert sorted(files) == sorted(read_scans(phantom))


def test_the_seed_decides_and_the_split_does_not(phantom, tmp_path):
    first = read_scans(phantom)
    again = read_scans(simulate_phantom_dataset(tmp_path / "again", **SMALL))
    assert list(again) == list(first)
    assert all(equal_scans(again[name], first[name]) for name in first)

    other_seed = {**SMALL, "acquisition": Acquisition(matrix=(32, 24), coils=4, seed=1)}
    other = read_scans(simulate_phantom_dataset(tmp_path / "other", **other_seed))
    for name in first:
        for key in ("kspace", "maps", "target"):
            assert relative_difference(other[name][key], first[name][key]) > 0.05

    moved = simulate_phantom_dataset(tmp_path / "moved", **SMALL, split=("2-2", "none", "0-1"))
    assert equal_scans(read_scans(moved)["test/subject000.h5"], first["train/subject000.h5"])
    subjects = list(first.values())
    assert relative_difference(subjects[0]["target"], subjects[1]["target"]) > 0.1


def test_slices_of_a_scan_share_coils_but_neither_phase_nor_noise(tmp_path):
    image = beating_heart((32, 32), 3, 0.5, np.random.default_rng(0))
    np.save(tmp_path / "twice.npy", np.stack([image, image]))
    scans = {}
    for noise in (0, 0.02):
        acquisition = Acquisition((32, 32), coils=4, noise=noise)
        folder = tmp_path / str(noise)
        simulate_series_dataset(folder, load_series(tmp_path / "twice.npy"), acquisition, split=("2", "0", "0"))
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


# --- A series of images ---


def test_series_in_slice_blocks(series_file, tmp_path):
    acquisition = Acquisition(matrix=(32, 32), coils=4, noise=0)
    folder = simulate_series_dataset(
        tmp_path / "heart",
        load_series(series_file),
        acquisition,
        acquired_matrix=(48, 40),
        split=("0-0,4-4", "none", "2-3"),
    )
    scans = read_scans(folder)
    assert list(scans) == ["test/heart_test.h5", "train/heart_train.h5"]
    annotation = json.loads((folder / "annotations" / "test.json").read_text())
    assert annotation["info"]["split_by"] == "slice blocks of one subject"
    assert annotation["images"][0]["slices"] == [2, 3]
    assert annotation["images"][0]["kspace_size"] == [2, 32, 32, 4, 4]
    assert not (folder / "annotations" / "val.json").exists()
    attributes = scans["test/heart_test.h5"]["attributes"]
    np.testing.assert_allclose(attributes["pixel_spacing_mm"], [3, 2.5])  # the field of view stays 96 x 80 mm
    assert attributes["frame_time_ms"] == 50 and json.loads(attributes["parameters"])["source"] == "heart.npz"

    magnitude = load_series(series_file).magnitude[2:4].astype(float)
    coarse = magnitude.reshape(2, 4, 32, 2, 32, 2).mean(axis=(3, 5)).transpose(0, 2, 3, 1)
    target = np.abs(scans["test/heart_test.h5"]["target"][..., 0])
    assert np.corrcoef(coarse.ravel(), target.ravel())[0, 1] > 0.9


def test_a_slice_does_not_depend_on_the_split(series_file, tmp_path):
    acquisition = Acquisition(matrix=(32, 24), coils=3)
    series = load_series(series_file)
    alone = simulate_series_dataset(tmp_path / "alone", series, acquisition, split=("3-3", "none", "none"))
    all_of_them = simulate_series_dataset(tmp_path / "all", series, acquisition, split=("5", "0", "0"))
    (alone,), (all_of_them,) = read_scans(alone).values(), read_scans(all_of_them).values()
    np.testing.assert_array_equal(alone["kspace"][0], all_of_them["kspace"][3])
    np.testing.assert_array_equal(alone["target"][0], all_of_them["target"][3])


def test_npy_and_npz_give_the_same(series_file, tmp_path):
    magnitude = load_series(series_file).magnitude
    np.save(tmp_path / "heart.npy", magnitude)
    np.testing.assert_array_equal(load_series(tmp_path / "heart.npy").magnitude, magnitude)
    assert load_series(tmp_path / "heart.npy").pixel_spacing_mm is None


@pytest.mark.skipif(not PIG.exists(), reason=f"needs {PIG.name}; test_series_in_slice_blocks is its generated twin")
def test_pig_series(tmp_path):
    series = load_series(PIG)
    series = replace(series, magnitude=series.magnitude[10:11, ::4])
    acquisition = Acquisition(matrix=(128, 128), coils=4)
    folder = simulate_series_dataset(tmp_path / "pig", series, acquisition, (224, 160), split=("1", "0", "0"))
    (scan,) = read_scans(folder).values()
    assert scan["kspace"].shape == (1, 128, 128, 5, 4)
    assert scan["attributes"]["frame_time_ms"] == pytest.approx(60_000 / 95 / 20, rel=0.01)
    np.testing.assert_allclose(scan["attributes"]["pixel_spacing_mm"], 210 / 128, rtol=1e-3)
    coarse = series.magnitude[0].astype(float).reshape(5, 128, 2, 128, 2).mean(axis=(2, 4)).transpose(1, 2, 0)
    target = np.abs(scan["target"][0, ..., 0])
    assert np.corrcoef(coarse.ravel(), target.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("matrix", [(50, 40), (48, 42), (64, 64)])
def test_kspace_beyond_the_acquired_matrix_is_refused(series_file, tmp_path, matrix):
    with pytest.raises(UserError, match=r"--matrix: found .* up to the acquired matrix \(48, 40\) of .*heart.npz"):
        simulate_series_dataset(tmp_path / "large", load_series(series_file), Acquisition(matrix=matrix), (48, 40))
    assert not (tmp_path / "large").exists()


def test_magnitude_may_be_in_any_unit(series_file, tmp_path):
    """Up to the largest that is allowed, scaling the images scales the result, without a warning."""
    magnitude = load_series(series_file).magnitude[2:3].astype(np.float32)
    magnitude /= magnitude.max()
    targets = []
    for scale in (1, 1e-15, 0.999e15):
        np.save(tmp_path / "a.npy", scale * magnitude)
        folder = tmp_path / str(scale)
        acquisition = Acquisition((48, 40), coils=4)
        simulate_series_dataset(folder, load_series(tmp_path / "a.npy"), acquisition, split=("1", "0", "0"))
        (scan,) = read_scans(folder).values()
        targets.append(np.abs(scan["target"]) / scale)
    assert targets[0].max() > 0.5
    assert max(relative_difference(target, targets[0]) for target in targets[1:]) < 0.01


# --- Interrupted, repeated, replaced ---


def written(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*")}


TINY = {"acquisition": Acquisition(matrix=(16, 16), coils=2), "subjects": 2, "slices": 1, "frames": 2}


@pytest.mark.parametrize("error,raised", [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "full"), UserError)])
@pytest.mark.parametrize("was_there", [False, True])
def test_what_breaks_off_leaves_what_was_there(tmp_path, monkeypatch, error, raised, was_there):
    folder = tmp_path / "data"
    if was_there:
        simulate_phantom_dataset(folder, **TINY, split=("1", "1", "0"))
    before = written(tmp_path)
    simulate_slice, calls = simulate._simulate_slice, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        return simulate_slice(*arguments)

    monkeypatch.setattr(simulate, "_simulate_slice", interrupted)
    with pytest.raises(raised):
        simulate_phantom_dataset(folder, **TINY, split=("1", "0", "1"), overwrite=True)
    after = written(tmp_path)
    assert len(calls) == 2 and after == before


def test_the_same_data_set_is_kept(tmp_path, capsys):
    folder = simulate_phantom_dataset(tmp_path / "a", **TINY, split=("1", "1", "0"))
    before = written(folder)
    for overwrite in (False, True):
        simulate_phantom_dataset(folder, **TINY, split=("1", "1", "0"), overwrite=overwrite, progress=True)
        assert "already holds this data set; kept" in capsys.readouterr().out
    assert written(folder) == before


def test_another_data_set_is_kept_unless_overwritten(tmp_path):
    fine = {**TINY, "acquisition": Acquisition(matrix=(20, 16), coils=2)}
    folder = simulate_phantom_dataset(tmp_path / "a", **TINY, split=("1", "1", "0"))
    before = written(folder)
    for arguments in ({**fine, "split": ("1", "1", "0")}, {**TINY, "split": ("1", "0", "1")}):
        with pytest.raises(UserError, match="another data set.* --overwrite"):
            simulate_phantom_dataset(folder, **arguments)
    assert written(folder) == before

    simulate_phantom_dataset(folder, **fine, split=("1", "0", "1"), overwrite=True)
    scans = read_scans(folder)
    assert list(scans) == ["test/subject001.h5", "train/subject000.h5"]
    assert {scan["kspace"].shape for scan in scans.values()} == {(1, 20, 16, 2, 2)}
    assert sorted(path.name for path in folder.iterdir()) == ["annotations", "test", "train"]
    assert sorted(path.name for path in folder.glob("annotations/*")) == ["test.json", "train.json"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("foreign", ["train", "train/measured.h5", "notes.txt", "annotations/train.json"])
def test_what_was_not_simulated_is_never_overwritten(tmp_path, foreign):
    path = tmp_path / "a" / foreign
    path.parent.mkdir(parents=True)
    path.write_text('{"images": []}')
    for overwrite in (False, True):
        with pytest.raises(UserError, match=f"found {foreign.split('/')[0]}, allowed a new folder"):
            simulate_phantom_dataset(tmp_path / "a", **TINY, split=("1", "1", "0"), overwrite=overwrite)
    assert path.read_text() == '{"images": []}'


# --- Splits and wrong input ---


@pytest.mark.parametrize(
    "split,num_items,expected",
    [
        (("14", "2", "4"), 20, (range(14), range(14, 16), range(16, 20))),
        (("0-1,4-5", "2-2", "none"), 6, ([0, 1, 4, 5], [2], [])),
        (("1", "0", "0"), 1, ([0], [], [])),
        (None, 9, (range(6), [6], [7, 8])),
        (None, 20, (range(14), [14, 15], range(16, 20))),
    ],
)
def test_parse_split(split, num_items, expected):
    assert list(parse_split(split, num_items, "slices").values()) == [list(members) for members in expected]


@pytest.mark.parametrize(
    "split,message",
    [
        (("1", "1", "1"), "sum 3.* allowed a sum of 5 slices"),
        (("0-2", "2-3", "none"), "do not overlap"),
        (("0-2", "3-5", "none"), "slices 0 to 4"),
        (("none", "0-1", "2-4"), "to train on"),
        (("2-1", "none", "none"), "three counts"),
        (("0.7", "0.1", "0.2"), "three counts"),
        (("5",), "three counts"),
    ],
)
def test_wrong_splits(split, message):
    with pytest.raises(UserError, match=message):
        parse_split(split, 5, "slices")


@pytest.fixture
def bad_files(tmp_path):
    good = np.ones((3, 2, 16, 16), np.float32)
    np.save(tmp_path / "rank.npy", good[0])
    np.save(tmp_path / "complex.npy", good * 1j)
    np.save(tmp_path / "negative.npy", -good)
    np.save(tmp_path / "object.npy", np.array([None, {}]), allow_pickle=True)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        bad = good.copy()
        bad[1, 0, 3, 4] = value
        np.save(tmp_path / f"{name}.npy", bad)
    empty = good.copy()
    empty[2] = 0
    np.save(tmp_path / "empty.npy", empty)
    np.savez(tmp_path / "key.npz", image=good)
    np.savez(tmp_path / "spacing.npz", magnitude=good, pixel_spacing_mm=np.ones(3))
    np.savez(tmp_path / "flat.npz", magnitude=good, pixel_spacing_mm=np.array([1.5, 0]))
    np.savez(tmp_path / "trigger.npz", magnitude=good, trigger_time_ms=np.array([0, np.nan]))
    np.savez(tmp_path / "backwards.npz", magnitude=good, trigger_time_ms=np.array([40, 0], np.uint16))
    np.savez(tmp_path / "standing.npz", magnitude=good, trigger_time_ms=np.array([[0.0, 40], [7, 7]]))
    np.save(tmp_path / "huge.npy", 1e38 * good)
    np.save(tmp_path / "double.npy", 1e300 * good.astype(float))
    np.savez(tmp_path / "good.npz", magnitude=good)
    (tmp_path / "truncated.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:-300])
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "image.dcm").write_text("hello")
    return tmp_path


@pytest.mark.parametrize(
    "arguments,message",
    [
        ("--images {dir}/absent.npz", "absent.npz: no such file"),
        ("--images {dir}/rank.npy", "rank.npy: magnitude: found float32 of shape (2, 16, 16), allowed (slice, phase"),
        ("--images {dir}/complex.npy", "allowed real numbers"),
        ("--images {dir}/negative.npy", "negative.npy: magnitude: found -1 to -1, allowed 0 to 1e+15"),
        ("--images {dir}/huge.npy", "huge.npy: magnitude: found 1e+38 to 1e+38, allowed 0 to 1e+15"),
        ("--images {dir}/double.npy", "double.npy: magnitude: found 1e+300 to 1e+300, allowed"),
        ("--images {dir}/object.npy", "object.npy: not a readable .npy"),
        ("--images {dir}/nan.npy", "nan.npy: magnitude: found NaN or infinite"),
        ("--images {dir}/inf.npy", "inf.npy: magnitude: found NaN or infinite"),
        ("--images {dir}/empty.npy", "slice 2 is zero everywhere"),
        ("--images {dir}/key.npz", "key.npz: no array 'magnitude'; found image"),
        ("--images {dir}/spacing.npz", "pixel_spacing_mm: found float64 of shape (3,), allowed"),
        ("--images {dir}/flat.npz", "flat.npz: pixel_spacing_mm: found 0, allowed above 0"),
        ("--images {dir}/backwards.npz", "backwards.npz: trigger_time_ms: found times that do not increase"),
        ("--images {dir}/standing.npz", "standing.npz: trigger_time_ms: found times that do not increase"),
        ("--images {dir}/trigger.npz", "trigger_time_ms: found float64 of shape (2,), allowed finite"),
        ("--images {dir}/truncated.npz", "truncated.npz: not a readable .npz"),
        ("--images {dir}/text.npy", "text.npy: not a readable .npy"),
        ("--images {dir}/image.dcm", "found a '.dcm' file, allowed .npy or .npz"),
        (
            "--images {dir}/good.npz --matrix 18 16",
            "--matrix: found (18, 16), allowed up to the acquired matrix (16, 16)",
        ),
        ("--images {dir}/good.npz --acquired-matrix 12 17", "--acquired-matrix: found (12, 17), allowed 8 to (16, 16)"),
        ("--images {dir}/good.npz --acquired-matrix 12 10 --matrix 12 12", "up to the acquired matrix (12, 10)"),
        ("--images {dir}/good.npz --subjects 3", "--subjects: found 3, allowed only without --images"),
        ("--images {dir}/good.npz --split 1 1 2", "sum 4"),
        ("--acquired-matrix 12 12", "--acquired-matrix: found [12, 12], allowed only with --images"),
        ("--subjects 0", "--subjects: found 0, allowed at least 1"),
        ("--subjects 2", "2 subjects are too few for the default"),
        ("--slices 0", "--slices: found 0"),
        ("--frames 0", "--frames: found 0"),
        ("--coils 0", "--coils: found 0"),
        ("--noise -1", "--noise: found -1.0"),
        ("--noise nan", "--noise: found nan"),
        ("--noise 1e30", "--noise: found 1e+30, allowed 0 to 100"),
        ("--seed -1", "--seed: found -1"),
        ("--seed 9223372036854775808", "--seed: found 9223372036854775808, allowed 0 to 2**63 - 1"),
        ("--matrix 4 96", "--matrix: found (4, 96), allowed at least 8"),
        ("--output ''", "--output: found '', allowed the folder of a data set"),
        ("--output {dir}/text.npy", "text.npy: found a file, allowed a folder"),
        ("--output {dir}/text.npy/data", "text.npy/data: cannot be written"),
        ("--output /proc/data", "--output: /proc/data: cannot be written"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, message, bad_files, capsys):
    output = [] if "--output" in arguments else ["--output", str(bad_files / "out")]
    before = sorted(bad_files.rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        simulate.main([*output, *shlex.split(arguments.format(dir=bad_files))])
    stderr = capsys.readouterr().err
    assert exit_.value.code == 2
    assert stderr.count("\n") == 1 and stderr.startswith("error: ") and message in stderr
    assert sorted(bad_files.rglob("*")) == before


def test_command_line(tmp_path, series_file, capsys):
    shared = ["--matrix", "16", "16", "--coils", "2", "--split", "1", "0", "0"]
    simulate.main(["--output", str(tmp_path / "beat"), "--subjects", "1", "--slices", "1", "--frames", "2", *shared])
    assert "1 train, 0 val, 0 test slices of (H, W, T, C) = (16, 16, 2, 2)" in capsys.readouterr().out

    simulate.main(["--output", str(tmp_path / "series"), "--images", str(series_file), "--noise", "0", "--coils", "2"])
    (scan, *_) = read_scans(tmp_path / "series").values()
    assert scan["kspace"].shape[1:] == (64, 64, 4, 2)


@pytest.fixture
def registry(monkeypatch):
    """Leaves the catalog, which is global, as it was."""
    yield
    monkeypatch.undo()
    register_datasets()


@pytest.mark.parametrize("root,prefixed", [("datasets", False), ("elsewhere", True), ("my $HOME's", True)])
@pytest.mark.parametrize("split,maps", [(("1", "1", "0"), 1), (("1", "0", "1"), 2)])
def test_the_printed_command_works(registry, tmp_path, monkeypatch, capsys, root, prefixed, split, maps):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDDLR_GREEDY_DATASETS", raising=False)
    sizes = ["--subjects", "2", "--slices", "1", "--frames", "2", "--matrix", "16", "16", "--coils", "2"]
    simulate.main(["--output", f"{root}/a 'heart'", *sizes, "--split", *split, "--maps", str(maps)])
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[0].startswith("MEDDLR_GREEDY_DATASETS=") == prefixed
    if prefixed:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert words[:4] == ["python", "-m", "meddlr_greedy.train_net", "--config-file"]
    register_datasets()
    cfg = load_config(words[4], words[5:])
    found = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL, *cfg.DATASETS.TEST]
    assert found == ["a 'heart'_train", f"a 'heart'_{'val' if split[1] == '1' else 'test'}"]
    check_dataset_names(found)
    assert cfg.MODEL.UNROLLED.NUM_EMAPS == maps


@pytest.mark.parametrize("maps", [1, 2])
def test_the_printed_commands_for_scans_without_targets_work(registry, tmp_path, monkeypatch, capsys, maps):
    sizes = ["--subjects", "3", "--slices", "1", "--frames", "2", "--matrix", "16", "16", "--coils", "2"]
    simulate.main(["--output", str(tmp_path / "beat"), *sizes, "--split", "1", "1", "1", "--maps", str(maps)])
    for path in (tmp_path / "beat").rglob("*.h5"):
        with h5py.File(path, "a") as file:
            del file["target"]
            file["mask"] = np.ones((1, 1, 16, 2, 1), np.uint8)
    capsys.readouterr()
    say_what_is_next(tmp_path / "beat", 0)
    reconstruct, train = (shlex.split(line) for line in capsys.readouterr().out.splitlines()[2::2])
    assert reconstruct[2] == "meddlr_greedy.reconstruct"
    assert reconstruct[-2:] == ["--device", "cpu"] or torch.cuda.is_available()
    monkeypatch.setenv(*train[0].split("=", 1))
    assert train[3] == "meddlr_greedy.train_net"
    register_datasets()
    cfg = load_config(train[5], train[6:])
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.VAL, cfg.DATASETS.TEST) == (("beat_train",), ("beat_val",), ())
    assert cfg.MISC.GREEDY.CINE.LOSS_LINES > 0 and cfg.MODEL.UNROLLED.NUM_EMAPS == maps
