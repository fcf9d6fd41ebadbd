"""A training, from the arguments of the command to its end: in this process, in a job, or in processes of its own."""

import contextlib
import logging
import os
import shlex
import sys
from typing import Any, List, Optional, Sequence

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import check_dataset_names, register_datasets
from meddlr_greedy.data.leaks import check_held_out
from meddlr_greedy.engine.build import trainer_class
from meddlr_greedy.engine.moving_averages import BEST_AVERAGES, FINAL_AVERAGES
from meddlr_greedy.engine.run_files import CONFIG_FILE, find_weights
from meddlr_greedy.engine.setup import save_config, setup_run
from meddlr_greedy.errors import naming
from meddlr_greedy.jobs.environment import in_job
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.jobs.launch import launch
from meddlr_greedy.modeling.contract import check_keys_of_network
from meddlr_greedy.parallel.limits import check_possible
from meddlr_greedy.parallel.place import Place
from meddlr_greedy.parallel.trainer import ParallelGreedyTrainer  # registers both trainers

__all__ = ["run_training"]

_COMMAND = "meddlr_greedy.train_net"
_MANY_VALIDATIONS = 200  # in a training; more are a period that was not thought of

logger = logging.getLogger(_COMMAND)


def run_training(args: Any, arguments: Sequence[str]) -> Any:
    """Trains, or starts the processes that do.

    Args:
        args: Parsed, of :mod:`meddlr_greedy.train_net`.
        arguments: The same as they were given.

    Returns:
        What the trainer returns.

    Raises:
        SystemExit: Processes were started, and have ended.
        UserError: A value of the config or of the environment is not allowed.
    """
    if args.num_gpus > 1 and not in_job():
        cfg = _load(args)  # a mistake is reported once, and not by every process
        _check_can_be_spread(cfg, args.num_gpus)
        _compared_data_sets(cfg)
        sys.exit(launch(args.num_gpus, arguments, _COMMAND))
    job = Job.join() if in_job() else None
    with job.ending_together() if job else contextlib.nullcontext():
        return _train(args, job)


def _train(args: Any, job: Optional[Job]) -> Any:
    cfg = _load(args)
    told = [*_compared_data_sets(cfg), *_frequent_validation(cfg)]
    cfg = setup_run(cfg, args, trains=True, job=job)
    with naming(f"--config-file {args.config_file}") if job is None else contextlib.nullcontext():
        trainer = trainer_class(cfg)(cfg)
    trainer.resume_or_load(resume=args.resume, restart_iter=args.restart_iter)
    if trainer.is_io_rank:
        for line in told:
            logger.warning(line)
        save_config(cfg)  # only now, when it is known to work
    results = trainer.train()
    if trainer.is_io_rank:
        _say_what_is_next(cfg)
    return results


def _say_what_is_next(cfg: Any) -> None:
    """Logs the command that scores the trained network, or where there is nothing to score it on, uses it."""
    weights = find_weights(cfg.OUTPUT_DIR)
    # A config that names packages is taken only where it is given.
    config = ["--config-file", os.path.join(cfg.OUTPUT_DIR, CONFIG_FILE)] if cfg.MISC.GREEDY.RUN.IMPORTS else []
    options = shlex.join([*config, "--weights", weights])
    if cfg.DATASETS.TEST:
        logger.info("Next, score it on %s: meddlr-greedy eval %s", ", ".join(cfg.DATASETS.TEST), options)
    else:
        logger.info("Next, reconstruct with it: meddlr-greedy reconstruct %s SCAN.h5 --output FOLDER", options)
    if cfg.MISC.GREEDY.EMA:
        best, final = (os.path.join(cfg.OUTPUT_DIR, name) for name in (BEST_AVERAGES, FINAL_AVERAGES))
        averages = shlex.quote(best if os.path.isfile(best) else final)
        # A folder of its own: results of the weights stay.
        folder = shlex.quote(f"{os.path.normpath(cfg.OUTPUT_DIR)}_ema")
        logger.info(
            "The moving averages of the weights: the same with --weights %s, and (eval) OUTPUT_DIR %s", averages, folder
        )


def _compared_data_sets(cfg: Any) -> List[str]:
    return check_held_out(cfg.DATASETS.TRAIN, cfg.DATASETS.VAL, cfg.DATASETS.TEST)


def _frequent_validation(cfg: Any) -> List[str]:
    """A line where a config in iterations validates all the time."""
    period, iterations = cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER
    if cfg.TIME_SCALE != "iter" or not 0 < _MANY_VALIDATIONS * period < iterations:
        return []
    return [
        f"TEST.EVAL_PERIOD: every {period} iterations, so the network is validated {iterations // period} times in this"
        " training; a larger one leaves more time to train (meddlr's default is 1)"
    ]


def _check_can_be_spread(cfg: Any, num_processes: int) -> None:
    if cfg.MISC.GREEDY.RUN.TRAINER in ("auto", ParallelGreedyTrainer.__name__):
        check_possible(cfg, Place.of(0, num_processes, cfg.MISC.GREEDY.PARALLEL.REPLICAS))


def _load(args: Any) -> Any:
    cfg = load_config(args.config_file, args.opts)
    trainer_class(cfg)
    check_keys_of_network(cfg)
    register_datasets()
    check_dataset_names([*cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL, *cfg.DATASETS.TEST])
    return cfg
