"""A training step against what its convolutions and FFTs need at least on this machine, and where the rest goes."""

import time
from collections import Counter
from functools import partial
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from meddlr.modeling import build_model
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from meddlr_greedy.planning.trace import FFTS
from projects.cine.benchmarks.options import Options
from projects.cine.benchmarks.steps import training_step
from projects.cine.benchmarks.temporal import FEATURES, FRAMES, IMAGE, NUM_COILS, SMALL_IMAGE
from projects.cine.support.measuring import Step, interleave, make_batch, make_cfg, quartiles
from projects.cine.support.tables import ratio_as_text

__all__ = ["limit"]

# Rows and columns of the matrices whose product gives the rate of sgemm.
_MATRIX, _SMALL_MATRIX = 1024, 64

# Where the time of a step goes: what the name of an operation contains, the first that fits.
_GROUPS = {
    "convolutions": ("convolution", "conv2d", "Convolution", "baddbmm"),
    "matrix products": ("addmm", "ReluAndProducts"),
    "FFTs": ("fft", "_c2c"),
    "copies": ("copy", "cat", "clone", "contiguous", "roll"),
    "pointwise, sums, optimizer": (
        "Optimizer",
        "sqrt",
        "lerp",
        "clamp",
        "threshold",
        "add",
        "sub",
        "mul",
        "div",
        "conj",
        "abs",
        "sgn",
        "fill",
        "zero",
        "sum",
    ),
}
_REST = "rest"


def limit(options: Options) -> Dict[str, Any]:
    """Processor time of a training step over its limit, and the shares of it that kinds of operations take.

    The limit is the time of the step's FFTs alone, and of as many operations as its convolutions have at the rate of a
    product of large square matrices. All three are measured in turn.
    """
    rows, raw = [], []
    for features in FEATURES:
        for frames in FRAMES:
            row, found = _row(options, features, frames)
            rows.append(row)
            raw.append(found)
    return {"rows": rows, "all": raw}


def _row(options: Options, features: int, frames: int) -> Tuple[Dict[str, Any], Dict[str, List[float]]]:
    shape = (*(SMALL_IMAGE if options.small else IMAGE), frames)
    cfg = make_cfg(options.device, "CineUnrolledCNN", 2, features)
    model = build_model(cfg)
    step = training_step(cfg, model, make_batch(options.device, shape, NUM_COILS))
    size = _SMALL_MATRIX if options.small else _MATRIX
    matrix = torch.ones(size, size, device=options.device)
    sides: Dict[str, Step] = {"step": step, "product": lambda: matrix @ matrix, "FFTs": _ffts_of(step)}
    found = interleave(sides, options.rounds or 15, warmup=2, clock=time.process_time)
    operations = _operations(model, int(np.prod(shape)))
    rates = 2 * size**3 / np.asarray(found["product"])
    limits = operations / rates + np.asarray(found["FFTs"])
    row = {
        "features": features,
        "frames": frames,
        "step_s": float(np.median(found["step"])),
        "step / limit": ratio_as_text(quartiles(found["step"], limits.tolist()), 2),
        "sgemm (GFLOP/s)": float(np.median(rates)) / 1e9,
        "FFTs / step": float(np.median(np.divide(found["FFTs"], found["step"]))),
        **{f"{group} (%)": 100 * share for group, share in _shares(step).items()},
    }
    return row, found


def _operations(model: nn.Module, pixels: int) -> float:
    """Of all convolutions, with their two gradients: 2 for each weight and pixel of all frames, those at edges too."""
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return 3.0 * 2 * weights * pixels


class _Recorder(TorchDispatchMode):
    """Notes the FFTs that run, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: List[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in FFTS:
            self.calls.append(partial(func, *args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _ffts_of(step: Step) -> Step:
    """Runs the FFTs of a step alone, on what they have run on."""
    with _Recorder() as recorder:
        step()

    def run() -> None:
        for call in recorder.calls:
            call()

    return run


def _shares(step: Step) -> Dict[str, float]:
    """The part of the processor's time in operations that each group takes, without operations inside of operations."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        step()
    seconds: Counter = Counter()
    for event in recorded.key_averages():
        seconds[_group(event.key)] += event.self_cpu_time_total
    total = sum(seconds.values())
    return {group: seconds[group] / total for group in (*_GROUPS, _REST)}


def _group(name: str) -> str:
    return next((group for group, parts in _GROUPS.items() if any(part in name for part in parts)), _REST)
