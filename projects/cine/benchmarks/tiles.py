"""Memory and time of a training step by tiles, against the same step on the whole image."""

import time
from typing import Any, Dict, NamedTuple

import numpy as np

from meddlr_greedy.engine.step import StepOnBatch
from meddlr_greedy.planning.example import Example
from projects.cine.benchmarks.options import Options
from projects.cine.support.measuring import (
    held_megabytes,
    interleave,
    make_batch,
    make_cfg,
    measured_peak,
    ratio,
)
from projects.cine.support.tables import ratio_as_text

__all__ = ["tiles"]


class _Size(NamedTuple):
    shape: tuple  #: H, W, T
    coils: int
    steps: int
    features: int
    rows: tuple  #: of tiles as wide as the image


_SIZE = _Size((224, 160, 20), 8, steps=10, features=16, rows=(112, 48, 24))
_SMALL = _Size((48, 32, 6), 2, steps=2, features=4, rows=(24, 12))


def tiles(options: Options) -> Dict[str, Any]:
    """Bytes held for backward, peak and processor time of a training step: the same network, end to end and greedy."""
    size = _SMALL if options.small else _SIZE
    batch = make_batch(options.device, size.shape, size.coils)
    example = Example.from_shape(_config(options, size, 1), (*size.shape, size.coils))
    sides = {
        "backpropagation": _config(options, size, 1),
        "checkpointed backpropagation": _config(options, size, 1, checkpoint=True),
        f"backpropagation, tiles of {size.rows[-1]} rows": _config(options, size, 1, size.rows[-1]),
        "greedy": _config(options, size, size.steps),
    }
    sides.update({f"greedy, tiles of {r} rows": _config(options, size, size.steps, r) for r in size.rows})
    peaks = {name: measured_peak(cfg, example) / 1e6 for name, cfg in sides.items()}
    steps = {name: StepOnBatch.from_config(cfg, batch=batch) for name, cfg in sides.items()}
    held = {name: held_megabytes(cfg, batch) for name, cfg in sides.items()}
    runs = {name: step.run for name, step in steps.items()}
    found = interleave(runs, options.rounds or 3, warmup=0, clock=time.process_time)
    rows = [
        {
            "method": name,
            "held_mb": held[name],
            "times_fewer": held["backpropagation"] / held[name],
            "peak_mb": peaks[name],
            "processor_s": float(np.median(seconds)),
            "time of backpropagation": ratio_as_text(ratio(seconds, found["backpropagation"]), 2),
        }
        for name, seconds in found.items()
    ]
    network = f"{size.steps} steps, {size.features} features, (H, W, T) = {size.shape}, {size.coils} coils"
    return {"network": network, "rows": rows, "all": found}


def _config(options: Options, size: _Size, modules: int, rows: int = 0, checkpoint: bool = False) -> Any:
    cfg = make_cfg(options.device, "CineUnrolledCNN", size.steps, size.features, modules).clone().defrost()
    cfg.MISC.GREEDY.TILE, cfg.MISC.GREEDY.CHECKPOINT = (rows, 0), checkpoint
    cfg.SOLVER.TRAIN_BATCH_SIZE = 1
    return cfg.freeze()
