"""A data set of phantoms: shapes, physics and reproducibility, and what happens to wrong input."""

import json
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from meddlr.forward import SenseModel

from meddlr_greedy import prepare
from meddlr_greedy.ops.acquisition import seeded_generator
from meddlr_greedy.readers.simulation.beating_heart import beating_heart
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import prepare_phantom, read_scans, relative_difference

SMALL = {"matrix": (32, 24), "coils": 4, "subjects": 3, "slices": 2, "frames": 4, "seed": 0}


def equal_scans(a, b):
    return all(np.array_equal(a[key], b[key]) for key in ("kspace", "maps", "target"))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return prepare_phantom(tmp_path_factory.mktemp("root") / "phantom", **SMALL)


def test_shapes_types_and_attributes(phantom):
    scans = read_scans(phantom)
    assert len(scans) == 3
    for name, scan in scans.items():
        assert scan["kspace"].shape == (2, 32, 24, 4, 4)
        assert scan["maps"].shape == (2, 32, 24, 1, 4, 1)
        assert scan["target"].shape == (2, 32, 24, 4, 1)
        assert {scan[key].dtype for key in ("kspace", "maps", "target")} == {np.dtype(np.complex64)}
        assert all(np.isfinite(scan[key]).all() for key in ("kspace", "maps", "target"))
        attributes = scan["attributes"]
        assert attributes["subject_id"] == name
        parameters = json.loads(attributes["parameters"])
        assert parameters["reader"] == "phantom" and parameters["options"]["seed"] == 0
        np.testing.assert_allclose(attributes["pixel_spacing_mm"], [300 / 32, 300 / 24])
        assert 60_000 / 88 <= 4 * attributes["frame_time_ms"] <= 60_000 / 52
    assert sorted(path.name for path in phantom.iterdir()) == ["annotations", "scans"]
    assert list(phantom.parent.iterdir()) == [phantom]


def test_target_is_the_adjoint_of_the_kspace(phantom):
    for scan in read_scans(phantom).values():
        signal_model = SenseModel(torch.from_numpy(scan["maps"]))
        target = signal_model(torch.from_numpy(scan["kspace"]), adjoint=True)
        assert target.shape == scan["target"].shape
        assert relative_difference(target, scan["target"]) < 1e-5


def test_signal_model_of_the_target_gives_the_noise_free_kspace(tmp_path):
    """What is lost: the rim where maps are cut, and ringing, which does not follow the sensitivities."""
    options = {"matrix": (64, 56), "coils": 8, "noise": 0, "frames": 3}
    folder = prepare_phantom(tmp_path / "a", subjects=1, split=("1", "0", "0"), **options)
    (scan,) = read_scans(folder).values()
    kspace = SenseModel(torch.from_numpy(scan["maps"]))(torch.from_numpy(scan["target"]))
    assert -20 * np.log10(relative_difference(kspace, scan["kspace"])) > 32


def test_annotations_are_complete_and_splits_disjoint(phantom):
    subjects, files = [], []
    for split in ("train", "val", "test"):
        annotation = json.loads((phantom / "annotations" / f"{split}.json").read_text())
        assert annotation["info"]["split_by"] == "subjects"
        assert annotation["info"]["parameters"]["options"]["matrix"] == [32, 24]
        for image in annotation["images"]:
            assert image["file_name"].startswith("scans/")
            with h5py.File(phantom / image["file_name"], "r") as file:
                assert image["kspace_size"] == list(file["kspace"].shape)
                assert image["subject_id"] == file.attrs["subject_id"]
            subjects.append(image["subject_id"])
            files.append(Path(image["file_name"]).stem)
    assert len(set(subjects)) == len(subjects) == 3
    assert sorted(files) == sorted(read_scans(phantom))


