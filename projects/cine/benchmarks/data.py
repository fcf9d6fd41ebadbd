"""Time of the loader, and memory of reconstruction."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Sequence

import h5py
import numpy as np
import torch
from meddlr.modeling import build_model

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.data.catalog import register_datasets
from meddlr_greedy.data.loader import ExampleLoader
from meddlr_greedy.data.seeding import seed_transform
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from projects.cine.support.measuring import Step, interleave, make_batch, ratio, write_example_scan

RECIPE = Path(__file__).parents[2] / "configs" / "cine" / "dl_espirit.yaml"

_PEAK_AFTER_EACH = """
import json, resource, sys
from meddlr_greedy import reconstruct

peaks = []
for path in sys.argv[4:]:
    reconstruct.main(["--config-file", sys.argv[1], "--weights", sys.argv[2], "--output", sys.argv[3], path])
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(json.dumps(peaks))
"""


def peaks_of_reconstruct(config: Path, weights: Path, output: Path, paths: Sequence[Path]) -> List[int]:
    """Peak resident bytes of a process of its own, after each of the scans that it reconstructs in turn."""
    command = [sys.executable, "-c", _PEAK_AFTER_EACH, *map(str, (config, weights, output, *paths))]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_acquired(path: Path, num_slices: int, shape: Sequence[int], num_coils: int) -> None:
    """A scan of noise without target, every fourth line sampled; ``shape`` is (H, W, T)."""
    batch = make_batch("cpu", shape, num_coils)
    with h5py.File(path, "w") as file:
        for name in ("kspace", "maps"):
            values = batch[name].numpy()
            data = file.create_dataset(name, (num_slices, *values.shape[1:]), np.complex64)
            for s in range(num_slices):
                data[s] = values[0]


#: H, W, T and C of the example that `loader` measures with.
LOADER_SHAPE = (224, 160, 20, 8)

# What `loader` measures: overrides of configs/cine/dl_espirit.yaml.
LOADER_CASES = {
    "DL-ESPIRiT recipe": [],
    "without the readout crop": ["MISC.GREEDY.CINE.READOUT_CROP", "0"],
    "and scaled by all frames": [
        "MISC.GREEDY.CINE.READOUT_CROP",
        "0",
        "MODEL.NORMALIZER.NAME",
        "TopMagnitudeNormalizer",
    ],
}


def loader(args: argparse.Namespace) -> Dict[str, Any]:
    """Making an example against reading it, with 2 map sets; examples/s by workers.

    The file is in the page cache. Reading and making use one thread, as in a worker.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_example_scan(Path(folder) / "loader", LOADER_SHAPE, num_maps=2)
        register_datasets(Path(folder))

        def build(case: str, workers: int = 0) -> ExampleLoader:
            opts = ["MODEL.DEVICE", args.device, "DATASETS.TRAIN", "('loader_train',)", *LOADER_CASES[case]]
            opts += ["DATALOADER.NUM_WORKERS", str(workers)]
            return build_train_loader(load_config(str(RECIPE), opts), seed=0)

        def read() -> Dict[str, np.ndarray]:
            with h5py.File(path, "r") as file:
                return {key: file[key][0] for key in file}

        example = {**read(), "fname": path.stem, "slice_id": 0, "is_fixed": False}

        def transform(case: str) -> Step:
            dataset = build(case).dataset.dataset
            seed_transform(dataset.transform, 0)
            return lambda: dataset.transform(**example)

        seconds = interleave({"read": read, **{case: transform(case) for case in LOADER_CASES}}, args.rounds or 30)
        rows = []
        for case in LOADER_CASES:
            row = {"example": case, **{f"{k} to reading": v for k, v in ratio(seconds[case], seconds["read"]).items()}}
            for workers in (0, 1, 2):
                row[f"examples/s, {workers} workers"] = examples_per_second(build(case, workers), args.rounds or 30)
            rows.append(row)
        register_datasets()
    return {"shape": LOADER_SHAPE, "read_s": float(np.median(seconds["read"])), "rows": rows}


def examples_per_second(batches: ExampleLoader, count: int) -> float:
    """Examples that a loader of one example a batch gives in a second, once its workers run."""
    iterator = iter(batches)
    for _ in range(2 * batches.num_workers * (batches.prefetch_factor or 1) + 2):
        next(iterator)
    start = time.perf_counter()
    for _ in range(count):
        next(iterator)
    return count / (time.perf_counter() - start)


def reconstruct(args: argparse.Namespace) -> Dict[str, Any]:
    """Peak memory of reconstructing exams of 4 and of 64 slices, each in a process of its own."""
    shape, num_coils = (224, 160, 20), 8
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, scan = folder / "config.yaml", folder / "scan.h5"
        base = Path(__file__).parents[2] / "configs" / "cine" / "greedy.yaml"
        config.write_text(f"_BASE_: {base}\nMODEL: {{DEVICE: {args.device}, UNROLLED: {{NUM_FEATURES: 8}}}}\n")
        GreedyCheckpointer(build_model(load_config(str(config))), str(folder)).save("model")
        for num_slices in (4, 64):
            write_acquired(scan, num_slices, shape, num_coils)
            (peak,) = peaks_of_reconstruct(config, folder / "model.pth", folder, [scan])
            size = scan.stat().st_size / 1e6
            rows.append({"slices": num_slices, "file_mb": size, "peak_mb": peak / 1e6})
    return {"shape": [*shape, num_coils], "rows": rows}
