"""The entry point and the trainer: from a config to weights, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from meddlr_greedy.train_net import main as train_main

ROOT = Path(__file__).resolve().parents[1]


def train(config, *opts):
    return train_main(["--config-file", str(config), *opts])


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_same_run(a, b):
    """Model, optimizer, scheduler and generators of two checkpoints are equal, bit for bit."""
    a, b = load(a), load(b)
    assert a.keys() == b.keys()

    def compare(x, y, where):
        if isinstance(x, torch.Tensor):
            assert torch.equal(x, y), where
        elif isinstance(x, dict):
            assert x.keys() == y.keys(), where
            for key in x:
                compare(x[key], y[key], f"{where}.{key}")
        elif isinstance(x, (list, tuple)):
            assert len(x) == len(y), where
            for i, (u, v) in enumerate(zip(x, y)):
                compare(u, v, f"{where}[{i}]")
        else:
            assert x == y, where

    compare(a, b, "")


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]


@pytest.mark.parametrize(
    ("data", "arch"), [("flat", "GeneralizedUnrolledCNN"), ("beat", "CineUnrolledCNN"), ("beat", "CGCineUnrolledCNN")]
)
def test_trains_and_logs_every_module(write_config, tmp_path, data, arch):
    opts = ["MODEL.UNROLLED.STEP_SIZES", "(0.1,)"] if arch.startswith("CG") else []
    train(write_config(data=data, arch=arch, modules=2), *opts)
    run = tmp_path / "run"
    lines = metrics(run)
    assert [line["iteration"] for line in lines] == list(range(5))
    for key in ("loss", "loss_module_1", "loss_module_2", "lr", "module_2/grad_norm", "module_1/memory_mb"):
        assert all(key in line for line in lines), key
    assert f"{data}_val/val_psnr" in lines[-1]
    names = {p.name for p in run.iterdir()}
    assert {"model_final.pth", "model_best.pth", "last_checkpoint", "config.yaml"} <= names
    assert not [name for name in names if name.endswith(".partial")]
    assert (run / "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.parametrize("accumulate", [1, 3])
def test_resumed_equals_uninterrupted(write_config, tmp_path, accumulate):
    # Dropout draws from the generators; 4 iterations end inside an accumulation window of 3.
    opts = ["MODEL.UNROLLED.DROPOUT", "0.2", "SOLVER.GRAD_ACCUM_ITERS", str(accumulate), "SOLVER.MAX_ITER", "10"]
    opts += ["SOLVER.CHECKPOINT_PERIOD", "4", "TEST.EVAL_PERIOD", "3", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"]
    whole = write_config(out=tmp_path / "whole")
    parts = write_config(out=tmp_path / "parts")
    train(whole, *opts)
    train(parts, *opts)
    for name in ("model_final.pth", "model_0000007.pth"):
        (tmp_path / "parts" / name).unlink()
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000003.pth")
    train_main(["--config-file", str(parts), "--resume", *opts])
    assert_same_run(tmp_path / "whole" / "model_final.pth", tmp_path / "parts" / "model_final.pth")
    assert_same_run(tmp_path / "whole" / "model_best.pth", tmp_path / "parts" / "model_best.pth")
    assert [line["iteration"] for line in metrics(tmp_path / "parts")] == list(range(10))


def test_another_number_of_modules_on_resume(write_config, tmp_path):
    train(write_config(modules=4), "SOLVER.MAX_ITER", "5")
    config = write_config(modules=1)
    train_main(["--config-file", str(config), "--resume", "SOLVER.MAX_ITER", "8"])
    assert load(tmp_path / "run" / "model_final.pth")["iteration"] == 7


def test_warm_starts_between_plain_and_greedy(write_config, tmp_path):
    train(write_config(modules=None, out=tmp_path / "plain"), "MISC.GREEDY.BEST_METRIC", "val_psnr")
    greedy = write_config(modules=2, out=tmp_path / "greedy")
    train(greedy, "MODEL.WEIGHTS", str(tmp_path / "plain" / "model_final.pth"), "SOLVER.BASE_LR", "0.")
    plain, warm = (load(tmp_path / run / "model_final.pth")["model"] for run in ("plain", "greedy"))
    assert plain.keys() == {key.replace("model.", "", 1) for key in warm}
    for key, value in plain.items():
        # A learning rate of 0 leaves the weights that were loaded.
        assert torch.equal(value, warm[f"model.{key}"])
    back = write_config(modules=None, out=tmp_path / "back")
    opts = ["SOLVER.BASE_LR", "0.", "MISC.GREEDY.BEST_METRIC", "val_psnr"]
    train(back, "MODEL.WEIGHTS", str(tmp_path / "greedy" / "model_final.pth"), *opts)
    for key, value in load(tmp_path / "back" / "model_final.pth")["model"].items():
        assert torch.equal(value, plain[key])


def test_keeps_the_newest_checkpoints(write_config, tmp_path):
    train(write_config(), "SOLVER.CHECKPOINT_PERIOD", "1", "MISC.GREEDY.KEEP_CHECKPOINTS", "2")
    names = sorted(p.name for p in (tmp_path / "run").glob("model_0*.pth"))
    assert names == ["model_0000003.pth", "model_0000004.pth"]


def test_periods_of_zero_mean_at_the_end_only(write_config, tmp_path):
    results = train(write_config(), "SOLVER.CHECKPOINT_PERIOD", "0", "TEST.EVAL_PERIOD", "0")
    assert results["flat_val"]["val_psnr"] > 0
    assert not list((tmp_path / "run").glob("model_0*.pth"))


def test_non_finite_loss_stops_before_the_update(write_config, tmp_path, monkeypatch, capsys):
    from meddlr_greedy.modeling.greedy import GreedyUnrolled

    original, calls = GreedyUnrolled.run_module, []

    def poisoned(self, k, image, problem):
        out = original(self, k, image, problem)
        calls.append(k)
        return out * float("nan") if k == 1 and self.training and calls.count(1) == 4 else out

    monkeypatch.setattr(GreedyUnrolled, "run_module", poisoned)
    with pytest.raises(SystemExit) as end:
        train(write_config(modules=3), "SOLVER.CHECKPOINT_PERIOD", "2")
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "iteration 3: the loss of module 2 is nan" in error and "Traceback" not in error
    run = tmp_path / "run"
    assert (run / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not (run / "model_final.pth").exists() and not (run / "model_best.pth").exists()


# ---- real processes


def start(config, *flags, opts=(), env=()):
    command = [sys.executable, "-m", "meddlr_greedy.train_net", "--config-file", str(config), *flags, *opts]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **dict(env)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


# FixedMaskFunc lives in the tests; processes use a registered mask.
CINE_OPTS = [
    *("AUG_TRAIN.UNDERSAMPLE.NAME", "VariableDensityKtMaskFunc", "MODEL.UNROLLED.DROPOUT", "0.1"),
    *("SOLVER.CHECKPOINT_PERIOD", "7", "TEST.EVAL_PERIOD", "11", "SOLVER.MAX_ITER", "60"),
]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_writes_a_checkpoint_and_asks_to_be_requeued(write_config, tmp_path, number):
    config = write_config(data="beat", arch="CineUnrolledCNN")
    process = start(config, opts=[*CINE_OPTS, "SOLVER.MAX_ITER", "100000"])
    run = tmp_path / "run"
    wait_for(lambda: (run / "last_checkpoint").exists(), process)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == os.EX_TEMPFAIL
    assert f"{number.name} received" in output and "Traceback" not in output
    name = (run / "last_checkpoint").read_text()
    iteration = load(run / name)["iteration"]
    assert metrics(run)[-1]["iteration"] == iteration
