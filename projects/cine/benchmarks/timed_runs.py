"""Runs the real trainers for a few iterations and reports how fast they were, as benchmark and scaling model need it.

Every side of a comparison trains the same small cine network on the same example by the plugin's own entry point, in
processes of one thread each (on CPUs); a hook notes when each mini-batch was done.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import torch
from meddlr.config import CfgNode
from meddlr.engine.train_loop import HookBase

from meddlr_greedy import train_net
from meddlr_greedy.data import loader
from meddlr_greedy.data.catalog import ROOT_VARIABLE
from meddlr_greedy.data.sampler import ResumableBatchSampler
from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.local import LocalJob, preload
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.registry import HOOK_REGISTRY
from projects.cine.support.measuring import now, write_example_scan

__all__ = ["METHODS", "SIDES", "Clock", "Side", "TimedStep", "TimingCase", "chain_throughput", "run_side"]

preload("projects.cine.benchmarks.timed_runs")

CLOCK_FILE = "clock-rank{}.json"


#: The network that is timed: one unrolled step in each module, on one example (H, W, T).
NETWORK: Dict[str, Any] = {"modules": 4, "features": 32, "shape": (64, 48, 12), "num_coils": 8}

PLAIN, INVERTIBLE = "CineUnrolledCNN", "InvertibleCineUnrolledCNN"

DATASET = "timing"


@dataclass(frozen=True)
class TimingCase:
    """How :data:`NETWORK` is trained.

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
        return self.warmup + self.iterations


@dataclass(frozen=True)
class Side:
    """One way to train.

    Attributes:
        processes: That train one network.
        modules: K; 0 is the plain network.
        preloaded: Whether the example is read once only.
        copies: Independent runs at the same time.
        checkpoint: Whether the steps of a module are run again in the backward.
        invertible: Whether the network is :data:`INVERTIBLE`, run backwards.
        steps: Unrolled steps.
        features: Of the regularizer.
    """

    processes: int
    modules: int
    preloaded: bool = True
    copies: int = 1
    checkpoint: bool = False
    invertible: bool = False
    steps: int = NETWORK["modules"]
    features: int = NETWORK["features"]

    @property
    def overrides(self) -> Dict[str, Any]:
        """Of the config: section, key or value in it -> value."""
        network = INVERTIBLE if self.invertible else PLAIN
        greedy = {"META_ARCHITECTURE": network, "NUM_MODULES": self.modules or 1, "CHECKPOINT": self.checkpoint}
        if self.invertible:
            greedy["TRAINING"] = "invertible"
        unrolled = {"NUM_UNROLLED_STEPS": self.steps, "NUM_FEATURES": self.features}
        if self.invertible:
            unrolled["STEP_SIZES"] = (-0.5,)
        architecture = "GreedyUnrolled" if self.modules else network
        return {"MODEL": {"META_ARCHITECTURE": architecture, "UNROLLED": unrolled}, "MISC": {"GREEDY": greedy}}


SIDES = {
    "backpropagation": Side(processes=1, modules=0),
    "greedy": Side(processes=1, modules=4),
    "parallel greedy": Side(processes=2, modules=4),
    "parallel greedy, real loader": Side(processes=2, modules=4, preloaded=False),
    "two independent processes": Side(processes=1, modules=4, copies=2),
}

# Deep enough to tell what grows with depth: the images between the steps.
_DEEP = {"steps": 8, "features": 16}

#: Every way to train that the plugin has; the first is the plain network.
METHODS = {
    "backpropagation": Side(processes=1, modules=0, **_DEEP),
    "checkpointed backpropagation": Side(processes=1, modules=1, checkpoint=True, **_DEEP),
    "invertible": Side(processes=1, modules=1, invertible=True, **_DEEP),
    "greedy, 2 modules": Side(processes=1, modules=2, **_DEEP),
    "greedy, 4 modules": Side(processes=1, modules=4, **_DEEP),
    "greedy, 8 modules": Side(processes=1, modules=8, **_DEEP),
    "greedy, 2 modules, checkpointed": Side(processes=1, modules=2, checkpoint=True, **_DEEP),
    "parallel greedy, 2 processes": Side(processes=2, modules=8, **_DEEP),
}


