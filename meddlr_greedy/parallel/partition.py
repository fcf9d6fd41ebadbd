"""Which process of a chain runs which modules: as the config says, or balanced by measured times."""

import json
import os
import time
from typing import Any, Dict, List, Optional, Sequence

import torch
from meddlr.config import CfgNode

from meddlr_greedy.config.rules import is_modules
from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.errors import UserError
from meddlr_greedy.files import written_atomically
from meddlr_greedy.modeling.greedy.modules import partition_steps
from meddlr_greedy.ops.devices import to_device

__all__ = [
    "PARTITION_FILE",
    "balanced_partition",
    "check_partition",
    "measure_modules",
    "store_partition",
    "stored_partition",
]

#: Where a run keeps the measured partition.
PARTITION_FILE = "partition.json"


def check_partition(cfg: CfgNode, num_stages: int) -> None:
    """Checks that the network's modules can be spread over ``num_stages`` processes as the config asks.

    Raises:
        UserError: names the key.
    """
    greedy = GreedyConfig.from_cfg(cfg)
    num_modules = len(partition_steps(cfg.MODEL.UNROLLED.NUM_UNROLLED_STEPS, greedy.NUM_MODULES))
    if num_stages > num_modules:
        raise UserError(
            f"MISC.GREEDY.NUM_MODULES: found {num_modules}, too few for {num_stages} processes in a chain; start at"
            f" most {num_modules}, or set MISC.GREEDY.PARALLEL.REPLICAS"
        )
    partition = greedy.PARALLEL.PARTITION
    if isinstance(partition, str):  # "auto"
        return
    if len(partition) != num_stages or sum(partition) != num_modules:
        raise UserError(
            f"MISC.GREEDY.PARALLEL.PARTITION: found {list(partition)}, allowed are {num_stages} numbers (one for each"
            f" process of a chain) that add up to {num_modules} (the number of modules)"
        )


def balanced_partition(seconds: Sequence[float], num_stages: int) -> List[int]:
    """Cuts a chain of modules into stages of consecutive modules so that the slowest stage is as fast as can be.

    Args:
        seconds: Time of each module, length K.
        num_stages: D, at most K.

    Returns:
        The number of modules of each stage; among equally good cuts the one with the larger stages first.
    """
    num_modules = len(seconds)
    until = [sum(seconds[:k]) for k in range(num_modules + 1)]  # time of the modules before k

    # slowest[d][k]: the best slowest stage for the modules from k on in d stages; at least one module each.
    infinity = float("inf")
    slowest = [[infinity] * num_modules + [0.0]]
    for stages in range(1, num_stages + 1):
        row = [infinity] * (num_modules + 1)
        for first in range(num_modules):
            for end in range(first + 1, num_modules + 1):
                row[first] = min(row[first], max(until[end] - until[first], slowest[stages - 1][end]))
        slowest.append(row)

    sizes, first = [], 0
    for stages in range(num_stages, 0, -1):
        best = slowest[num_stages][0]
        ends = range(num_modules, first, -1)
        end = next(e for e in ends if max(until[e] - until[first], slowest[stages - 1][e]) <= best)
        sizes.append(end - first)
        first = end
    return sizes


def measure_modules(step: TrainingStep, batch: Dict[str, Any], repetitions: int = 3) -> List[float]:
    """Seconds of each module for one batch: forward, local loss and backward; the first includes the preparation.

    The model's weights, gradients and the generators are left as they are. The shortest of several repetitions counts.

    Args:
        step: Of the whole network, which is greedy.
        batch: meddlr's, on any device.
        repetitions: Their number, after one that warms up.
    """
    model, marks = step.model, []

    def mark(k: int, begins: bool) -> None:  # noqa: ARG001 (an observer)
        if next(model.parameters()).is_cuda:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    devices = [next(model.parameters()).device] if next(model.parameters()).is_cuda else []
    seconds: List[List[float]] = []
    with torch.random.fork_rng(devices=devices):
        for _ in range(repetitions + 1):
            marks.clear()
            with step.observe(mark):
                start = time.perf_counter()
                inputs = to_device(batch, next(model.parameters()).device)
                outputs, _ = step.forward(inputs, 0)
                loss, _ = step.last_loss(inputs, outputs)
                torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
            begins, ends = [start, *marks[2::2]], marks[1::2]
            seconds.append([end - begin for begin, end in zip(begins, ends)])
    return [min(repetitions) for repetitions in zip(*seconds[1:])]


def stored_partition(output_dir: str, key: Dict[str, Any]) -> Optional[List[int]]:
    """Returns the partition that this run has measured before for the same ``key``; None where there is none."""
    path = os.path.join(output_dir, PARTITION_FILE)
    try:
        with open(path) as file:
            stored = json.load(file)
        if stored["key"] != key:
            return None
        partition = stored["partition"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    fits = isinstance(partition, list) and is_modules(partition) and len(partition) == key["processes"]
    return partition if fits and sum(partition) == len(key["steps_of_modules"]) else None


def store_partition(output_dir: str, key: Dict[str, Any], partition: List[int], seconds: List[float]) -> None:
    """Writes a measured partition beside the checkpoints, so that a resumed run cuts the network alike.

    Args:
        output_dir: Folder of the run.
        key: What the partition was measured for; :func:`stored_partition` asks for the same.
        partition: The number of modules of each process.
        seconds: Time of each module.
    """
    content = {"partition": partition, "seconds_of_modules": seconds, "key": key}
    with written_atomically(os.path.join(output_dir, PARTITION_FILE)) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")
