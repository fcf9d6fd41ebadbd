"""Hooks of the greedy trainer: checkpoints, the last accumulation window, per-module measurements."""

import logging
import math
import os
import time
from contextlib import ExitStack
from typing import Any, Dict, List, Mapping, Optional, Sequence

import torch
from meddlr.config import CfgNode
from meddlr.engine.hooks import EvalHook
from meddlr.engine.train_loop import HookBase
from meddlr.utils.general import flatten_dict

from meddlr_greedy.console import Progress
from meddlr_greedy.data.seeding import isolated_generators
from meddlr_greedy.engine.checkpoint import BEST_CHECKPOINT
from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.engine.moving_averages import BEST_AVERAGES, FINAL_AVERAGES, name_of_averages
from meddlr_greedy.errors import UserError, did_you_mean
from meddlr_greedy.evaluation.held_out import HELD_OUT_METRIC
from meddlr_greedy.evaluation.metrics.definitions import higher_is_better
from meddlr_greedy.files import reading
from meddlr_greedy.modeling.wrappers.inside import greedy_inside
from meddlr_greedy.registry import HOOK_REGISTRY

__all__ = [
    "BestAverages",
    "BestCheckpoint",
    "CheckpointWriter",
    "ConvergenceWarning",
    "FlushAtEnd",
    "IsolatedEvaluation",
    "ModuleMonitor",
    "TrainingProgress",
    "averages_of",
]

logger = logging.getLogger(__name__)

_EVALUATION_SEED = 0
# The gradient is off by about as much, times (1 + the largest eigenvalue of A^H A over mu).
_LARGEST_RESIDUAL = 0.05


class TrainingProgress(HookBase):
    """Shows how far the training is, and its loss."""

    def __init__(self) -> None:
        self._progress: Optional[Progress] = None

    def before_train(self) -> None:
        """Shows where it begins."""
        self._progress = Progress(self.trainer.max_iter, "training", "iterations", done=self.trainer.start_iter)

    def after_step(self) -> None:
        """Counts an iteration."""
        assert self._progress is not None
        loss = self.trainer.storage.latest().get("total_loss")
        self._progress.update(note="" if loss is None else f"loss {loss:.4g}")

    def close(self) -> None:
        """Shows where it ended, in whatever way."""
        if self._progress is not None:
            self._progress.close()
        self._progress = None


class ConvergenceWarning(HookBase):
    """Warns once where solves end far from their solution, of which ``CG_BACKWARD: "implicit"`` takes the gradient."""

    def __init__(self) -> None:
        self._has_warned = False

    def after_step(self) -> None:
        """Looks at what was logged of the iteration."""
        scalars = {} if self._has_warned else self.trainer.storage.latest()
        residuals = {name: value for name, value in scalars.items() if name.startswith("cg_residual_module_")}
        name = max(residuals, key=residuals.__getitem__, default="")
        if name and residuals[name] > _LARGEST_RESIDUAL:
            self._has_warned = True
            logger.warning(
                "MISC.GREEDY.CG_BACKWARD: conjugate gradients of module %s end at a relative residual of %.2g, but"
                " 'implicit' takes the gradient of the solution; raise MODEL.UNROLLED.DC.MAX_ITER, or use 'unrolled'",
                name.rsplit("_", 1)[1],
                residuals[name],
            )


class FlushAtEnd(HookBase):
    """Applies an unfinished accumulation window after the last iteration, and only then.

    (meddlr's FlushOptimizer also steps before every evaluation, so that evaluating changes the training.)
    """

    def after_step(self) -> None:
        """Flushes after the last iteration."""
        if self.trainer.iter + 1 == self.trainer.max_iter:
            self.trainer.optimizer.flush()


class CheckpointWriter(HookBase):
    """Writes ``model_<iteration>.pth`` every ``period`` iterations (0: never), and ``model_final.pth``.

    Where there are averages of the weights, ``model_final_ema.pth`` stands beside the last.

    Keeps the ``keep`` newest of the numbered ones (0: all).
    """

    def __init__(self, period: int, keep: int):
        self.period, self.keep = period, keep

    def after_step(self) -> None:
        """Writes where a period or the training ends."""
        done = self.trainer.iter + 1
        if self.period and done % self.period == 0:
            self.write()
        if done == self.trainer.max_iter:
            if self.trainer.moving_averages is not None:  # first: with a last checkpoint, a run has come to its end
                self.trainer.checkpointer.save_averages(_stem(FINAL_AVERAGES), iteration=self.trainer.iter)
            self.trainer.checkpointer.save("model_final", iteration=self.trainer.iter)

    def write(self) -> str:
        """Writes the numbered checkpoint of the current iteration, prunes older ones, and returns its file name."""
        name = f"model_{self.trainer.iter:07d}"
        self.trainer.checkpointer.save(name, iteration=self.trainer.iter)
        self.trainer.checkpointer.prune(self.keep)
        return f"{name}.pth"


