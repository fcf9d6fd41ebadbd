"""The commands that are printed at the end work word for word."""

import json
import os
import shlex

import h5py
import numpy as np
import pytest
import torch

from meddlr_greedy import eval_net, prepare, train_net
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import check_dataset_names, register_datasets
from meddlr_greedy.preparation.next_steps import say_what_is_next

SIZES = ["--slices", "1", "--frames", "2", "--matrix", "16", "16", "--coils", "2", "--calib", "16"]


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
    output = ["--output", f"{root}/a 'heart'"]
    prepare.main(["phantom", *output, "--subjects", "2", *SIZES, "--split", *split, "--maps", str(maps)])
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[0].startswith("MEDDLR_GREEDY_DATASETS=") == prefixed
    if prefixed:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert words[:3] == ["meddlr-greedy", "train", "--config-file"]
    register_datasets()
    cfg = load_config(words[3], words[4:])
    found = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL, *cfg.DATASETS.TEST]
    assert found == ["a 'heart'_train", f"a 'heart'_{'val' if split[1] == '1' else 'test'}"]
    check_dataset_names(found)
    assert cfg.MODEL.UNROLLED.NUM_EMAPS == maps


def test_the_printed_command_of_a_data_set_to_test_on_works(registry, write_config, tmp_path, monkeypatch, capsys):
    """A network of another data set is scored on it."""
    run = tmp_path / "run"
    train_net.main(["--config-file", str(write_config(data="beat", arch="CineUnrolledCNN", out=run))])
    monkeypatch.chdir(tmp_path)
    output = ["--output", str(tmp_path / "held out")]
    prepare.main(["phantom", *output, "--subjects", "2", *SIZES, "--split", "0", "0", "1"])
    *_, told, command = capsys.readouterr().out.splitlines()
    assert told.startswith("Next, score a network on it, one for map sets: 1")
    words = shlex.split(command.replace("RUN", str(run)))
    monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert words[:2] == ["meddlr-greedy", "eval"]
    eval_net.main(words[2:])
    results = json.loads((run / "test_results" / "results.json").read_text())
    scores = results["datasets"]["held out_test"]
    assert len(scores["scans"]) == 2 and scores["reconstruction"]["psnr"]["count"] == 4


@pytest.mark.parametrize("maps", [1, 2])
def test_the_printed_commands_for_scans_without_targets_work(registry, tmp_path, monkeypatch, capsys, maps):
    output = ["--output", str(tmp_path / "beat")]
    prepare.main(["phantom", *output, "--subjects", "3", *SIZES, "--split", "1", "1", "1", "--maps", str(maps)])
    for path in (tmp_path / "beat").rglob("*.h5"):
        with h5py.File(path, "a") as file:
            del file["target"]
            file["mask"] = np.ones((1, 1, 16, 2, 1), np.uint8)
    capsys.readouterr()
    say_what_is_next(tmp_path / "beat", 0)
    reconstruct, train = (shlex.split(line) for line in capsys.readouterr().out.splitlines()[2::2])
    assert reconstruct[:2] == ["meddlr-greedy", "reconstruct"]
    assert reconstruct[-2:] == ["--device", "cpu"] or torch.cuda.is_available()
    monkeypatch.setenv(*train[0].split("=", 1))
    assert train[1:3] == ["meddlr-greedy", "train"]
    register_datasets()
    cfg = load_config(train[4], train[5:])
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.VAL, cfg.DATASETS.TEST) == (("beat_train",), ("beat_val",), ())
    assert cfg.MISC.GREEDY.CINE.LOSS_LINES > 0 and cfg.MODEL.UNROLLED.NUM_EMAPS == maps


def test_scans_of_several_shapes_are_told_of(tmp_path, monkeypatch, capsys):
    """Names of files that are not UTF-8 come through, too."""
    monkeypatch.chdir(tmp_path)
    for i, frames in enumerate((2, 4, 3)):
        with open(os.fsencode(tmp_path) + b"/a\xff%d.npy" % i, "wb") as file:
            np.save(file, np.random.default_rng(i).uniform(1, 2, (1, frames, 16, 16)))
    prepare.main(
        ["images", str(tmp_path), "--output", "out", "--split", "1", "1", "1", "--coils", "2", "--calib", "16"]
    )
    output = capsys.readouterr().out
    assert "(H, W, T, C) = (16, 16, 2, 2) to (16, 16, 4, 2), 3 different ones" in output
    assert sorted(path.name for path in (tmp_path / "out" / "scans").iterdir()) == [f"a%FF{i}.h5" for i in range(3)]
    assert "taken for a subject, 'a%FF2'" in output
