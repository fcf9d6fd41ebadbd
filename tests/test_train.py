"""The entry point and the trainer: from a config to weights, killed and resumed."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from meddlr_greedy.data.leaks import Identity
from meddlr_greedy.data.loader import SeededDataset
from meddlr_greedy.data.seeding import EVAL_EPOCH
from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.jobs.failure import PeerLostError
from meddlr_greedy.modeling.greedy.modules import UnrolledModules
from meddlr_greedy.modeling.losses import LeanLossComputer
from meddlr_greedy.parallel import training as training_module
from meddlr_greedy.train_net import main as train_main
from tests.helpers import jobs
from tests.helpers.errors import expect_error, without_progress
from tests.helpers.jobs import assert_one_line, ended_well, start_job, wait_until  # noqa: F401 (a fixture)
from tests.helpers.runs import assert_same_run, load, metrics, train


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
    assert not [name for name in names if "partial" in name]
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
    train(write_config(modules=None, out=tmp_path / "plain"), "MISC.GREEDY.RUN.BEST_METRIC", "val_psnr")
    greedy = write_config(modules=2, out=tmp_path / "greedy")
    train(greedy, "MODEL.WEIGHTS", str(tmp_path / "plain" / "model_final.pth"), "SOLVER.BASE_LR", "0.")
    plain, warm = (load(tmp_path / run / "model_final.pth")["model"] for run in ("plain", "greedy"))
    assert plain.keys() == {key.replace("model.", "", 1) for key in warm}
    for key, value in plain.items():
        # A learning rate of 0 leaves the weights that were loaded.
        assert torch.equal(value, warm[f"model.{key}"])
    back = write_config(modules=None, out=tmp_path / "back")
    opts = ["SOLVER.BASE_LR", "0.", "MISC.GREEDY.RUN.BEST_METRIC", "val_psnr"]
    train(back, "MODEL.WEIGHTS", str(tmp_path / "greedy" / "model_final.pth"), *opts)
    for key, value in load(tmp_path / "back" / "model_final.pth")["model"].items():
        assert torch.equal(value, plain[key])


def test_a_fresh_run_leaves_an_earlier_one_alone(write_config, tmp_path, capsys):
    train(write_config())
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train(write_config(), "SOLVER.MAX_ITER", "3")
    assert end.value.code == 2 and "--resume" in capsys.readouterr().err
    after = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    before.pop("log.txt"), after.pop("log.txt")  # the log may say that it was refused
    assert before == after


def test_keeps_the_newest_checkpoints(write_config, tmp_path):
    train(write_config(), "SOLVER.CHECKPOINT_PERIOD", "1", "MISC.GREEDY.RUN.KEEP_CHECKPOINTS", "2")
    names = sorted(p.name for p in (tmp_path / "run").glob("model_0*.pth"))
    assert names == ["model_0000003.pth", "model_0000004.pth"]


def test_periods_of_zero_mean_at_the_end_only(write_config, tmp_path):
    results = train(write_config(), "SOLVER.CHECKPOINT_PERIOD", "0", "TEST.EVAL_PERIOD", "0")
    assert results["flat_val"]["val_psnr"] > 0
    assert not list((tmp_path / "run").glob("model_0*.pth"))


def test_without_validation_data_there_is_no_best_checkpoint(write_config, tmp_path, capsys):
    results = train(write_config(), "DATASETS.VAL", "()", "TEST.EVAL_PERIOD", "2")
    assert results["flat_test"]["val_psnr"] > 0
    assert not (tmp_path / "run" / "model_best.pth").exists()
    assert capsys.readouterr().out.count("no model_best.pth is kept") == 1


def test_a_training_says_what_is_next(write_config, tmp_path, capsys):
    """With nothing to score the network on, what it is for."""
    train(write_config(), "DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "0")
    command = f"meddlr-greedy reconstruct --weights {tmp_path}/run/model_best.pth SCAN.h5 --output FOLDER"
    assert capsys.readouterr().out.splitlines()[-1] == f"Next, reconstruct with it: {command}"


def test_what_is_next_gives_a_config_that_names_packages(write_config, tmp_path, capsys, monkeypatch):
    """``eval`` takes no such config that it finds beside the weights."""
    (tmp_path / "of_ours.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    train(write_config(), "MISC.GREEDY.RUN.IMPORTS", "['of_ours']", "TEST.EVAL_PERIOD", "0")
    folder = tmp_path / "run"
    options = f"--config-file {folder}/config.yaml --weights {folder}/model_best.pth"
    assert capsys.readouterr().out.splitlines()[-1].endswith(f": meddlr-greedy eval {options}")


@pytest.mark.parametrize("period,told", [(1, 1), (2, 0), (0, 0)])
def test_a_training_that_validates_all_the_time_is_told_of(write_config, capsys, monkeypatch, period, told):
    monkeypatch.setattr(training_module, "_MANY_VALIDATIONS", 4)
    train(write_config(), "TEST.EVAL_PERIOD", str(period))
    words = "TEST.EVAL_PERIOD: every 1 iterations, so the network is validated 5 times"
    assert capsys.readouterr().out.count(words) == told


def test_a_validation_in_each_epoch_is_not_told_of(write_config, capsys, monkeypatch):
    monkeypatch.setattr(training_module, "_MANY_VALIDATIONS", 4)
    train(write_config(), "TIME_SCALE", "epoch", "TEST.EVAL_PERIOD", "1")
    assert "so the network is validated" not in capsys.readouterr().out


#: Of meddlr: the build of torch, the config, data sets, evaluations, each iteration.
CHATTER = (
    "Environment info",
    "Running with full config",
    "Loading ",
    "Dropped 0 scans",
    "copypaste",
    "Start inference",
)


def test_the_console_shows_what_matters(write_config, tmp_path, monkeypatch, capsys):
    original, shown_before = GreedyTrainer.run_step, []
    monkeypatch.setattr(
        GreedyTrainer, "run_step", lambda self: shown_before.append(capsys.readouterr()) or original(self)
    )
    train(write_config(), "TEST.EVAL_PERIOD", "3")
    out = "".join(shown.out for shown in shown_before)
    last = capsys.readouterr()
    # A sign of progress comes before the first iteration; no line after it that an iteration alone would bring.
    assert shown_before[0].err == "training: 0 of 5 iterations\n"
    err = "".join(shown.err for shown in shown_before) + last.err
    assert len(err.splitlines()) <= 3 and "training: 5 of 5 iterations in 0" in err and "(loss " in err
    lines = (out + last.out).splitlines()
    assert not [line for line in lines for words in (*CHATTER, "eta: ", "Structuring") if words in line]
    assert len(lines) == len(set(lines)) <= 10
    weights = tmp_path / "run" / "model_best.pth"
    assert lines[-1] == f"Next, score it on flat_test: meddlr-greedy eval --weights {weights}"
    assert [line.split(": ")[0] for line in lines if "val_psnr" in line and "after" in line] == [
        "flat_val after iteration 2",
        "flat_val after iteration 4",
    ]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert all(words in log for words in (*CHATTER, "eta: ")) and all(line.split(": ")[-1] in log for line in lines)


def test_a_second_training_in_a_process_is_shown_once(write_config, tmp_path, capsys):
    train(write_config())
    train(write_config(out=tmp_path / "other"), "DATASETS.VAL", "()")
    train_main(["--config-file", str(write_config()), "--resume", "SOLVER.MAX_ITER", "6"])
    assert capsys.readouterr().out.count("no model_best.pth is kept") == 1


def test_what_data_sets_share_is_told_of_once(write_config, monkeypatch, capsys):
    original = Identity.of.__func__
    monkeypatch.setattr(Identity, "of", classmethod(lambda *args: original(*args)._replace(subject="P1")))
    train(write_config())
    assert capsys.readouterr().out.count("1 of 1 subjects of VAL and TEST are in TRAIN too") == 1


def test_a_scan_in_train_and_test_is_refused(write_config, tmp_path, capsys):
    expect_error(capsys, write_config(), "DATASETS.TEST", "('flat_train',)", words=["DATASETS: 2 scans are in TRAIN"])
    assert not (tmp_path / "run").exists()


def test_scans_of_several_shapes(write_config, tmp_path, several_shapes):
    """Batches are of one shape each; epochs, resuming and evaluation are what they are for scans of one shape."""
    opts = [*several_shapes, "SOLVER.TEST_BATCH_SIZE", "3", "SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "1"]
    opts += ["TIME_SCALE", "epoch", "SOLVER.MAX_ITER", "3"]
    whole, parts = (
        write_config(data="beat", arch="CineUnrolledCNN", out=tmp_path / name) for name in ("whole", "parts")
    )
    train(whole, *opts)
    # An epoch has 8 examples, 4, 3 and 1 of a kind, and so 5 batches; by meddlr's count it has 4.
    assert [line["iteration"] for line in metrics(tmp_path / "whole")] == list(range(15))
    train(parts, *opts)
    for name in ("model_final.pth", "model_0000014.pth", "model_0000009.pth"):
        (tmp_path / "parts" / name).unlink()
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000004.pth")
    train_main(["--config-file", str(parts), "--resume", *opts, "DATALOADER.NUM_WORKERS", "2"])
    for name in ("model_final.pth", "model_best.pth"):
        assert_same_run(tmp_path / "whole" / name, tmp_path / "parts" / name)


@pytest.mark.parametrize("module", [1, 2, 3])
def test_non_finite_loss_stops_before_the_update(write_config, tmp_path, monkeypatch, capsys, module):
    original, calls = UnrolledModules.run_steps, []

    def poisoned(self, steps, *args):
        out = original(self, steps, *args)
        calls.append(steps)
        return out * float("nan") if steps == self.steps[module - 1] and calls.count(steps) == 4 else out

    monkeypatch.setattr(UnrolledModules, "run_steps", poisoned)
    with pytest.raises(SystemExit) as end:
        train(write_config(modules=3), "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "0")
    assert end.value.code == 3
    error = capsys.readouterr().err
    assert f"iteration 3: the loss of module {module} is nan" in error and "Traceback" not in error
    run = tmp_path / "run"
    assert (run / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not (run / "model_final.pth").exists() and not (run / "model_best.pth").exists()


def test_a_failed_step_stops_being_measured(write_config, monkeypatch):
    """Hooks on what autograd saves are the process's: those of a failed training would measure what comes after it."""
    original, packed = HeldForBackward._pack, []
    monkeypatch.setattr(HeldForBackward, "_pack", lambda self, x: packed.append(0) or original(self, x))
    loss = LeanLossComputer.__call__
    monkeypatch.setattr(LeanLossComputer, "__call__", lambda *args: (loss(*args), 1 / 0))
    with pytest.raises(SystemExit):
        train(write_config(modules=3), "MISC.GREEDY.RUN.LOG_PERIOD", "1")
    assert packed, "nothing was measured"
    packed.clear()
    torch.ones(1, requires_grad=True).square()
    assert not packed