def timed_forward(model: Any) -> Callable[[], float]:
    """From now on measures the forward passes of a network; gives their seconds since it was last asked."""
    seconds = 0.0
    # A greedy forward holds backwards, too.
    name = "run_steps" if isinstance(model, GreedyUnrolled) and not model.invertible else "forward"
    function = getattr(model, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal seconds
        start = now()
        result = function(*args, **kwargs)
        seconds += now() - start
        return result

    def since_last() -> float:
        nonlocal seconds
        found, seconds = seconds, 0.0
        return found

    setattr(model, name, timed)
    return since_last


@HOOK_REGISTRY.register()
class Clock(HookBase):
    """Notes when each mini-batch was done, and the seconds of its forward passes; writes them after the training."""

    def __init__(self, cfg: CfgNode):
        self._path = Path(cfg.OUTPUT_DIR)
        self._done: List[float] = []
        self._forward: List[float] = []

    def before_train(self) -> None:
        self._forward_seconds = timed_forward(self.trainer.model)

    def after_step(self) -> None:
        self._done.append(now())
        self._forward.append(self._forward_seconds())
        if self.trainer.iter + 1 == self.trainer.max_iter:
            rank = self.trainer.job.rank if hasattr(self.trainer, "job") else 0
            times = {"done": self._done, "forward": self._forward}
            (self._path / CLOCK_FILE.format(rank)).write_text(json.dumps(times))


class TimedStep(TrainingStep):
    """The trainer's step on one batch, in this process; a call gives ``step_s``, ``forward_s`` and ``backward_s``."""

    def __init__(self, cfg: CfgNode, batch: Dict[str, torch.Tensor]):
        super().__init__(cfg, batch)
        self._forward_seconds = timed_forward(self.model)

    def __call__(self) -> Dict[str, float]:
        start = now()
        self.run_step()
        seconds, forward = now() - start, self._forward_seconds()
        return {"step_s": seconds, "forward_s": forward, "backward_s": seconds - forward}


def _train(config: str, datasets: str, preloaded: bool, argv: Sequence[str]) -> None:
    os.environ[ROOT_VARIABLE] = datasets
    if preloaded:
        _preload_batches()
    train_net.main(["--config-file", config, *argv])


def _preload_batches() -> None:
    """Makes the training loader of this process read its first batch, and give it out again and again."""

    def endless(self: Any) -> Any:
        first = next(original(self))
        while True:
            yield dict(first)

    original = loader.ExampleLoader.__iter__
    is_training = ResumableBatchSampler

    def chosen(self: Any) -> Any:
        return endless(self) if isinstance(self.batch_sampler, is_training) else original(self)

    loader.ExampleLoader.__iter__ = chosen  # type: ignore[method-assign]


def run_side(case: TimingCase, side: Side, folder: Path) -> Dict[str, Any]:
    """Trains, and returns what the clocks say.

    Args:
        case: How.
        side: By which processes.
        folder: For the example (random, kept for the next call) and the runs.

    Returns:
        ``batches_per_s`` of all copies together; of one mini-batch ``step_s``, and ``forward_s`` and ``backward_s``
        (with loss and update) of the slowest process.
    """
    data = folder / "datasets" / DATASET
    if not data.exists():
        write_example_scan(data, (*NETWORK["shape"], NETWORK["num_coils"]), num_maps=1)
    folder = folder / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    overrides = side.overrides
    config = folder / "config.yaml"
    config.write_text(
        json.dumps(
            {
                "MODEL": {"DEVICE": case.device, **overrides["MODEL"]},
                "DATASETS": dict.fromkeys(("TRAIN", "VAL", "TEST"), [f"{DATASET}_train"]),
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
                "MISC": {
                    "GREEDY": {
                        **overrides["MISC"]["GREEDY"],
                        "RUN": {"HOOKS": ["Clock"], "LOG_PERIOD": case.total},
                    }
                },
            }
        )
    )
    runs = [folder / f"run{copy}" for copy in range(side.copies)]
    started = [
        LocalJob(
            side.processes,
            _train,
            (str(config), str(data.parent), side.preloaded, ["OUTPUT_DIR", str(run)]),
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
    clocks = [[json.loads(path.read_text()) for path in sorted(run.glob("clock-*.json"))] for run in runs]
    return _summary(case, clocks)


def _summary(case: TimingCase, clocks: List[List[Dict[str, List[float]]]]) -> Dict[str, Any]:
    last_done = [np.asarray(of_run[-1]["done"]) for of_run in clocks]
    # Only the time in which all copies ran counts.
    begin = max(done[case.warmup - 1] for done in last_done)
    end = min(done[-1] for done in last_done)
    rate = sum(
        (np.interp(end, done, range(len(done))) - np.interp(begin, done, range(len(done)))) for done in last_done
    )
    rate /= end - begin
    step = len(clocks) / rate
    processes = [of_process for of_run in clocks for of_process in of_run]
    forward = max(float(np.mean(of_process["forward"][case.warmup :])) for of_process in processes)
    return {
        "batches_per_s": float(rate),
        "step_s": float(step),
        "forward_s": forward,
        "backward_s": float(step) - forward,
    }


def chain_throughput(num_processes: int, device: str, threads: int) -> float:
    """Mini-batches per second of a chain of processes in its steady state, with a preloaded batch, really run."""
    side = Side(processes=num_processes, modules=NETWORK["modules"])
    with tempfile.TemporaryDirectory() as folder:
        return run_side(TimingCase(device, threads), side, Path(folder))["batches_per_s"]
