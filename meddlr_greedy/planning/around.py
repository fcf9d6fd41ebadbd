"""What passes around the operations of a training step, in Python and autograd, on this machine."""

from functools import cache
from typing import Tuple

import torch
from meddlr.config import get_cfg

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.config.wrappers import GREEDY_NETWORK
from meddlr_greedy.engine.step import StepOnBatch
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import plan_step
from meddlr_greedy.planning.work import now, seconds_of

__all__ = ["around_call"]

# Of the network that is run, whose operations take next to nothing: k-space (H, W, T, C), steps and features.
_SHAPE: Tuple[int, ...] = (6, 6, 4, 2)
_STEPS, _FEATURES = 4, 2
_RUNS = 20  # the shortest counts


def around_call() -> float:
    """Seconds for each call of an operation, beside the operation, with as many threads as torch has now.

    The trainer's step of a tiny network is run; what it takes beyond its operations is shared out among their calls.
    Asked again, the same number is given.
    """
    return _around_call(torch.get_num_threads())


@cache
def _around_call(_threads: int) -> float:
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE, cfg.SOLVER.TRAIN_BATCH_SIZE = "cpu", GREEDY_NETWORK, 1
    cfg.MODEL.UNROLLED.NUM_UNROLLED_STEPS, cfg.MODEL.UNROLLED.NUM_FEATURES = _STEPS, _FEATURES
    config = {"META_ARCHITECTURE": "CineUnrolledCNN", "NUM_MODULES": _STEPS}
    cfg.MISC.GREEDY = GreedyConfig.from_mapping(config).as_node()
    example = Example.from_shape(cfg.freeze(), _SHAPE)
    work = plan_step(cfg, example).work
    with torch.random.fork_rng(devices=[]):
        step = StepOnBatch.from_config(cfg, batch=example.batch(1, torch.ones))
        seconds = min(_seconds(step) for _ in range(_RUNS))
    return max(seconds - seconds_of(work), 0.0) / work.calls


def _seconds(step: StepOnBatch) -> float:
    start = now("cpu")
    step.run()
    return now("cpu") - start