def test_killed_during_an_evaluation(write_config, tmp_path, monkeypatch):
    """Ended in the middle of the second evaluation, a run evaluates and logs it again when resumed."""
    opts = ["TEST.EVAL_PERIOD", "3", "SOLVER.CHECKPOINT_PERIOD", "3", "SOLVER.MAX_ITER", "9"]
    train(write_config(out=tmp_path / "whole"), *opts)

    class Killed(BaseException):
        pass

    original, evaluations = GreedyTrainer.test.__func__, []

    def test(cls, *args, **kwargs):
        evaluations.append(1)
        if len(evaluations) == 2:
            raise Killed
        return original(cls, *args, **kwargs)

    config = write_config(out=tmp_path / "killed")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(GreedyTrainer, "test", classmethod(test))
        train(config, *opts)
    train_main(["--config-file", str(config), "--resume", *opts])
    for name in ("model_final.pth", "model_best.pth"):
        assert_same_run(tmp_path / "whole" / name, tmp_path / "killed" / name)
    key = "flat_val/val_psnr"
    logged = [[(m["iteration"], m.get(key)) for m in metrics(tmp_path / run)] for run in ("whole", "killed")]
    assert logged[0] == logged[1]
    assert [i for i, value in logged[0] if value is not None] == [2, 5, 8]


