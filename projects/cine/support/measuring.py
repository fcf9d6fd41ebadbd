"""What the measurements share: small networks, random data, timing in turn, ratios with their intervals."""

import gc
import itertools
import json
import platform
import random
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, TypeVar

import h5py
import meddlr
import numpy as np
import torch
from meddlr.config import get_cfg
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

import meddlr_greedy
from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.engine.step import StepOnBatch
from meddlr_greedy.planning.example import Example

__all__ = [
    "Batch",
    "Step",
    "held_megabytes",
    "interleave",
    "make_batch",
    "make_cfg",
    "measured_peak",
    "now",
    "peak_bytes",
    "quartiles",
    "ratio",
    "run_in_turn",
    "step_times",
    "versions",
    "write_example_scan",
]

_T = TypeVar("_T")
Step = Callable[[], Any]
Batch = Dict[str, torch.Tensor]


def make_cfg(device: str, arch: str, steps: int, features: int, modules: int = 0) -> Any:
    """The config of a network; ``modules`` 0 is the plain network."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = device
    cfg.MODEL.UNROLLED.NUM_UNROLLED_STEPS = steps
    cfg.MODEL.UNROLLED.NUM_FEATURES = features
    cfg.MODEL.META_ARCHITECTURE = "GreedyUnrolled" if modules else arch
    greedy = GreedyConfig.from_mapping({"META_ARCHITECTURE": arch, "NUM_MODULES": modules} if modules else {})
    cfg.MISC.GREEDY = greedy.as_node()
    return cfg.freeze()


def make_batch(device: str, shape: Sequence[int], num_coils: int) -> Batch:
    """A random batch of one example: ``shape`` is (H, W) or, for cine, (H, W, T)."""
    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> torch.Tensor:
        return torch.randn(*size, dtype=torch.complex64, generator=generator)

    height, width, *frames = shape
    maps = randn(1, height, width, *(1 for _ in frames), num_coils, 1)
    maps /= maps.abs().square().sum(dim=-2, keepdim=True).sqrt()
    lines = (torch.rand(1, 1, width, *frames, 1, generator=generator) < 0.25).float()
    mask = lines.expand(1, height, width, *frames, 1).contiguous()
    batch = {
        "kspace": mask * randn(1, *shape, num_coils),
        "maps": maps,
        "mask": mask,
        "target": randn(1, *shape, 1),
        "mean": torch.zeros(1, 1),
        "std": torch.ones(1, 1),
    }
    return {key: value.to(device) for key, value in batch.items()}


def write_example_scan(folder: Path, shape: Sequence[int], num_maps: int) -> Path:
    """A data set of one random scan of two slices in ``folder``, as the training split."""
    rng = np.random.default_rng(0)

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal((*size, 2), dtype=np.float32).view(np.complex64)[..., 0]

    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "train.json").write_text(json.dumps({"images": [{"file_name": "scan.h5"}]}))
    height, width, num_frames, num_coils = shape
    with h5py.File(folder / "scan.h5", "w") as file:
        file["kspace"] = normal(2, height, width, num_frames, num_coils)
        maps = normal(2, height, width, 1, num_coils, num_maps)
        file["maps"] = maps / np.linalg.norm(maps, axis=-2, keepdims=True)
        file["target"] = normal(2, height, width, num_frames, num_maps)
    return folder / "scan.h5"


def now() -> float:
    """A time in seconds, taken once all work of the GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def run_in_turn(sides: Mapping[str, Callable[[], _T]], rounds: int) -> Dict[str, List[_T]]:
    """Runs all sides in each round, in random order; returns what each side gave in each round."""
    found: Dict[str, List[_T]] = {name: [] for name in sides}
    order = random.Random(0)
    for _ in tqdm(range(rounds), desc="rounds", leave=False, disable=None):
        for name in order.sample(list(sides), len(sides)):
            found[name].append(sides[name]())
    return found


def interleave(
    sides: Mapping[str, Step], rounds: int, warmup: int = 3, clock: Callable[[], float] = now
) -> Dict[str, List[float]]:
    """Seconds of each side in each round, see :func:`run_in_turn`.

    Args:
        sides: By name.
        rounds: That are returned.
        warmup: Rounds before them.
        clock: Tells seconds: ``now``, or ``time.process_time`` of the processor in all threads, for which what other
            programs take does not count.
    """

    def seconds(step: Step) -> float:
        start = clock()
        step()
        return clock() - start

    found = run_in_turn({name: partial(seconds, step) for name, step in sides.items()}, rounds + warmup)
    return {name: values[warmup:] for name, values in found.items()}


def quartiles(numerator: Sequence[float], denominator: Sequence[float]) -> Dict[str, float]:
    """Median of the round-by-round ratios with its quartiles, in the form of :func:`ratio`."""
    low, median, high = np.percentile(np.asarray(numerator) / np.asarray(denominator), [25, 50, 75])
    return {"ratio": float(median), "low": float(low), "high": float(high), "rounds": len(numerator)}


def ratio(numerator: List[float], denominator: List[float]) -> Dict[str, float]:
    """Median of the round-by-round ratios with its 95 % bootstrap interval."""
    ratios = np.asarray(numerator) / np.asarray(denominator)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (10000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return {"ratio": float(np.median(ratios)), "low": float(low), "high": float(high), "rounds": len(ratios)}


def held_megabytes(cfg: Any, batch: Batch) -> float:
    """MB held for backward in one training step; parameters and batch excluded."""
    step = StepOnBatch.from_config(cfg, batch=batch)
    with HeldForBackward(exclude=[*step.model.parameters(), *batch.values()]) as held:
        step.run()
    return held.peak_bytes / 1e6


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """Most bytes that ``run()`` holds at a time, by torch.profiler or CUDA's allocator; earlier ones not counted."""
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()  # or garbage of earlier work is freed in between, and counted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    changes = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    start = "start_ns" if hasattr(changes[0], "start_ns") else "start_us"  # its name before torch 2.3
    changes.sort(key=lambda event: getattr(event, start)())
    return max(itertools.accumulate(event.nbytes() for event in changes))


def measured_peak(cfg: Any, example: Example) -> int:
    """Peak bytes of a training step on a made-up batch: parameters, optimizer's state and batch included."""

    def run() -> None:
        step = StepOnBatch.from_config(cfg, batch=example.batch(cfg.SOLVER.TRAIN_BATCH_SIZE, torch.ones))
        step.run()
        step.run()  # now with the optimizer's state and the gradients of the one before

    return peak_bytes(run, cfg.MODEL.DEVICE)


def step_times(cfgs: Dict[str, Any], example: Example, rounds: int = 10) -> Dict[str, List[float]]:
    """Seconds of a training step of each config in each round, in turn, on a made-up batch."""
    steps = {
        name: StepOnBatch.from_config(cfg, batch=example.batch(cfg.SOLVER.TRAIN_BATCH_SIZE, torch.ones))
        for name, cfg in cfgs.items()
    }
    return interleave({name: step.run for name, step in steps.items()}, rounds, warmup=2)


def versions(device: str) -> Dict[str, Any]:
    """What a measurement was made with: device, threads, and versions of the software."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "meddlr": meddlr.__version__,
        "meddlr_greedy": meddlr_greedy.__version__,
        "python": platform.python_version(),
    }
