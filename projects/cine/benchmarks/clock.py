"""How a training is timed: its forward passes, and when each mini-batch is done."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
from meddlr.config import CfgNode
from meddlr.engine.train_loop import HookBase

from meddlr_greedy.engine.step import StepOnBatch
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.registry import HOOK_REGISTRY
from projects.cine.support.measuring import now

__all__ = ["Clock", "TimedStep", "read_clocks"]

_FILE = "clock-rank{}.json"


def timed_forward(model: Any) -> Callable[[], float]:
    """Measures the forward passes of a network from now on.

    Returns:
        A function that gives their seconds since it was called last.
    """
    seconds = 0.0
    # The forward of a greedy network contains backwards, too, and its observers are told of both together. So the
    # function that runs the unrolled steps is replaced.
    is_greedy = isinstance(model, GreedyUnrolled)
    owner, name = (model.unrolled, "run_steps") if is_greedy else (model, "forward")
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal seconds
        start = now()
        result = function(*args, **kwargs)
        seconds += now() - start
        return result

    def since_last() -> float:
        nonlocal seconds
        found, seconds = seconds, 0.0
        return found

    setattr(owner, name, timed)
    return since_last


@HOOK_REGISTRY.register()
class Clock(HookBase):
    """Notes when each mini-batch is done, and the seconds of its forward passes and of the wait for it.

    Writes them after the training. A process that reads no batches waits for none.
    """

    def __init__(self, cfg: CfgNode):
        self._folder = Path(cfg.OUTPUT_DIR)
        self._done: List[float] = []
        self._forward: List[float] = []
        self._waited: List[float] = []

    def before_train(self) -> None:
        """Starts to time the network."""
        self._forward_seconds = timed_forward(self.trainer.model)

    def after_step(self) -> None:
        """Takes the time; writes all of them after the last step."""
        self._done.append(now())
        self._forward.append(self._forward_seconds())
        if self.trainer.reads_batches:
            self._waited.append(self.trainer.storage.history("data_time").latest())
        if self.trainer.iter + 1 == self.trainer.max_iter:
            rank = self.trainer.job.rank if hasattr(self.trainer, "job") else 0
            times = {"done": self._done, "forward": self._forward, "waited": self._waited}
            (self._folder / _FILE.format(rank)).write_text(json.dumps(times))


def read_clocks(run: Path) -> List[Dict[str, List[float]]]:
    """What the clocks of a run have written.

    Returns:
        For each process, in the order of ranks: of each mini-batch, when it was ``done``, the time ``forward`` of its
        forward passes, and how long the process ``waited`` for its loader (empty where it has none); in seconds.
    """
    return [json.loads(path.read_text()) for path in sorted(run.glob(_FILE.format("*")))]


class TimedStep:
    """The trainer's step on one batch, in this process.

    Args:
        cfg: The config.
        batch: meddlr's batch.
    """

    def __init__(self, cfg: CfgNode, batch: Dict[str, torch.Tensor]):
        self._step = StepOnBatch.from_config(cfg, batch=batch)
        self._forward_seconds = timed_forward(self._step.model)

    def __call__(self) -> Dict[str, float]:
        """Trains on the batch once; gives ``step_s``, ``forward_s`` and ``backward_s``."""
        start = now()
        self._step.run()
        seconds, forward = now() - start, self._forward_seconds()
        return {"step_s": seconds, "forward_s": forward, "backward_s": seconds - forward}