@pytest.mark.parametrize("error, leaves", [(RuntimeError("out of disk"), True), (PeerLostError(1, "reset"), False)])
def test_failing_evaluation_leaves_a_checkpoint(write_config, tmp_path, monkeypatch, error, leaves):
    """Unless it failed for a lost process, without which there is no whole checkpoint."""

    def test(cls, *args, **kwargs):
        raise error

    monkeypatch.setattr(GreedyTrainer, "test", classmethod(test))
    with pytest.raises(SystemExit) as end:
        train(write_config(), "SOLVER.CHECKPOINT_PERIOD", "0")
    assert end.value.code == 1 and end.value.__context__ is error
    last = tmp_path / "run" / "last_checkpoint"
    assert last.exists() == leaves and (not leaves or last.read_text() == "model_0000004.pth")


@pytest.mark.parametrize(("epoch", "workers"), [(0, 2), (1, 1), (EVAL_EPOCH, 1)])
def test_a_killed_worker_is_told_of(write_config, tmp_path, monkeypatch, capsys, epoch, workers):
    """The system kills workers where memory runs out; torch raises its error wherever the trainer happens to be."""
    original = SeededDataset.__getitem__

    def killed(self, key):
        if key[0] == epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, key)

    monkeypatch.setattr(SeededDataset, "__getitem__", killed)
    with pytest.raises(SystemExit) as end:
        train(write_config(), "DATALOADER.NUM_WORKERS", str(workers))
    error = without_progress(capsys.readouterr().err)
    assert end.value.code == 1
    assert re.fullmatch(r"error: a worker of the DataLoader \(process \d+.*NUM_WORKERS.*--resume", error), error
    run = tmp_path / "run"
    assert (run / "last_checkpoint").exists() == (epoch == EVAL_EPOCH) and not list(run.glob(".partial-*"))


