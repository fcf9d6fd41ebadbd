"""Compressed sensing: the search of its weights, and the command."""

import json

import numpy as np
import pytest
import torch

from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.cine_sense import CineSenseModel
from projects.cine.baselines import compressed_sensing
from projects.cine.baselines.compressed_sensing import CompressedSensing, tune

# --- The search ---


def test_search_finds_the_maximum_and_tries_nothing_twice():
    calls = []

    def score(weight, spatial):
        calls.append((weight, spatial))
        return -(np.log(weight / 0.07) ** 2) - np.log(spatial / 0.9) ** 2

    (weight, spatial), table = tune(score, (4e-3, 0.1), (4, 2, 2**0.5))
    assert abs(np.log(weight / 0.07)) < np.log(2**0.5) and abs(np.log(spatial / 0.9)) < np.log(2**0.5)
    assert len(calls) == len(set(calls)) == len(table) < 30
    assert max(row["psnr_scan"] for row in table) == score(weight, spatial)


@pytest.mark.parametrize("sign", [1, -1])
def test_search_that_runs_away_ends(sign):
    (weight, spatial), _ = tune(lambda weight, spatial: sign * np.log(weight * spatial), (4e-3, 0.1), (4, 2))
    assert 1e-6 <= min(weight, spatial) and max(weight, spatial) <= 1e2


# --- The command ---


@pytest.fixture
def steps(monkeypatch):
    """A short search, so that the command takes seconds."""
    monkeypatch.setattr(compressed_sensing, "_STEPS", (4,))


def test_command(datasets, write_config, tmp_path, steps, capsys):
    out = tmp_path / "cs"
    config = write_config("CineUnrolledCNN", 2, "beat")
    compressed_sensing.main(["--config-file", str(config), "--output", str(out), "--iterations", "20"])
    results = json.loads((out / "test_results" / "results.json").read_text())
    assert results["architecture"] == "compressed sensing" and results["parameters"] == 0
    best = max(results["search"], key=lambda row: row["psnr_scan"])
    assert (results["weight"], results["spatial"]) == (best["weight"], best["spatial"])
    scores = results["datasets"]["beat_test"]
    assert list(results["datasets"]) == ["beat_test"] and results["tuned_on"] == ["beat_val"]
    assert scores["reconstruction"]["psnr_scan"]["mean"] > scores["zero_filled"]["psnr_scan"]["mean"]
    assert "compressed sensing" in capsys.readouterr().out and scores["figures"]


def test_weights_are_tuned_on_validation_data_alone(datasets, write_config, tmp_path, steps, monkeypatch):
    seen = []
    score = compressed_sensing.validation_score

    def remember(cfg, model, loaders):
        seen.append([name for name in loaders])
        return score(cfg, model, loaders)

    monkeypatch.setattr(compressed_sensing, "validation_score", remember)
    monkeypatch.setattr(compressed_sensing, "evaluate_test_sets", lambda *args, **kwargs: seen.append("scored"))
    config = write_config("CineUnrolledCNN", None, "beat")
    compressed_sensing.main(["--config-file", str(config), "--output", str(tmp_path / "cs"), "--iterations", "2"])
    assert seen[-1] == "scored" and all(names == ["beat_val"] for names in seen[:-1]) and len(seen) > 5


def test_masks_and_scaling_are_those_of_the_network(datasets, make_cfg):
    """The zero-filled image and the target of the module are those of the network's batch."""
    cfg = make_cfg(arch="CineUnrolledCNN", modules=None, data="beat")
    batch = next(iter(compressed_sensing.build_val_loader(cfg, "beat_test")))
    before = {key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)}
    outputs = CompressedSensing(0.01, 0.1, iterations=3)(batch)
    zero_filled = CineSenseModel(batch["maps"], batch["mask"])(batch["kspace"], adjoint=True)
    assert torch.equal(outputs["zf_image"], zero_filled) and torch.equal(outputs["target"], batch["target"])
    assert outputs["pred"].shape == batch["target"].shape
    assert all(torch.equal(batch[key], value) for key, value in before.items())


def test_data_without_targets_are_refused_by_name(datasets, make_cfg):
    cfg = make_cfg(arch="CineUnrolledCNN", modules=None, data="beat")
    batches = list(compressed_sensing.build_val_loader(cfg, "beat_val"))
    for batch in batches:
        del batch["target"]
    with pytest.raises(UserError, match="scan 'beat_val_0.*' has no target to compare with"):
        compressed_sensing.validation_score(cfg, CompressedSensing(0.01, 0.1, iterations=1), {"beat_val": batches})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DATASETS.VAL", "()"], "DATASETS.VAL: missing"),
        (["DATASETS.TEST", "()"], "DATASETS.TEST: missing"),
        (["DATASETS.VAL", "('beat_test',)"], "'beat_test' is in DATASETS.TEST too"),
        (["DATASETS.VAL", "('beat_vall',)"], "beat_val"),
        (["SEED", "-1"], "SEED: found -1"),
        (["--iterations", "0"], "--iterations: found 0"),
        (["--num-figures", "-1"], "--num-figures: found -1"),
        (["DATASETS.VAL", "('flat_val',)"], "cine k-space"),
    ],
)
def test_mistakes_are_one_line(datasets, write_config, tmp_path, arguments, message, capsys):
    config = write_config("CineUnrolledCNN", None, "beat")
    command = ["--config-file", str(config), "--output", str(tmp_path / "cs"), *arguments]
    with pytest.raises(SystemExit) as exit_info:
        compressed_sensing.main(command)
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert exit_info.value.code == 2 and len(error) == 1 and message in error[0]
    assert not (tmp_path / "cs" / "test_results" / "results.json").exists()