def test_the_seed_decides_and_the_split_does_not(phantom, tmp_path):
    first = read_scans(phantom)
    again = read_scans(prepare_phantom(tmp_path / "again", **SMALL))
    assert list(again) == list(first)
    assert all(equal_scans(again[name], first[name]) for name in first)

    other = read_scans(prepare_phantom(tmp_path / "other", **{**SMALL, "seed": 1}))
    for name in first:
        for key in ("kspace", "maps", "target"):
            assert relative_difference(other[name][key], first[name][key]) > 0.05

    moved = prepare_phantom(tmp_path / "moved", **SMALL, split=("2-2", "none", "0-1"))
    assert equal_scans(read_scans(moved)["subject000"], first["subject000"])
    subjects = list(first.values())
    assert relative_difference(subjects[0]["target"], subjects[1]["target"]) > 0.1


def test_noise_has_the_defined_level_and_is_white(tmp_path):
    level = 0.2
    quiet, noisy = (
        read_scans(prepare_phantom(tmp_path / str(noise), **{**SMALL, "slices": 1, "noise": noise}))
        for noise in (0, level)
    )
    for name in ("subject000", "subject002"):
        anatomy = seeded_generator(0, name, "anatomy")
        reference = np.percentile(beating_heart((64, 48), 4, 0.5, anatomy), 95)
        noise = (noisy[name]["kspace"] - quiet[name]["kspace"]) / (level * reference)
        samples = np.concatenate([noise.real.ravel(), noise.imag.ravel()])
        assert abs(samples.std() - 1) < 5 / np.sqrt(2 * samples.size)
        assert abs(samples.mean()) < 5 / np.sqrt(samples.size)
        coils = noise.reshape(-1, 4)
        correlation = np.abs(coils.conj().T @ coils / len(coils) / 2 - np.eye(4))
        assert correlation.max() < 5 / np.sqrt(len(coils))


def test_espirit_maps_are_zero_where_there_is_only_noise(phantom):
    for scan in read_scans(phantom).values():
        norm = np.linalg.norm(scan["maps"], axis=-2)
        assert np.all(np.isclose(norm, 1, rtol=1e-4) | (norm == 0))
        assert 0 < (norm == 0).mean() < 0.6
        assert not scan["target"][np.broadcast_to(norm == 0, scan["target"].shape)].any()


def test_a_matrix_below_the_calibration_region_is_calibrated_by_all_of_it(tmp_path):
    line = "phantom --matrix 16 16 --coils 2 --subjects 1 --slices 1 --frames 2 --split 1 0 0"
    for calib in ("", " --calib 16"):
        prepare.main(shlex.split(f"{line}{calib} --output {tmp_path}/out{calib.replace(' ', '')}"))
    (default,), (exact,) = (read_scans(tmp_path / name).values() for name in ("out", "out--calib16"))
    assert default["maps"].any() and equal_scans(default, exact)


WRONG = [
    ("--subjects abc", "--subjects: found 'abc', allowed a whole number, at least 1"),
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
    ("--subjects 99999999999", "--subjects: found 99999999999, allowed at least 1, at most 100000"),
    ("--frames 100000000", "--frames: found 100000000, allowed at least 1, at most 4096"),
    (f"--frames {10**60}", "--frames: found a number of 60 digits, allowed"),
    ("--slices 100000000", "--slices: found 100000000, allowed at least 1, at most 4096"),
    ("--coils 99999", "--coils: found 99999, allowed at least 1, at most 1024"),
    ("--matrix 96 100000", "--matrix: found (96, 100000), allowed at least 8, at most 4096"),
    ("--matrix 4096 4096 --frames 4000", "simulating 4000 frames of 8192 x 8192 by 8 coils: found 3"),
    ("--matrix 4 96", "--matrix: found (4, 96), allowed at least 8"),
]


@pytest.mark.parametrize("arguments,message", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, message, tmp_path, capsys):
    expect_prepare_error(f"phantom {arguments}", message, tmp_path, tmp_path, capsys)
