"""Peak memory of a training step by tiles, against the size of the image and the depth of the network; a deep network.

What a step needs in any case is subtracted from its peak: parameters, their gradients, the optimizer's state, the
batch, its maps once more (the operators order them), and a few images. What is left is to depend on neither.
"""

import time
from typing import Any, Dict, List, NamedTuple, Tuple

import torch

from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import plan_step
from projects.cine.benchmarks.options import Options
from projects.cine.support.measuring import held_megabytes, make_batch, make_cfg, measured_peak

__all__ = ["bounded", "deep"]

_COMPLEX = torch.complex64.itemsize


class _Size(NamedTuple):
    shape: Tuple[int, int, int]  #: H, W, T
    coils: int
    features: int
    tile: Tuple[int, int]
    dc_memory: int
    steps: Tuple[int, int]  #: of a shallow and of a deep network


_SIZE = _Size((112, 96, 20), 8, features=16, tile=(24, 24), dc_memory=8, steps=(5, 20))
_SMALL = _Size((40, 36, 4), 2, features=2, tile=(8, 8), dc_memory=1, steps=(2, 4))


class _Network(NamedTuple):
    name: str
    images: int  #: complex, (H, W, T), that a step has at a time


_NETWORKS = {
    # Zero-filled image, residual of data consistency, image after it and its gradient, image after the regularizer.
    "CineUnrolledCNN": _Network("PGD", 5),
    # Images before and after the step; solution, residual, direction and normal operator of the adjoint solve.
    "CGCineUnrolledCNN": _Network("CG, implicit", 6),
}


def bounded(options: Options) -> Dict[str, Any]:
    """The peak as it is, of an image twice as high and wide, and of a deeper network; a module for each step."""
    size = _SMALL if options.small else _SIZE
    height, width, frames = size.shape
    shallow, deeper = size.steps
    rows: List[Dict[str, Any]] = []
    for arch, network in _NETWORKS.items():
        base = None
        for shape, steps in ((size.shape, shallow), ((2 * height, 2 * width, frames), shallow), (size.shape, deeper)):
            row = _row(_config(options, arch, size, steps), (*shape, size.coils), network.images)
            base = base or row["left_mb"]
            rows.append(
                {"network": network.name, "steps": steps, "(H, W, T)": shape, **row, "left": row["left_mb"] / base}
            )
    return {"rows": rows}


def _row(cfg: Any, shape: Tuple[int, ...], images: int) -> Dict[str, float]:
    example = Example.from_shape(cfg, shape)
    planned, peak = plan_step(cfg, example), measured_peak(cfg, example)
    height, width, frames, coils = shape
    image, maps = height * width * frames * _COMPLEX, height * width * coils * _COMPLEX
    fixed = planned.parameters + planned.gradients + planned.optimizer + planned.batch + maps
    return {
        "peak_mb": peak / 1e6,
        "planned_mb": (planned.peak - planned.copied_ahead) / 1e6,
        "weights and batch_mb": fixed / 1e6,
        "images": images,
        "images_mb": images * image / 1e6,
        "left_mb": (peak - fixed - images * image) / 1e6,
    }


def _config(options: Options, arch: str, size: _Size, steps: int) -> Any:
    cfg = make_cfg(options.device, arch, steps, size.features, steps).clone().defrost()
    cfg.MISC.GREEDY.TILE, cfg.MISC.GREEDY.DC_MEMORY = size.tile, size.dc_memory
    if "CG" in arch:
        cfg.MISC.GREEDY.CG_BACKWARD = "implicit"
        cfg.MODEL.UNROLLED.STEP_SIZES = (0.1,)
    cfg.SOLVER.TRAIN_BATCH_SIZE = 1
    return cfg.freeze()


def deep(options: Options) -> Dict[str, Any]:
    """One training step of the deepest and widest network of the founding paper: 34 steps of 64 features, by tiles."""
    steps, features, shape, coils, rows = (
        (3, 4, (40, 36, 4), 2, 8) if options.small else (34, 64, (224, 160, 20), 8, 24)
    )
    cfg = make_cfg(options.device, "CineUnrolledCNN", steps, features, steps).clone().defrost()
    cfg.MISC.GREEDY.TILE = (rows, 0)
    cfg.SOLVER.TRAIN_BATCH_SIZE = 1
    cfg.freeze()
    planned = plan_step(cfg, Example.from_shape(cfg, (*shape, coils)))
    start = time.process_time()
    held = held_megabytes(cfg, make_batch(options.device, shape, coils))
    row = {
        "steps": steps,
        "features": features,
        "parameters_mb": planned.parameters / 1e6,
        "held_mb": held,
        "planned_peak_mb": (planned.peak - planned.copied_ahead) / 1e6,
        "processor_s": time.process_time() - start,
    }
    return {"rows": [row]}
