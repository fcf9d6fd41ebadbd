"""The trainer: meddlr's, with exact resuming, one host synchronization in each step, and clean ends."""

import json
import logging
import os
import signal
import time
from contextlib import ExitStack
from typing import Any, Dict, List, Optional, Sequence

import torch
from meddlr.config import CfgNode
from meddlr.engine import DefaultTrainer
from meddlr.engine import hooks as meddlr_hooks
from meddlr.engine.trainer import convert_cfg_time_to_iter
from meddlr.evaluation import verify_results
from meddlr.solver import GradAccumOptimizer
from meddlr.utils.events import CommonMetricPrinter, EventStorage, JSONWriter
from torch.nn import DataParallel

from meddlr_greedy.data.build import build_train_loader, build_val_loader
from meddlr_greedy.data.catalog import has_targets
from meddlr_greedy.engine.ahead import CopiedAhead
from meddlr_greedy.engine.build import (
    HANDLED_KEYS,
    build_hooks,
    build_loss_computer,
    build_network_to_train,
    build_optimizer,
)
from meddlr_greedy.engine.checkpoint import BEST_CHECKPOINT, GreedyCheckpointer
from meddlr_greedy.engine.graphed_step import GraphedStep
from meddlr_greedy.engine.hooks import (
    BestAverages,
    BestCheckpoint,
    CheckpointWriter,
    ConvergenceWarning,
    FlushAtEnd,
    IsolatedEvaluation,
    TrainingProgress,
    averages_of,
)
from meddlr_greedy.engine.moving_averages import average_weights, with_those_of_averages
from meddlr_greedy.engine.run_state import RunState
from meddlr_greedy.engine.setup import check_axes
from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.engine.updates import LearningRates
from meddlr_greedy.engine.writers import build_run_writers, check_writers
from meddlr_greedy.errors import NonFiniteLossError, PreemptedError, UserError, naming, shortened
from meddlr_greedy.evaluation.evaluator import build_evaluator
from meddlr_greedy.evaluation.held_out import HELD_OUT_METRIC, HeldOutEvaluator
from meddlr_greedy.files import reading, writing, written_atomically
from meddlr_greedy.jobs.end_request import EndRequest
from meddlr_greedy.registry import TRAINER_REGISTRY

__all__ = ["GreedyTrainer"]

logger = logging.getLogger(__name__)