# ---- real processes


@pytest.fixture
def start(start_job):  # noqa: F811
    """start(config, *arguments): trains in a process of its own."""
    return lambda config, *arguments: start_job(1, jobs.train, "--config-file", str(config), *arguments)


CINE_OPTS = [
    *("AUG_TRAIN.UNDERSAMPLE.NAME", "VariableDensityKtMaskFunc", "MODEL.UNROLLED.DROPOUT", "0.1"),
    *("SOLVER.CHECKPOINT_PERIOD", "7", "TEST.EVAL_PERIOD", "11", "SOLVER.MAX_ITER", "60"),
]


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 2), (signal.SIGUSR1, 0), (signal.SIGINT, 1), (signal.SIGHUP, 0)]
)
def test_signal_writes_a_checkpoint_and_asks_to_be_requeued(write_config, tmp_path, start, number, workers):
    config = write_config(data="beat", arch="CineUnrolledCNN")
    opts = [*CINE_OPTS, "SOLVER.MAX_ITER", "100000", "DATALOADER.NUM_WORKERS", str(workers)]
    job = start(config, *opts)
    run = tmp_path / "run"
    wait_until((run / "last_checkpoint").exists, job)
    os.killpg(job.processes[0].pid, number)  # schedulers and terminals signal the whole group, workers included
    assert job.wait() == [os.EX_TEMPFAIL], job.text()[-3000:]
    assert_one_line(job.text(), f"{number.name} received")
    assert "Traceback" not in job.text()
    name = (run / "last_checkpoint").read_text()
    iteration = load(run / name)["iteration"]
    assert metrics(run)[-1]["iteration"] == iteration


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_before_training_asks_to_be_requeued(write_config, start_job, number):  # noqa: F811
    job = start_job(1, jobs.setup_without_end, "--config-file", str(write_config()))
    wait_until(lambda: "begins" in job.text(), job)
    os.kill(job.processes[0].pid, number)
    assert job.wait() == [os.EX_TEMPFAIL], job.text()[-3000:]
    assert_one_line(job.text(), f"{number.name} received outside the training; nothing is lost")
    assert "Traceback" not in job.text()


def test_a_second_ctrl_c_ends_at_once(write_config, tmp_path, start_job):  # noqa: F811
    job = start_job(1, jobs.train_without_end_of_an_iteration, "--config-file", str(write_config()))
    wait_until(lambda: "begins" in job.text(), job)
    for _ in range(2):
        os.kill(job.processes[0].pid, signal.SIGINT)
        time.sleep(0.8)
    assert job.wait() == [128 + signal.SIGINT], job.text()[-3000:]
    assert_one_line(job.text(), "SIGINT received twice: ended at once")
    assert not (tmp_path / "run" / "last_checkpoint").exists()


