"""Peak memory of reconstructing one large slice: as a whole, and in bounded memory."""

import tempfile
import time
from pathlib import Path
from typing import Any, Dict

import h5py
import numpy as np
from meddlr.modeling import build_model

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from projects.cine.benchmarks.options import Options
from projects.cine.benchmarks.reconstruct import peaks_of_reconstruct, write_acquired
from projects.cine.paths import CONFIGS

__all__ = ["large"]

_SHAPE, _COILS, _ROWS = (512, 512, 30), 16, 32
_SMALL_SHAPE, _SMALL_COILS, _SMALL_ROWS = (48, 40, 6), 4, 16

#: What stands in ``MISC.GREEDY``, ``ROWS`` for the rows of a tile.
_SIDES = {
    "whole": "{NUM_MODULES: 2}",
    "by tiles, coil images by parts": "{NUM_MODULES: 2, TILE: [ROWS, 0]}",
}


def large(options: Options) -> Dict[str, Any]:
    """Peak resident memory of ``reconstruct``, each way in a process of its own, and how far the images are apart."""
    shape, num_coils, rows = (_SMALL_SHAPE, _SMALL_COILS, _SMALL_ROWS) if options.small else (_SHAPE, _COILS, _ROWS)
    found, whole = [], None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan, weights = folder / "scan.h5", folder / "model.pth"
        write_acquired(scan, 1, shape, num_coils)
        for side, greedy in _SIDES.items():
            config = _write_config(folder / "config.yaml", greedy.replace("ROWS", str(rows)), options)
            if not weights.exists():
                GreedyCheckpointer(build_model(load_config(str(config))), name).save("model")
            start = time.perf_counter()
            (peak,) = peaks_of_reconstruct(config, weights, folder, [scan])
            seconds = time.perf_counter() - start
            with h5py.File(folder / "scan_recon.h5") as file:
                image = file["image"][()]
            whole = image if whole is None else whole
            difference = float(np.abs(image - whole).max() / np.abs(whole).max())
            found.append({"reconstruct": side, "peak_mb": peak / 1e6, "seconds": seconds, "difference": difference})
    return {"shape": [*shape, num_coils], "kspace_mb": int(np.prod([*shape, num_coils])) * 8 / 1e6, "rows": found}


def _write_config(path: Path, greedy: str, options: Options) -> Path:
    base = CONFIGS / "greedy.yaml"
    path.write_text(
        f"_BASE_: {base}\nMODEL: {{DEVICE: {options.device}, UNROLLED: {{NUM_UNROLLED_STEPS: 2, NUM_FEATURES: 8}}}}\n"
        f"MISC: {{GREEDY: {greedy}}}\n"
    )
    return path
