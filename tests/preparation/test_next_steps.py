"""The commands that are printed at the end work word for word."""

import json
import os
import shlex

import h5py
import numpy as np
import pytest
import torch
from meddlr.data.transforms.subsample import build_mask_func

from meddlr_greedy import eval_net, prepare, train_net
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import check_dataset_names, register_datasets
from meddlr_greedy.preparation.next_steps import say_what_is_next
from tests.helpers.scans import write_scans

SCANS = {
    "cine": {"num_slices": 1, "height": 20, "width": 24, "num_frames": 3, "num_coils": 2},
    "plane": {"num_slices": 1, "height": 20, "width": 24, "num_coils": 2},
}
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
    assert cfg.OUTPUT_DIR == "results/a 'heart'"


@pytest.mark.parametrize(
    "split,says", [(("1", "1", "0"), "train, val are slices of one subject;"), (("2", "0", "0"), "")]
)
def test_slices_of_one_subject_on_two_sides_are_told_of(tmp_path, capsys, split, says):
    prepare.main(
        ["phantom", "--output", str(tmp_path / "one"), "--subjects", "1", *SIZES, "--slices", "2", "--split", *split]
    )
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == bool(says) and all(says in note for note in notes)


# What the configs for a GPU train is 64 or 128 features, in thousands of iterations.
@pytest.mark.parametrize("has_gpu", [False, True])
@pytest.mark.parametrize(
    "kind, of_cpu, of_gpu",
    [("cine", "cine/pig.yaml", "cine/greedy.yaml"), ("plane", "knee/demo.yaml", "knee/greedy.yaml")],
)
def test_the_printed_command_is_for_this_machine(
    registry, write_scan, tmp_path, monkeypatch, capsys, has_gpu, kind, of_cpu, of_gpu
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    say_what_is_next(write_scan(kind), 0)
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert words[3] == (of_gpu if has_gpu else of_cpu)
    register_datasets()
    cfg = load_config(words[3], words[4:])
    assert cfg.MODEL.DEVICE == ("cuda" if has_gpu else "cpu") and cfg.OUTPUT_DIR == "results/some"
    if not has_gpu:
        assert cfg.MODEL.UNROLLED.NUM_FEATURES <= 16 and cfg.SOLVER.MAX_ITER <= 1000 and cfg.TIME_SCALE == "iter"
    if kind == "plane":
        mask_func = build_mask_func(cfg.AUG_TRAIN)
        masks = torch.cat([mask_func((1, 3, 100, 1), seed) for seed in range(100)])
        assert torch.equal(masks[:, :1].expand_as(masks), masks)  # whole lines
        assert 1 / masks.mean() == pytest.approx(4, rel=0.05)


@pytest.fixture
def write_scan(tmp_path):
    """write_scan(kind): the data set ``some`` of one scan to train on."""

    def write(kind):
        write_scans(tmp_path / "root", "some", {"train_0": SCANS[kind]})
        return tmp_path / "root" / "some"

    return write


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
