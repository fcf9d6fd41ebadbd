"""What the iterations of a training wait for their loader."""

import shutil
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from meddlr.config import CfgNode

from meddlr_greedy.engine.trainer import GreedyTrainer
from projects.cine.benchmarks.clock import Clock, read_clocks
from projects.cine.support.measuring import ratio
from projects.cine.support.tables import ratio_as_text

__all__ = ["options_of_run", "times_of_iterations", "waiting_row"]

# Iterations before those that are timed, in which what workers have read while the training began is used up.
_WARMUP = 6


def options_of_run(folder: Path, iterations: int) -> List[str]:
    """Overrides of a config: a training of so many timed iterations that neither evaluates nor logs meanwhile."""
    total = str(_WARMUP + iterations)
    return [
        *("OUTPUT_DIR", str(folder), "DATASETS.VAL", "()", "DATASETS.TEST", "()"),
        *("MISC.GREEDY.RUN.HOOKS", f"('{Clock.__name__}',)", "MISC.GREEDY.RUN.LOG_PERIOD", total),
        *("SOLVER.MAX_ITER", total, "SOLVER.CHECKPOINT_PERIOD", "0", "TEST.EVAL_PERIOD", "0"),
    ]


def times_of_iterations(cfg: CfgNode) -> Dict[str, float]:
    """Trains in this process, by the trainer of the product.

    Returns:
        Of the mean timed iteration ``all_s``, and the part ``waiting_s`` in which the trainer waited for the batch.
    """
    shutil.rmtree(cfg.OUTPUT_DIR, ignore_errors=True)
    Path(cfg.OUTPUT_DIR).mkdir(parents=True)
    GreedyTrainer(cfg).train()
    (clock,) = read_clocks(Path(cfg.OUTPUT_DIR))
    all_s = np.diff(clock["done"])[_WARMUP - 1 :]
    return {"all_s": float(np.mean(all_s)), "waiting_s": float(np.mean(clock["waited"][_WARMUP:]))}


def waiting_row(times_by_round: List[Dict[str, float]]) -> Dict[str, Any]:
    """An iteration and its two parts in milliseconds, and the share of the first part."""
    waiting, total = ([times[key] for times in times_by_round] for key in ("waiting_s", "all_s"))
    share = ratio(waiting, total)
    percent = {key: 100 * share[key] for key in ("ratio", "low", "high")}
    return {
        "iteration (ms)": 1e3 * float(np.median(total)),
        "waiting (ms)": 1e3 * float(np.median(waiting)),
        "computing (ms)": 1e3 * float(np.median(np.subtract(total, waiting))),
        "waiting (%)": ratio_as_text(percent, 1),
    }