class IsolatedEvaluation(EvalHook):
    """meddlr's EvalHook; a period of 0 evaluates at the end only, and the training's generators stay untouched."""

    def _do_eval(self) -> None:
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        try:
            with torch.random.fork_rng(devices=devices), isolated_generators(_EVALUATION_SEED):
                super()._do_eval()
        except ConnectionError:
            raise  # a process that was lost cannot give its part of a checkpoint
        except Exception:
            # The checkpoint otherwise comes last; a failing evaluation must cost nothing but itself.
            self.trainer.checkpoint_writer.write()
            raise


class BestCheckpoint(HookBase):
    """Keeps the checkpoint with the best validation metric as ``model_best.pth``; runs after the evaluation.

    Only for a run that has validation data (``DATASETS.VAL``); test data may not choose a checkpoint.

    Args:
        metric: Name of the metric; empty takes the first of ``allowed``.
        allowed: Names of the metrics that the validation gives.
        output_dir: Folder of the run.

    Raises:
        UserError: The metric is not one of ``allowed``.
    """

    file = BEST_CHECKPOINT

    def __init__(self, metric: str, allowed: Sequence[str], output_dir: str):
        metric = metric or allowed[0]
        if metric not in allowed:
            raise UserError(
                f"MISC.GREEDY.RUN.BEST_METRIC: found '{metric}', allowed are the metrics of the validation"
                f" (TEST.VAL_METRICS.RECON; without targets the loss of lines held out): {', '.join(allowed)}"
                f"{did_you_mean(metric, allowed)}"
            )
        self.metric = metric
        self.path = os.path.join(output_dir, self.file)
        self.value: Optional[float] = None
        self._evaluated: Optional[Dict[str, Any]] = None
        self._higher_is_better = _higher_is_better(metric)

    def before_train(self) -> None:
        """Continues from the best value so far, where a run is resumed."""
        if self.trainer.start_iter == 0 or not os.path.isfile(self.path):
            return
        # Written later than the checkpoint to resume from, it is found again by the same evaluation.
        with reading(self.path, "a checkpoint of a training; remove it to go on without"):
            stored = torch.load(self.path, map_location="cpu", weights_only=True)
            metric, value = stored["metric"], float(stored["value"])
        if metric != self.metric:
            logger.warning(
                "MISC.GREEDY.RUN.BEST_METRIC: found %s, but %s was chosen by %s (%s): its value is not compared",
                *(self.metric, self.path, metric, value),
            )
        elif math.isfinite(value):
            self.value = value

    def after_train(self) -> None:
        """Compares once more: a finished run that is resumed has no iterations, but evaluates."""
        self.after_step()

    def after_step(self) -> None:
        """Writes the checkpoint where a new evaluation is better than all before; NaN and infinity never are."""
        results = getattr(self.trainer, "_last_eval_results", None)
        if not results or results is self._evaluated:
            return
        self._evaluated = results
        values = averages_of(results)
        name = self.name_in_results()
        value = values[name]
        if not math.isfinite(value):
            logger.warning("%s is %s at iteration %d: no best checkpoint", name, value, self.trainer.iter)
            return
        better = self.value is None or (value > self.value if self._higher_is_better else value < self.value)
        if better:
            self.value = value
            iteration = min(self.trainer.iter, self.trainer.max_iter - 1)  # a finished run stands one behind its end
            self.save(iteration=iteration, value=value, metric=self.metric)
            logger.info("Best so far: %s %.4f at iteration %d", name, value, self.trainer.iter)

    def name_in_results(self) -> str:
        """What the metric is called in the results of a validation."""
        return self.metric

    def save(self, **kwargs: Any) -> None:
        """Writes the file."""
        self.trainer.checkpointer.save(_stem(self.file), tag=False, **kwargs)