@TRAINER_REGISTRY.register()
class GreedyTrainer(DefaultTrainer):
    """meddlr's DefaultTrainer for greedy and for end-to-end training of any of its networks, 2D and cine.

    What differs from the base class: the lean loss computer; data order and sampling that are a function of
    (seed, epoch, example); checkpoints from which a run continues bit for bit; one transfer from the device per step;
    a non-finite loss stops before the update; hooks do not run after an exception; evaluation leaves the generators
    and the accumulation window alone; ``TEST.EVAL_PERIOD`` and ``SOLVER.CHECKPOINT_PERIOD`` may be 0 (at the end only).
    """

    model: torch.nn.Module
    _data_loader_iter: Any  # of meddlr's
    #: Keys of ``MISC.GREEDY`` that this trainer acts on in the place of the network.
    handled_keys: Sequence[str] = HANDLED_KEYS

    def __init__(self, cfg: CfgNode):
        check_writers(cfg)
        check_axes(cfg, "TRAIN", "VAL" if cfg.DATASETS.VAL else "TEST")
        super().__init__(self._in_iterations(cfg))
        self.model = _unwrapped(self.model)
        self.step = self.build_step()
        self.moving_averages = average_weights(self.model, self.optimizer, self.cfg.MISC.GREEDY.EMA)
        self.end_request = EndRequest()
        self.run_state = RunState(self.cfg, self.data_loader.dataset.dataset)
        # The run's state is read first: it refuses an optimizer's that does not fit.
        self.checkpointer = self.build_checkpointer(
            run=self.run_state,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            moving_averages=self.moving_averages,
        )

    @classmethod
    def _in_iterations(cls, cfg: CfgNode) -> CfgNode:
        """The config with iterations in the place of epochs.

        meddlr divides the number of examples by that of a batch; examples of several kinds make more batches.
        """
        if cfg.TIME_SCALE == "iter":
            return cfg
        return convert_cfg_time_to_iter(cfg, cls.build_train_loader(cfg).batch_sampler.batches_per_epoch)

    # ---- parts, built from the config

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """The endless loader of the training sets; its order is a function of ``SEED`` and the epoch."""
        return build_train_loader(cfg, cfg.SEED)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str, is_val: bool = False) -> Any:
        """The loader of one data set, once through in order.

        Args:
            cfg: The config.
            dataset_name: Name of a registered data set.
            is_val: Whether it is validated on during the training; then ``TEST.VAL_AS_TEST`` decides whether
                masks and postprocessing are those of a test.
        """
        as_test = not is_val or cfg.TEST.VAL_AS_TEST
        return build_val_loader(cfg, dataset_name, as_test, hold_out=_is_scored_by_held_out_lines(cfg, dataset_name))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, is_val: bool = False) -> Any:
        """meddlr's metrics; without targets the loss of lines held out, if it is the loss of the training."""
        if _is_scored_by_held_out_lines(cfg, dataset_name):
            return HeldOutEvaluator(cfg)
        metrics = cfg.TEST.VAL_METRICS.RECON if is_val else ()
        return build_evaluator(cfg, dataset_name, metrics or None)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """The network; the trainer acts on the keys that are left to it."""
        return build_network_to_train(cfg, cls.handled_keys)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Any) -> Any:
        """meddlr's schedule of the learning rate.

        Raises:
            UserError: ``SOLVER.LR_SCHEDULER_NAME`` is unknown, or other keys of the schedule do not fit it.
        """
        with naming("SOLVER.LR_SCHEDULER_NAME"):
            return super().build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_loss_computer(cls, cfg: CfgNode) -> Any:
        """The lean loss computer; meddlr's for its networks that have losses of their own."""
        return build_loss_computer(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> Any:
        """meddlr's optimizer with the keys of ``MISC.GREEDY`` that concern the update."""
        return build_optimizer(cfg, model)

    def build_checkpointer(self, **parts: Any) -> GreedyCheckpointer:
        """What saves and loads the network with ``run``, ``optimizer``, ``scheduler`` and ``moving_averages``."""
        return GreedyCheckpointer(self.model, self.cfg.OUTPUT_DIR, **parts)

    def build_step(self) -> TrainingStep:
        """The training step, once network, optimizer and loss computer are there."""
        kind = GraphedStep if self.cfg.MISC.GREEDY.RUN.CUDA_GRAPHS else TrainingStep
        return kind(self.model, self.optimizer, self.loss_computer, max(self.cfg.SEED, 0))

    def build_hooks(self) -> list:
        """The hooks in the order in which they run; :meth:`train` adds the two that write last."""
        cfg = self.cfg
        self.checkpoint_writer = CheckpointWriter(cfg.SOLVER.CHECKPOINT_PERIOD, cfg.MISC.GREEDY.RUN.KEEP_CHECKPOINTS)

        return [
            meddlr_hooks.IterationTimer(),
            TrainingProgress() if self.is_io_rank else None,
            ConvergenceWarning() if self.is_io_rank else None,
            *build_hooks(cfg),  # before the flush, which clears the gradients
            FlushAtEnd() if isinstance(self.optimizer, GradAccumOptimizer) else None,
            self._build_schedule(),
            IsolatedEvaluation(cfg.TEST.EVAL_PERIOD, self.evaluate),
            *self._build_best_checkpoints(),
        ]

    def _build_best_checkpoints(self) -> List[BestCheckpoint]:
        cfg = self.cfg
        # Built once here, so that a wrong metric is found before the training and not after it.
        evaluators = [self.build_evaluator(cfg, name, is_val=True) for name in cfg.DATASETS.VAL or cfg.DATASETS.TEST]
        if not cfg.DATASETS.VAL:  # then DATASETS.TEST is evaluated, by which nothing may be chosen
            if self.is_io_rank:
                logger.warning("DATASETS.VAL: none, so that no %s is kept; the last checkpoint is", BEST_CHECKPOINT)
            return []
        for evaluator in evaluators:
            if not hasattr(evaluator, "metric_names"):
                raise UserError(
                    f"{type(self).__name__}.build_evaluator: found {type(evaluator).__name__}, allowed is an evaluator"
                    " with metric_names, the names of its metrics, one of which chooses the best checkpoint"
                )
        names = dict.fromkeys(name for evaluator in evaluators for name in evaluator.metric_names)
        # The first is the default: a metric of images, where some have targets.
        metrics = sorted(names, key=lambda name: name == HELD_OUT_METRIC)
        kinds = [BestCheckpoint, BestAverages] if cfg.MISC.GREEDY.EMA else [BestCheckpoint]
        return [kind(cfg.MISC.GREEDY.RUN.BEST_METRIC, metrics, cfg.OUTPUT_DIR) for kind in kinds]

    def _build_schedule(self) -> Any:
        if self.cfg.MISC.GREEDY.LR_FACTORS:
            return LearningRates(self.optimizer, self.scheduler, _unwrapped(self.model))
        return meddlr_hooks.LRScheduler(self.optimizer, self.scheduler)

    def build_writers(self) -> list:
        """Console, metrics.json and ``RUN.WRITERS``, without the iterations that a resumed run repeats."""
        cfg = self.cfg
        metrics_file = os.path.join(cfg.OUTPUT_DIR, "metrics.json")
        with writing(metrics_file, "OUTPUT_DIR"):
            _drop_iterations_from(metrics_file, self.start_iter)
            return [
                CommonMetricPrinter(self.max_iter, eval_period=cfg.TEST.EVAL_PERIOD),
                JSONWriter(metrics_file),
                *build_run_writers(cfg, self.start_iter),
            ]

    @property
    def writing_periods(self) -> List[int]:
        """After multiples of these iterations the writers write."""
        return [period for period in (self.cfg.MISC.GREEDY.RUN.LOG_PERIOD, self.cfg.TEST.EVAL_PERIOD) if period]

    @property
    def is_io_rank(self) -> bool:
        """Whether this process writes files and logs."""
        return True

    # ---- training

    def resume_or_load(self, resume: bool = True, restart_iter: bool = False) -> None:
        """Continues from the last checkpoint of OUTPUT_DIR, or starts from MODEL.WEIGHTS at iteration 0.

        (meddlr takes the iteration count from MODEL.WEIGHTS too, so a warm start would train nothing.)

        Raises:
            UserError: The checkpoint cannot be loaded, lacks what a run needs to be continued, or is of an iteration
                that this run does not have.
        """
        path = self.checkpointer.get_checkpoint_file() if resume else ""
        if not path:
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
            self.start_iter = 0
            return
        iteration = self.checkpointer.load(path).get("iteration")
        if not isinstance(iteration, int) or isinstance(iteration, bool) or not 0 <= iteration < self.max_iter:
            raise UserError(
                f"checkpoint {path}: iteration is {shortened(iteration)}, allowed is 0 to {self.max_iter - 1}"
                " (SOLVER.MAX_ITER - 1)"
            )
        self.start_iter = 0 if restart_iter else iteration + 1

    def train(self) -> Optional[Dict[str, Any]]:
        """Trains from ``start_iter`` to ``max_iter``; returns the last evaluation's results.

        Raises:
            NonFiniteLossError: the loss of a module is NaN or infinite.
            PreemptedError: a signal asked for the end, Ctrl-C for one; a checkpoint has been written.
        """
        logger.info("Starting training from iteration %d of %d", self.start_iter, self.max_iter)
        self.iter = self.start_iter
        writers = self.build_writers()
        # In this order: what the other hooks have measured is written, and the checkpoint comes last.
        # Killed before it is written, the resumed run evaluates and logs again; killed after it, nothing is missing.
        self.register_hooks([meddlr_hooks.PeriodicWriter(writers, self.writing_periods), self.checkpoint_writer])
        self.seek_first_batch()
        with ExitStack() as at_end:
            self.storage = at_end.enter_context(EventStorage(self.start_iter))
            at_end.enter_context(self.end_request.listening())
            for to_close in [*writers, *(hook for hook in self._hooks if hasattr(hook, "close"))]:
                at_end.callback(to_close.close)
            self.before_train()
            self.run_state.restore_generators()
            for iteration in range(self.start_iter, self.max_iter):
                self.iter = iteration
                self.before_step()
                self.run_step()
                self.after_step()
                if self.end_request and self.iter + 1 < self.max_iter:
                    self._end_on_request()
            self.after_train()
        results = getattr(self, "_last_eval_results", None)
        if results:
            verify_results(self.cfg, results)
        return results

    def run_step(self) -> None:
        """Trains on one mini-batch, and records what is to log of it."""
        try:
            result = self.step(self.next_batch(), self.iter)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"{error}. The last checkpoint is {self.checkpointer.get_checkpoint_file() or 'none'}; start from it"
                " with a lower SOLVER.BASE_LR: give it as MODEL.WEIGHTS, and another OUTPUT_DIR"
            ) from error
        self.storage.put_scalars(**result.scalars)

    def evaluate(self) -> Dict[str, Any]:
        """Scores the weights, and their averages where there are any.

        Returns:
            Dict[str, Any]: Data set -> metric -> value; of the averages, the names of metrics end with "_ema". Empty in
            a process that writes no files.
        """
        results = self.score()
        if self.moving_averages is not None:
            logger.info("Next, the moving averages of the weights")
            with self.moving_averages.in_place():
                results = with_those_of_averages(results, self.score())
        if self.is_io_rank:
            self._last_eval_results = results
            self.tell_of_evaluation()
        return results

    def score(self) -> Dict[str, Any]:
        """Scores the network as it is, on ``DATASETS.VAL``; where that is empty, on ``DATASETS.TEST``."""
        return self.test(self.cfg, self.model, use_val=True)

    def tell_of_evaluation(self) -> None:
        """Logs the metrics of the last evaluation, averaged over its data sets."""
        names = self.cfg.DATASETS.VAL or self.cfg.DATASETS.TEST
        values = ", ".join(f"{name} {value:.4g}" for name, value in averages_of(self._last_eval_results).items())
        logger.info("%s after iteration %d: %s", ", ".join(names), min(self.iter, self.max_iter - 1), values)

    # ---- extension points

    def seek_first_batch(self) -> None:
        """Lets the loader begin with the batch of the first iteration."""
        self.data_loader.batch_sampler.start_iter = self.start_iter

    def before_train(self) -> None:
        """Begins to read batches; for a GPU, each is copied to it while the one before is trained on."""
        super().before_train()
        device = next(self.model.parameters()).device
        if self.reads_batches and device.type == "cuda":
            count = self.max_iter - self.start_iter
            self._data_loader_iter = CopiedAhead(self._data_loader_iter, device, count)

    @property
    def reads_batches(self) -> bool:
        """Whether the batches of this process come from a loader."""
        return True

    def next_batch(self) -> Dict[str, Any]:
        """The next mini-batch; the time that it took to come is logged."""
        start = time.perf_counter()
        inputs = next(self._data_loader_iter)
        self.storage.put_scalar("data_time", time.perf_counter() - start)
        inputs.pop("_profiler", None)
        return inputs

    def _end_on_request(self) -> None:
        name = self.checkpoint_writer.write()
        raise PreemptedError(
            f"{signal.Signals(self.end_request.signal).name} received: {name} written after iteration {self.iter} of"
            f" {self.max_iter}; continue with --resume"
        )


def _unwrapped(model: torch.nn.Module) -> Any:
    """Without DataParallel, in which meddlr wraps wherever several devices are visible."""
    return model.module if isinstance(model, DataParallel) else model


def _is_scored_by_held_out_lines(cfg: CfgNode, dataset_name: str) -> bool:
    """Whether a validation set is one of training without targets, and has none."""
    return cfg.MISC.GREEDY.CINE.LOSS_LINES > 0 and not has_targets(dataset_name, dict(cfg.DATALOADER.DATA_KEYS) or None)


def _drop_iterations_from(path: str, start_iter: int) -> None:
    """Keeps the lines of ``path`` of iterations before ``start_iter``; a torn last line goes too."""
    if not os.path.isfile(path):
        return
    with reading(path), open(path, "rb") as file, written_atomically(path) as partial, open(partial, "wb") as kept:
        for line in file:
            iteration = _iteration_of(line)
            # A line of something else is not this function's to drop; without an end, it was torn by a kill.
            if iteration is None and line.endswith(b"\n") or iteration is not None and iteration < start_iter:
                kept.write(line)


def _iteration_of(line: bytes) -> Optional[float]:
    try:
        iteration = json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return iteration if isinstance(iteration, (int, float)) else None
