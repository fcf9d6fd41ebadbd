"""What an example costs the loader, and what a training waits for it."""

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
from meddlr.config import CfgNode

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.data.catalog import register_datasets
from meddlr_greedy.data.loader import ExampleLoader
from meddlr_greedy.data.scan_file import check_values, read_slice
from meddlr_greedy.data.seeding import seed_transform
from projects.cine.benchmarks.options import Options
from projects.cine.benchmarks.waiting import options_of_run, times_of_iterations, waiting_row
from projects.cine.paths import CONFIGS
from projects.cine.support.measuring import Step, interleave, ratio, run_in_turn, write_example_scan
from projects.cine.support.tables import ratio_as_text

__all__ = ["LOADER_CASES", "WORKERS", "examples_per_second", "loader"]

#: What is measured: overrides of configs/cine/dl_espirit_greedy.yaml.
LOADER_CASES: Dict[str, List[str]] = {
    "DL-ESPIRiT recipe": [],
    "without the readout crop": ["MISC.GREEDY.CINE.READOUT_CROP", "0"],
    "and scaled by all frames": [
        "MISC.GREEDY.CINE.READOUT_CROP",
        "0",
        "MODEL.NORMALIZER.NAME",
        "TopMagnitudeNormalizer",
    ],
}

#: Numbers of workers.
WORKERS = (0, 1, 2)

# H, W, T and C of the example.
_SHAPE, _SMALL_SHAPE = (224, 160, 20, 8), (66, 48, 4, 2)

# Unrolled steps, one in each module, and features: of a network whose step is fast, so that the loader matters.
_STEPS, _FEATURES = 4, 8

# The case of LOADER_CASES whose trainings are timed.
_TRAINED = "DL-ESPIRiT recipe"

_NOTE = (
    "An example is read from a file in the page cache, checked for values that are not finite, made (augmentation,"
    " mask, scale of the zero-filled image, k-space with zeros where it is not sampled) and copied into a batch;"
    " one thread each. Iterations: the product's trainer on one thread, {case}, {steps} unrolled steps of {features}"
    " features and one residual block, one in each module; what is not waiting for the next batch counts as computing."
    " This machine has {cores} cores, which trainer and workers share with all else that runs; its load was {load:.1f}"
    " before the measurement."
)


def loader(options: Options) -> Dict[str, Any]:
    """Time of making an example over that of reading it, examples/s, and what a training step waits for its batch."""
    torch.set_num_threads(1)
    load, cores = os.getloadavg()[0], os.cpu_count()
    shape = _SMALL_SHAPE if options.small else _SHAPE
    with tempfile.TemporaryDirectory() as folder:
        path = write_example_scan(Path(folder) / "loader", shape, num_maps=2)
        register_datasets(Path(folder))
        rows, seconds = _examples(path, options)
        more_rows, iterations = _iterations(Path(folder) / "run", options)
        register_datasets()
    return {
        "shape": shape,
        "read_s": float(np.median(seconds["read"])),
        "cores": cores,
        "load": load,
        "rows": rows,
        "more_rows": more_rows,
        "iterations": iterations,
        "note": _NOTE.format(case=_TRAINED, steps=_STEPS, features=_FEATURES, cores=cores, load=load),
    }


def _examples(path: Path, options: Options) -> Tuple[List[Dict[str, Any]], Dict[str, List[float]]]:
    """The parts of an example and examples/s, case by case; and the seconds of the parts."""
    rounds = options.rounds or (1 if options.small else 30)
    read = partial(read_slice, str(path), 0, ("kspace", "maps", "target"))
    arrays = read()
    sides: Dict[str, Step] = {"read": read, "check": lambda: check_values(str(path), 0, arrays)}
    for case in LOADER_CASES:
        batches = build_train_loader(_config(case, options.device), seed=0)
        sides[f"{case}: make"] = make = _making(batches, arrays)
        sides[f"{case}: copy"] = partial(batches.collate_fn, [make()])
    seconds = interleave(sides, rounds)
    rows = []
    for case in LOADER_CASES:
        making = seconds[f"{case}: make"]
        parts = {"read": seconds["read"], "check": seconds["check"], "make": making, "copy": seconds[f"{case}: copy"]}
        row: Dict[str, Any] = {"example": case, "make / read": ratio_as_text(ratio(making, seconds["read"]), 2)}
        row.update({f"{part} (ms)": 1e3 * float(np.median(values)) for part, values in parts.items()})
        for workers in WORKERS:
            batches = build_train_loader(_config(case, options.device, workers), seed=0)
            row[f"examples/s, {workers} workers"] = examples_per_second(batches, rounds)
        rows.append(row)
    return rows, seconds


def _iterations(folder: Path, options: Options) -> Tuple[List[Dict[str, Any]], Dict[str, List[Dict[str, float]]]]:
    """What the iterations of trainings wait for, by number of workers; and all times."""
    rounds, iterations = options.rounds or (1 if options.small else 3), 2 if options.small else 6
    of_run = options_of_run(folder, iterations)
    configs = {str(workers): _config(_TRAINED, options.device, workers, of_run) for workers in WORKERS}
    found = run_in_turn({workers: partial(times_of_iterations, cfg) for workers, cfg in configs.items()}, rounds)
    return [{"workers": workers, **waiting_row(times)} for workers, times in found.items()], found


def _config(case: str, device: str, workers: int = 0, opts: Sequence[str] = ()) -> CfgNode:
    network = ["MODEL.UNROLLED.NUM_UNROLLED_STEPS", str(_STEPS), "MODEL.UNROLLED.NUM_FEATURES", str(_FEATURES)]
    network += ["MODEL.UNROLLED.NUM_RESBLOCKS", "1", "MISC.GREEDY.NUM_MODULES", str(_STEPS)]
    data = ["MODEL.DEVICE", device, "DATASETS.TRAIN", "('loader_train',)", "DATALOADER.NUM_WORKERS", str(workers)]
    return load_config(str(CONFIGS / "dl_espirit_greedy.yaml"), [*network, *data, *LOADER_CASES[case], *opts])


def _making(batches: ExampleLoader, arrays: Dict[str, np.ndarray]) -> Step:
    """The transform of a loader, to be called on what a file holds."""
    seeded: Any = batches.dataset
    transform = seeded.dataset.transform
    seed_transform(transform, 0)
    return lambda: transform(**arrays, fname="scan", slice_id=0, is_fixed=False)


def examples_per_second(batches: ExampleLoader, count: int) -> float:
    """Examples that a loader of one example a batch gives in a second, once its workers run."""
    iterator = iter(batches)
    for _ in range(2 * batches.num_workers * (batches.prefetch_factor or 1) + 2):
        next(iterator)
    start = time.perf_counter()
    for _ in range(count):
        next(iterator)
    return count / (time.perf_counter() - start)
