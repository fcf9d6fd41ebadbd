"""Trainings of meddlr's wrappers around a greedy network by the commands: resumed, evaluated, loaded elsewhere."""

import json
import shutil

import pytest
import torch

from meddlr_greedy import eval_net
from meddlr_greedy.errors import OneLineError
from meddlr_greedy.train_net import main as train_main
from tests.helpers.errors import without_progress
from tests.helpers.runs import assert_same_run, load, metrics
from tests.helpers.wrappers import with_masker, wrapped_opts

NAMES = ["N2R", "SSDU", "N2R around SSDU", "VORTEX", "Denoising"]


@pytest.mark.parametrize("name", NAMES)
def test_resumed_run_is_the_uninterrupted_one(write_config, tmp_path, name):
    opts = [*wrapped_opts(name), "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "3"]
    whole, resumed = (with_masker(write_config(modules=4, out=tmp_path / run)) for run in ("whole", "resumed"))
    train_main(["--config-file", str(whole), *opts])
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    (tmp_path / "resumed" / "last_checkpoint").write_text("model_0000001.pth")  # as if killed in the fourth iteration
    for killed in ("model_0000003.pth", "model_final.pth"):
        (tmp_path / "resumed" / killed).unlink()
    train_main(["--config-file", str(resumed), "--resume", *opts])
    assert_same_run(tmp_path / "whole" / "model_final.pth", tmp_path / "resumed" / "model_final.pth")


def test_every_validation_and_evaluation_draws_the_same_noise(write_config, tmp_path):
    still = ["SOLVER.BASE_LR", "0.0", "TEST.EVAL_PERIOD", "1"]
    train_main(["--config-file", str(write_config(modules=2)), *wrapped_opts("Denoising"), *still])
    (value,) = {line["flat_val/val_psnr"] for line in metrics(tmp_path / "run")}
    weights = ["--weights", str(tmp_path / "run" / "model_final.pth"), "--num-figures", "0"]
    eval_net.main([*weights, "DATASETS.TEST", "('flat_val',)"])
    results = json.loads((tmp_path / "run" / "test_results" / "results.json").read_text())
    assert results["datasets"]["flat_val"]["reconstruction"]["psnr"]["mean"] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_evaluated_alike_and_loaded_elsewhere(write_config, tmp_path, capsys, name):
    opts = wrapped_opts(name)
    config = with_masker(write_config(modules=2))
    train_main(["--config-file", str(config), *opts])
    results = []
    for _ in range(2):
        eval_net.main(["--weights", str(tmp_path / "run" / "model_final.pth"), "--num-figures", "0"])
        results.append(json.loads((tmp_path / "run" / "test_results" / "results.json").read_text()))
    assert results[0] == results[1]
    trained = load(tmp_path / "run" / "model_final.pth")["model"]
    # Into the plain network, the greedy one, the plain wrapper, and back into the greedy one inside.
    others = {
        "plain": ["MODEL.META_ARCHITECTURE", "GeneralizedUnrolledCNN", "MISC.GREEDY.NUM_MODULES", "1"],
        "greedy": ["MODEL.META_ARCHITECTURE", "GreedyUnrolled"],
        "wrapper": [*wrapped_opts(name, "GeneralizedUnrolledCNN"), "MISC.GREEDY.NUM_MODULES", "1"],
    }
    for other, change in others.items():
        start = ["MODEL.WEIGHTS", str(tmp_path / "run" / "model_final.pth"), "SOLVER.MAX_ITER", "1"]
        still = ["SOLVER.BASE_LR", "0.0", "OUTPUT_DIR", str(tmp_path / other)]
        still += ["MODEL.RECON_LOSS.RENORMALIZE_DATA", "False"]  # which meddlr's SSDU cannot, if scans have no target
        if other == "wrapper" and name in ("VORTEX",):
            continue  # meddlr's needs a GPU
        train_main(["--config-file", str(config), *change, *start, *still])
        loaded = load(tmp_path / other / "model_final.pth")["model"]
        for (a, x), (b, y) in zip(loaded.items(), trained.items()):
            assert a.split("resnets")[-1] == b.split("resnets")[-1] or "step_sizes" in a
            assert torch.equal(x, y)
        back = ["MODEL.WEIGHTS", str(tmp_path / other / "model_final.pth"), "SOLVER.MAX_ITER", "1"]
        train_main(["--config-file", str(config), *opts, *back, "OUTPUT_DIR", str(tmp_path / f"{other}-back")])
    capsys.readouterr()


OF_CINE = [word for split in ("train", "val", "test") for word in (f"DATASETS.{split.upper()}", f"('beat_{split}',)")]


@pytest.mark.parametrize(
    ("name", "opts", "words"),
    [
        ("N2R", ["MODEL.CONSISTENCY.USE_LATENT", "True"], "MODEL.CONSISTENCY.USE_LATENT: found True"),
        ("SSDU", ["MODEL.SSDU.MASKER.PARAMS.p", "0.5"], "MODEL.SSDU.MASKER.PARAMS.p: found 0.5"),
        ("SSDU", ["MODEL.SSDU.MASKER.PARAMS.rhos", "1.5"], "MODEL.SSDU.MASKER.PARAMS.rhos: found 1.5"),
        ("SSDU", ["MODEL.SSDU.AUGMENTOR.SCHEDULER_P", "{}"], "MODEL.SSDU.AUGMENTOR.SCHEDULER_P: a section"),
        ("SSDU", ["MISC.GREEDY.CONSISTENCY_TARGET", "module"], "MISC.GREEDY.CONSISTENCY_TARGET: found 'module'"),
        ("SSDU", ["MODEL.SSDU.META_ARCHITECTURE", "SSDUModel"], "which stands around it already"),
        ("VORTEX", ["MODEL.A2R.META_ARCHITECTURE", "SSDUModel"], "MODEL.A2R.META_ARCHITECTURE: found 'SSDUModel'"),
        ("N2R", ["MISC.GREEDY.CINE.LOSS_LINES", "0.2"], "MISC.GREEDY.CINE.LOSS_LINES: found 0.2"),
        ("SSDU", ["MISC.GREEDY.META_ARCHITECTURE", "CineUnrolledCNN", *OF_CINE], "'CineUnrolledCNN', which takes cine"),
        ("N2R", ["MODEL.CONSISTENCY.LOSS_NAME", "l3"], "MODEL.CONSISTENCY.LOSS_NAME: found 'l3'"),
    ],
)
def test_refused_in_one_line(write_config, capsys, name, opts, words):
    ssdu_inside = ["MODEL.SSDU.META_ARCHITECTURE", "GreedyUnrolled"] if "SSDUModel" in opts and name != "SSDU" else []
    with pytest.raises((SystemExit, OneLineError)):
        train_main(["--config-file", str(with_masker(write_config())), *wrapped_opts(name), *opts, *ssdu_inside])
    error = without_progress(capsys.readouterr().err)
    assert error.startswith("error: ") and words in error and "\n" not in error, error
