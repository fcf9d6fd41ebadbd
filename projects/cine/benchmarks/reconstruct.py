"""Peak memory of reconstruction."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence

import h5py
import numpy as np
from meddlr.modeling import build_model

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from projects.cine.benchmarks.options import Options
from projects.cine.paths import CONFIGS, ROOT
from projects.cine.support.measuring import make_batch

__all__ = ["peaks_of_reconstruct", "reconstruct", "write_acquired"]


def reconstruct(options: Options) -> Dict[str, Any]:
    """Peak memory of reconstructing exams of 4 and of 64 slices, each in a process of its own."""
    shape, num_coils = (224, 160, 20), 8
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, scan = folder / "config.yaml", folder / "scan.h5"
        base = CONFIGS / "greedy.yaml"
        config.write_text(f"_BASE_: {base}\nMODEL: {{DEVICE: {options.device}, UNROLLED: {{NUM_FEATURES: 8}}}}\n")
        GreedyCheckpointer(build_model(load_config(str(config))), str(folder)).save("model")
        for num_slices in (4, 64):
            write_acquired(scan, num_slices, shape, num_coils)
            (peak,) = peaks_of_reconstruct(config, folder / "model.pth", folder, [scan])
            size = scan.stat().st_size / 1e6
            rows.append({"slices": num_slices, "file_mb": size, "peak_mb": peak / 1e6})
    return {"shape": [*shape, num_coils], "rows": rows}


def peaks_of_reconstruct(config: Path, weights: Path, output: Path, scans: Sequence[Path]) -> List[int]:
    """Peak resident bytes of one process that reconstructs scans in turn: after each of them."""
    paths = [path.resolve() for path in (config, weights, output, *scans)]
    command = [sys.executable, "-m", "projects.cine.benchmarks.reconstruct_peaks", *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_acquired(path: Path, num_slices: int, shape: Sequence[int], num_coils: int) -> None:
    """Writes a scan of noise without target, every fourth line sampled; ``shape`` is (H, W, T)."""
    batch = make_batch("cpu", shape, num_coils)
    with h5py.File(path, "w") as file:
        for name in ("kspace", "maps"):
            values = batch[name].numpy()
            data = file.create_dataset(name, (num_slices, *values.shape[1:]), np.complex64)
            for s in range(num_slices):
                data[s] = values[0]