def random_moment(rng):
    """A moment after a random iteration."""
    iteration, delay = rng.randrange(5, 50), rng.random() / 10

    def reached(run):
        path = run / "metrics.json"
        return path.exists() and path.read_text().count("\n") > iteration

    return reached, delay


def during_checkpoint(rng):
    """The moment a checkpoint is half-written."""
    after, _ = random_moment(rng)
    return lambda run: after(run) and bool(list(run.glob(".partial-*.pth"))), 0


@pytest.mark.parametrize(
    ("opts", "kills"),
    [
        pytest.param([], [random_moment, during_checkpoint], id="no-workers"),
        pytest.param([], [random_moment], id="no-workers-again", marks=pytest.mark.stress),
        pytest.param(
            ["DATALOADER.NUM_WORKERS", "2", "SOLVER.GRAD_ACCUM_ITERS", "3"],
            [random_moment, random_moment],
            id="workers-and-accumulation",
            marks=pytest.mark.stress,
        ),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(write_config, tmp_path, start, opts, kills):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the kills: {seed}")  # shown where the test fails
    rng = random.Random(seed)
    opts = [*CINE_OPTS, *opts, "SOLVER.CHECKPOINT_PERIOD", "2"]
    configs = {
        name: write_config(data="beat", arch="CineUnrolledCNN", out=tmp_path / name) for name in ("whole", "killed")
    }
    whole = start(configs["whole"], *opts)
    run = tmp_path / "killed"
    for kill in kills:
        torn = False
        while not torn:
            job = start(configs["killed"], "--resume", *opts)
            moment, delay = kill(rng)
            while not moment(run) and job.processes[0].is_alive():
                time.sleep(0.001)
            time.sleep(delay)
            job.kill()
            if job.processes[0].exitcode != -signal.SIGKILL:
                ended_well(job)
                shutil.rmtree(run)  # it ended before the moment came
                continue
            torn = kill is random_moment or bool(list(run.glob(".partial-*.pth")))
    ended_well(start(configs["killed"], "--resume", *opts))
    ended_well(whole)
    assert_same_run(tmp_path / "whole" / "model_final.pth", run / "model_final.pth")
    assert_same_run(tmp_path / "whole" / "model_best.pth", run / "model_best.pth")
    assert [line["iteration"] for line in metrics(run)] == list(range(60))


UPSTREAM_TRAIN_NET = """
import sys
from meddlr.config import get_cfg
from meddlr.engine import DefaultTrainer
cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
cfg.freeze()
assert "meddlr_greedy" in sys.modules, "the config imports the plugin"
trainer = DefaultTrainer(cfg)
trainer.resume_or_load(resume=False)
trainer.train()
assert type(trainer.model).__name__ == "GreedyUnrolled"
"""


# Newer numpy lacks what meddlr needs to be imported alone: there the script runs behind the package (README).
BEHIND = "import meddlr_greedy, runpy; runpy.run_path({!r}, run_name='__main__')"
IMPORTS_ALONE = np.lib.NumpyVersion(np.__version__) < "1.24.0"


@pytest.mark.short
def test_config_alone_brings_the_plugin_into_meddlrs_own_script(write_config, datasets, tmp_path):
    plugin = "  PLUGIN: !!python/name:meddlr_greedy.PLUGIN ''\n"
    config = write_config(modules=2)
    text = config.read_text().replace("MISC:\n", "MISC:\n" + plugin).replace("FixedMaskFunc", "RandomMaskFunc1D")
    text = text.replace("VAL: [flat_val], TEST: [flat_test]", "VAL: [], TEST: []")
    config.write_text(text)
    (tmp_path / "run").mkdir()
    script = tmp_path / "train_net.py"
    script.write_text(UPSTREAM_TRAIN_NET)
    done = subprocess.run(
        [sys.executable, *([str(script)] if IMPORTS_ALONE else ["-c", BEHIND.format(str(script))]), str(config)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert metrics(tmp_path / "run")[-1]["loss_module_1"] > 0
    # The same file is read, safely, by the plugin's own entry point; what a run dumps is plain YAML.
    train(config, "OUTPUT_DIR", str(tmp_path / "own"))
    import yaml

    dumped = yaml.safe_load((tmp_path / "own" / "config.yaml").read_text())
    assert dumped["MISC"]["PLUGIN"] == "meddlr_greedy"