class BestAverages(BestCheckpoint):
    """The same for the moving averages of the weights: ``model_best_ema.pth``, chosen by a metric of their own."""

    file = BEST_AVERAGES

    def name_in_results(self) -> str:
        """What the metric of the averages is called in the results of a validation."""
        return name_of_averages(self.metric)

    def save(self, **kwargs: Any) -> None:
        """Writes the averages, as weights."""
        self.trainer.checkpointer.save_averages(_stem(self.file), **kwargs)


def _stem(file: str) -> str:
    return file[: -len(".pth")]


def _higher_is_better(metric: str) -> bool:
    if metric == HELD_OUT_METRIC:
        return False
    name = metric[len("val_") :] if metric.startswith("val_") else metric
    name = name[: -len("_scan")] if name.endswith("_scan") else name
    return higher_is_better(name)


def averages_of(results: Mapping[str, Mapping[str, Any]]) -> Dict[str, float]:
    """Metric -> mean over the data sets of a validation, and over map sets."""
    values: Dict[str, List[float]] = {}
    for metrics in results.values():
        for name, value in flatten_dict(metrics).items():
            # "val_psnr/channel_0": meddlr's name where 2D images have several map sets
            values.setdefault(name.split("/")[0], []).append(float(value))
    return {name: sum(v) / len(v) for name, v in values.items()}


@HOOK_REGISTRY.register()
class ModuleMonitor(HookBase):
    """Measures each greedy module: gradient norm, time, memory (its loss is always logged).

    Every ``MISC.GREEDY.RUN.LOG_PERIOD`` iterations it logs ``module_<k>/grad_norm``, ``module_<k>/time`` (s: forward
    and backward) and ``module_<k>/memory_mb`` (CUDA: peak allocated, which resets what the console shows as max_mem;
    CPU: tensors held for backward, the batch included; with ``MISC.GREEDY.CHECKPOINT`` without those of the one step
    that runs again). With gradient accumulation the norm is that of the sum so far; with ``MISC.GREEDY.CLIP_NORM`` that
    after clipping. Does nothing for a network that is not trained greedily.
    """

    def __init__(self, cfg: CfgNode):
        self.period = cfg.MISC.GREEDY.RUN.LOG_PERIOD
        self._measuring = ExitStack()
        self._held: Optional[HeldForBackward] = None
        self._marks: List[Any] = []
        self._memory: List[int] = []

    def before_step(self) -> None:
        """Begins to measure, where the iteration is logged."""
        model = greedy_inside(self.trainer.model)
        self._active = model is not None and (self.trainer.iter + 1) % self.period == 0
        if model is None or not self._active:
            return
        self._cuda = next(model.parameters()).is_cuda
        self._marks, self._memory = [], []
        if not self._cuda:
            self._held = self._measuring.enter_context(HeldForBackward(exclude=model.parameters()))
        self._measuring.enter_context(model.unrolled.observed(self._mark))

    def _mark(self, k: int, begins: bool) -> None:  # noqa: ARG002 (an observer; modules come in order)
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
            memory = torch.cuda.max_memory_allocated()
            if begins:
                torch.cuda.reset_peak_memory_stats()
        else:
            assert self._held is not None
            self._marks.append(time.perf_counter())
            memory = self._held.peak_bytes
            if begins:
                self._held.reset_peak()
        if not begins:
            self._memory.append(memory)

    def after_step(self) -> None:
        """Logs what was measured."""
        if not self._active:
            return
        self.close()
        model = greedy_inside(self.trainer.model)
        assert model is not None
        modules = model.unrolled
        scalars = {}
        marks = zip(self._marks[::2], self._marks[1::2])
        for k, parameters, memory, (begin, end) in zip(modules.own, modules.own_parameters(), self._memory, marks):
            seconds = begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
            gradients = [p.grad for p in parameters if p.grad is not None]
            norms = torch.stack([g.norm() for g in gradients]) if gradients else torch.zeros(1)
            scalars[f"module_{k + 1}/time"] = seconds
            scalars[f"module_{k + 1}/memory_mb"] = memory / 1e6
            scalars[f"module_{k + 1}/grad_norm"] = norms.norm().item()
        self.trainer.storage.put_scalars(smoothing_hint=False, **scalars)

    def close(self) -> None:
        """Stops measuring; called by the trainer, too, where a step did not come to its end."""
        self._measuring.close()
        self._held = None
