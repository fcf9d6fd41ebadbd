"""Time of making an example in the loader, against reading it."""

import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

import h5py
import numpy as np
import torch

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.data.catalog import register_datasets
from meddlr_greedy.data.loader import ExampleLoader
from meddlr_greedy.data.seeding import seed_transform
from projects.cine.benchmarks.options import Options
from projects.cine.paths import CONFIGS
from projects.cine.support.measuring import Step, interleave, ratio, write_example_scan

__all__ = ["LOADER_CASES", "examples_per_second", "loader"]

#: H, W, T and C of the example.
LOADER_SHAPE = (224, 160, 20, 8)

#: What is measured: overrides of configs/cine/dl_espirit.yaml.
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


def loader(options: Options) -> Dict[str, Any]:
    """Time of making an example over that of reading it, with two map sets; and examples/s by number of workers.

    The file is in the page cache. Reading and making use one thread, as in a worker.
    """
    torch.set_num_threads(1)
    rounds = options.rounds or 30
    with tempfile.TemporaryDirectory() as folder:
        path = write_example_scan(Path(folder) / "loader", LOADER_SHAPE, num_maps=2)
        register_datasets(Path(folder))

        def read() -> Dict[str, np.ndarray]:
            with h5py.File(path, "r") as file:
                return {key: file[key][0] for key in file}

        example = {**read(), "fname": path.stem, "slice_id": 0, "is_fixed": False}
        making = {case: _making(_build(case, options.device), example) for case in LOADER_CASES}
        seconds = interleave({"read": read, **making}, rounds)
        rows = []
        for case in LOADER_CASES:
            row: Dict[str, Any] = {"example": case}
            row.update({f"{key} to reading": value for key, value in ratio(seconds[case], seconds["read"]).items()})
            for workers in (0, 1, 2):
                batches = _build(case, options.device, workers)
                row[f"examples/s, {workers} workers"] = examples_per_second(batches, rounds)
            rows.append(row)
        register_datasets()
    return {"shape": LOADER_SHAPE, "read_s": float(np.median(seconds["read"])), "rows": rows}


def _build(case: str, device: str, workers: int = 0) -> ExampleLoader:
    opts = ["MODEL.DEVICE", device, "DATASETS.TRAIN", "('loader_train',)", *LOADER_CASES[case]]
    opts += ["DATALOADER.NUM_WORKERS", str(workers)]
    return build_train_loader(load_config(str(CONFIGS / "dl_espirit.yaml"), opts), seed=0)


def _making(batches: ExampleLoader, example: Dict[str, Any]) -> Step:
    """The transform of a loader, to be called on what a file holds."""
    seeded: Any = batches.dataset
    transform = seeded.dataset.transform
    seed_transform(transform, 0)
    return lambda: transform(**example)


def examples_per_second(batches: ExampleLoader, count: int) -> float:
    """Examples that a loader of one example a batch gives in a second, once its workers run."""
    iterator = iter(batches)
    for _ in range(2 * batches.num_workers * (batches.prefetch_factor or 1) + 2):
        next(iterator)
    start = time.perf_counter()
    for _ in range(count):
        next(iterator)
    return count / (time.perf_counter() - start)
