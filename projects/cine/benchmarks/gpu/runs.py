"""Commands in processes of their own: tests, trainings over several processes, and what follows a training."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List

import torch

from meddlr_greedy.data.catalog import ROOT_VARIABLE
from projects.cine.benchmarks.gpu.line import Found, NotRunError, Setting
from projects.cine.paths import ROOT
from projects.cine.support.measuring import write_example_scan

__all__ = ["commands", "killed_and_resumed", "processes", "tests"]

_DATASET, _SHAPE = "gpu", (48, 40, 6, 4)
_STEPS, _ITERATIONS = 4, 6


def _run(setting: Setting, *arguments: str) -> str:
    """The output of a command of Python.

    Raises:
        RuntimeError: It failed; the message is its last line.
        NotRunError: It takes longer than the part may.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=_environment(setting),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=setting.seconds_left,
        )
    except subprocess.TimeoutExpired as error:
        raise NotRunError(f"{arguments[0]}: the time of this part is over") from error
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {_last_line(done.stdout)}")
    return done.stdout


def _environment(setting: Setting) -> Dict[str, str]:
    # The variable of cuBLAS makes its sums the same in each run.
    own = {ROOT_VARIABLE: str(setting.folder / "datasets"), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    return {**os.environ, **own}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def tests(setting: Setting) -> Iterator[Found]:
    """The tests for GPUs of this repository."""
    if not setting.on_gpu:
        raise NotRunError("no GPU")
    if not (ROOT / "tests").is_dir():
        raise NotRunError("no tests here")
    # Those files alone: to import all others takes longer than the tests.
    files = [str(path) for path in (ROOT / "tests").rglob("test_*.py") if "mark.cuda" in path.read_text()]
    arguments = ["pytest", "-m", "cuda", "-q", "-p", "no:cacheprovider", *files]
    yield Found("pytest -m cuda", _last_line(_run(setting, *arguments)), True)


# --- Trainings ---


def _config(setting: Setting) -> Path:
    """A config on an example of random numbers, and the example."""
    data = setting.folder / "datasets" / _DATASET
    write_example_scan(data, _SHAPE, num_maps=1)
    config = setting.folder / "config.yaml"
    values: Dict[str, Any] = {
        "MODEL": {
            "DEVICE": setting.device,
            "META_ARCHITECTURE": "GreedyUnrolled",
            "UNROLLED": {"NUM_UNROLLED_STEPS": _STEPS, "NUM_FEATURES": 8},
        },
        "DATASETS": {"TRAIN": [f"{_DATASET}_train"], "VAL": [f"{_DATASET}_train"], "TEST": []},
        "DATALOADER": {"NUM_WORKERS": 0},
        "AUG_TRAIN": {
            "UNDERSAMPLE": {"NAME": "VariableDensityKtMaskFunc", "ACCELERATIONS": [3], "CALIBRATION_SIZE": 4}
        },
        "SOLVER": {
            "TRAIN_BATCH_SIZE": 1,
            "MAX_ITER": _ITERATIONS,
            "CHECKPOINT_PERIOD": 2,
            "LR_SCHEDULER_NAME": "",
        },
        "TEST": {"EVAL_PERIOD": 0, "VAL_METRICS": {"RECON": ["psnr"]}},
        "TIME_SCALE": "iter",
        "SEED": 1,
        "MISC": {"GREEDY": {"META_ARCHITECTURE": "CineUnrolledCNN", "NUM_MODULES": _STEPS, "RUN": {"THREADS": 1}}},
    }
    config.write_text(json.dumps(values))
    return config


def _training(config: Path, output: Path, num_processes: int, *opts: str) -> List[str]:
    """The arguments of a training with deterministic algorithms."""
    flags = ["--num-gpus", str(num_processes), "--reproducible"]
    return ["meddlr_greedy.train_net", "--config-file", str(config), *flags, "OUTPUT_DIR", str(output), *opts]


def _same_weights(*outputs: Path) -> bool:
    """Whether trainings ended with the same weights, bit for bit."""
    states = [
        torch.load(output / "model_final.pth", map_location="cpu", weights_only=True)["model"] for output in outputs
    ]
    return all(
        state.keys() == states[0].keys() and all(torch.equal(state[name], states[0][name]) for name in state)
        for state in states
    )


def processes(setting: Setting) -> Iterator[Found]:
    """Processes that share the device against one: the same weights."""
    config = _config(setting)
    numbers = (1, 2) if setting.small else (1, 2, 4)

    def train(number: int) -> None:
        _run(setting, *_training(config, setting.folder / f"of{number}", number))

    with ThreadPoolExecutor() as pool:
        trainings = {number: pool.submit(train, number) for number in numbers}
        for number, training in trainings.items():
            training.result()
            if number > 1:
                same = _same_weights(setting.folder / "of1", setting.folder / f"of{number}")
                yield Found(f"{number} processes", f"the bits of 1: {'yes' if same else 'no'}", same)


def killed_and_resumed(setting: Setting) -> Iterator[Found]:
    """A training whose last process is killed ends in one line, and goes on as if nothing had been."""
    config = _config(setting)
    whole, output = setting.folder / "whole", setting.folder / "killed"
    number = 1 if setting.small else 2
    arguments = [sys.executable, "-m", *_training(config, output, number, "SOLVER.MAX_ITER", str(10**6))]
    log = setting.folder / "killed.txt"
    with open(log, "w") as file:
        training = subprocess.Popen(arguments, cwd=ROOT, env=_environment(setting), stdout=file, stderr=file)
    try:
        while not (output / "last_checkpoint").exists() and training.poll() is None:
            setting.seconds_left  # noqa: B018 (raises where the time is over)
            time.sleep(0.05)
        os.kill(_last_process_of(training.pid), signal.SIGKILL)
        status = training.wait(setting.seconds_left)
    finally:
        training.kill()
    yield Found("a process is killed", f"status {status}: {_last_line(log.read_text())}"[:200], status != 0)
    last = int((output / "last_checkpoint").read_text().strip()[len("model_") : -len(".pth")])
    end = ["SOLVER.MAX_ITER", str(last + 3)]
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(_run, setting, *_training(config, output, number, *end), "--resume"),
            pool.submit(_run, setting, *_training(config, whole, number, *end)),
        ]
        for run in runs:
            run.result()
    same = _same_weights(whole, output)
    yield Found("resumed", f"the bits of a training without the kill: {'yes' if same else 'no'}", same)


def _last_process_of(pid: int) -> int:
    """The last of the processes that a process has started, or itself."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[-1]) if children else pid


def commands(setting: Setting) -> Iterator[Found]:
    """A training with workers, and what follows it."""
    config, output = _config(setting), setting.folder / "run"
    _run(setting, *_training(config, output, 1, "DATALOADER.NUM_WORKERS", "2"))
    yield Found("train, 2 workers", "done", True)
    weights = ["--weights", str(output / "model_final.pth")]
    opts = ["DATASETS.TEST", f"('{_DATASET}_train',)", "MODEL.DEVICE", setting.device]
    _run(setting, "meddlr_greedy.eval_net", *weights, "--num-figures", "0", *opts)
    yield Found("eval", "done", True)
    scan = setting.folder / "datasets" / _DATASET / "scan.h5"
    flags = ["--config-file", str(output / "config.yaml"), "--device", setting.device]
    _run(setting, "meddlr_greedy.reconstruct", str(scan), *weights, *flags, "--output", str(setting.folder / "images"))
    yield Found("reconstruct", "done", True)
