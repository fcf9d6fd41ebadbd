"""Runs the real trainers for a few iterations, and reports how fast they were.

Every side of a comparison trains a small cine network on the same example by the plugin's own entry point, in processes
of one thread each (on CPUs). A hook notes when each mini-batch is done.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np

from meddlr_greedy import train_net
from meddlr_greedy.data.catalog import ROOT_VARIABLE
from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.local import LocalJob, preload
from projects.cine.benchmarks.clock import Clock, read_clocks
from projects.cine.benchmarks.preloaded import PreloadedGreedyTrainer, PreloadedParallelGreedyTrainer
from projects.cine.benchmarks.sides import NETWORK, Side
from projects.cine.support.measuring import write_example_scan

__all__ = ["TimingCase", "chain_throughput", "run_side"]

preload("projects.cine.benchmarks.timed_runs")

_DATASET = "timing"


@dataclass(frozen=True)
class TimingCase:
    """How a side is trained.

    Attributes:
        device: "cpu" or "cuda".
        threads: Intra-op threads of each process.
        warmup: Iterations that are not timed; a chain fills.
        iterations: Iterations that are timed.
    """

    device: str = "cpu"
    threads: int = 1
    warmup: int = 4
    iterations: int = 16

    @property
    def total(self) -> int:
        """All iterations."""
        return self.warmup + self.iterations


def run_side(case: TimingCase, side: Side, folder: Path) -> Dict[str, float]:
    """Trains, and returns what the clocks say.

    Args:
        case: How.
        side: By which processes.
        folder: For the example (random, kept for the next call) and the runs.

    Returns:
        ``batches_per_s`` of all copies together; of one mini-batch ``step_s``, and ``forward_s`` and ``backward_s``
        (with loss and update) of the slowest process.

    Raises:
        UserError: a training failed.
    """
    data = folder / "datasets" / _DATASET
    if not data.exists():
        write_example_scan(data, (*NETWORK["shape"], NETWORK["num_coils"]), num_maps=1)
    folder = folder / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(json.dumps(_config(case, side)))
    runs = [folder / f"run{copy}" for copy in range(side.copies)]
    started = [
        LocalJob(
            side.processes,
            _train,
            (str(data.parent), ["--config-file", str(config), "OUTPUT_DIR", str(run)]),
            folder / f"{run.name}.txt",
            threads=case.threads,
            gpus=case.device != "cpu",
        )
        for run in runs
    ]
    for job in started:
        statuses = job.wait(600)
        if any(statuses):
            raise UserError(f"a timed run failed ({statuses}): {job.text()[-2000:]}")
    return _summary(case, [read_clocks(run) for run in runs])


def _config(case: TimingCase, side: Side) -> Dict[str, Any]:
    """The config of a training, as a mapping."""
    trainer = "auto"
    if side.preloaded:
        preloaded = PreloadedParallelGreedyTrainer if side.processes > 1 else PreloadedGreedyTrainer
        trainer = preloaded.__name__
    overrides = side.overrides
    run = {"TRAINER": trainer, "HOOKS": [Clock.__name__], "LOG_PERIOD": case.total}
    return {
        "MODEL": {"DEVICE": case.device, **overrides["MODEL"]},
        "DATASETS": {**dict.fromkeys(("TRAIN", "VAL"), [f"{_DATASET}_train"]), "TEST": []},
        "DATALOADER": {"NUM_WORKERS": 0},
        "AUG_TRAIN": {
            "UNDERSAMPLE": {"NAME": "VariableDensityKtMaskFunc", "ACCELERATIONS": [4], "CALIBRATION_SIZE": 4}
        },
        "SOLVER": {
            "TRAIN_BATCH_SIZE": 1,
            "BASE_LR": 1e-5,
            "MAX_ITER": case.total,
            "CHECKPOINT_PERIOD": 0,
            "LR_SCHEDULER_NAME": "",
        },
        "TEST": {"EVAL_PERIOD": 0, "VAL_METRICS": {"RECON": ["psnr", "psnr_scan"]}},
        "TIME_SCALE": "iter",
        "SEED": 1,
        "MISC": {"GREEDY": {**overrides["MISC"]["GREEDY"], "RUN": run}},
    }


def _train(datasets: str, argv: Sequence[str]) -> None:
    """What each process of a side does; the import of this module has registered trainers and hook."""
    os.environ[ROOT_VARIABLE] = datasets
    train_net.main(argv)


def _summary(case: TimingCase, runs: List[List[Dict[str, List[float]]]]) -> Dict[str, float]:
    """What :func:`run_side` returns, from the clocks of the processes of each run."""
    done_times = [np.asarray(clocks[-1]["done"]) for clocks in runs]  # of the last process, where a mini-batch ends
    # Only the time in which all copies ran counts.
    begin = max(done[case.warmup - 1] for done in done_times)
    end = min(done[-1] for done in done_times)
    rate = sum(
        (np.interp(end, done, range(len(done))) - np.interp(begin, done, range(len(done)))) for done in done_times
    )
    rate /= end - begin
    step = float(len(runs) / rate)
    forward = max(float(np.mean(clock["forward"][case.warmup :])) for clocks in runs for clock in clocks)
    return {"batches_per_s": float(rate), "step_s": step, "forward_s": forward, "backward_s": step - forward}


def chain_throughput(num_processes: int, device: str, threads: int) -> float:
    """Mini-batches per second of a chain of processes in its steady state, with a preloaded batch, really run."""
    side = Side(processes=num_processes, modules=NETWORK["modules"])
    with tempfile.TemporaryDirectory() as folder:
        return run_side(TimingCase(device, threads), side, Path(folder))["batches_per_s"]
