"""Trains a network from a config, greedily or end to end.

On several devices, a greedy network is spread over them: start with --num-gpus N (N processes on this machine; on the
CPU too), or with torchrun on one machine or many.

Example::

    meddlr-greedy train --config-file cine/greedy.yaml OUTPUT_DIR results/cine-greedy
    meddlr-greedy train --config-file cine/greedy.yaml OUTPUT_DIR results/cine-greedy --resume
    meddlr-greedy train --config-file cine/greedy.yaml --num-gpus 4 OUTPUT_DIR results/cine-greedy
    torchrun --nproc-per-node 4 -m meddlr_greedy.train_net --config-file cine/greedy.yaml
"""

import contextlib
import logging
import os
import shlex
import sys
from typing import Any, List, Optional, Sequence

from meddlr_greedy.arguments import CommandParser, run_parser
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import check_dataset_names, register_datasets
from meddlr_greedy.data.leaks import check_held_out
from meddlr_greedy.engine.build import trainer_class
from meddlr_greedy.engine.run_files import find_weights
from meddlr_greedy.engine.setup import save_config, setup_run
from meddlr_greedy.errors import UserError, check, exit_with_one_line, naming
from meddlr_greedy.jobs.end_request import SIGNALS, end_at_once
from meddlr_greedy.jobs.environment import MAX_PROCESSES, in_job
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.jobs.launch import launch
from meddlr_greedy.modeling.contract import check_keys_of_network
from meddlr_greedy.parallel.limits import check_possible
from meddlr_greedy.parallel.place import Place
from meddlr_greedy.parallel.trainer import ParallelGreedyTrainer  # registers both trainers
from meddlr_greedy.signals import handling_signals

__all__ = ["build_parser", "main"]

logger = logging.getLogger("meddlr_greedy.train_net")  # also where this file is the program


def build_parser(prog: Optional[str] = None) -> CommandParser:
    """The parser of the command; ``prog`` is how it was called."""
    return run_parser(prog or "python -m meddlr_greedy.train_net", __doc__)


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> Any:
    """Trains.

    Args:
        argv: Arguments of the command line; default: those of the process.
        prog: How the command was called.

    Returns:
        What the trainer returns.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(prog).parse_args(arguments)
    if args.eval_only:
        raise UserError("--eval-only: use meddlr-greedy eval")
    check(0 < args.num_gpus <= MAX_PROCESSES, "--num-gpus", args.num_gpus, f"1 to {MAX_PROCESSES}")
    with handling_signals(SIGNALS, end_at_once):
        if args.num_gpus > 1 and not in_job():
            cfg = _load(args)  # a mistake is reported once, and not by every process
            _check_can_be_spread(cfg, args.num_gpus)
            _compared_data_sets(cfg)
            sys.exit(launch(args.num_gpus, arguments, "meddlr_greedy.train_net"))
        job = Job.join() if in_job() else None
        with job.ending_together() if job else contextlib.nullcontext():
            return _train(args, job)


def _train(args: Any, job: Optional[Job]) -> Any:
    cfg = _load(args)
    told = _compared_data_sets(cfg)
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
    weights = shlex.quote(find_weights(cfg.OUTPUT_DIR))
    if cfg.DATASETS.TEST:
        logger.info("Next, score it on %s: meddlr-greedy eval --weights %s", ", ".join(cfg.DATASETS.TEST), weights)
    else:
        config = shlex.quote(os.path.join(cfg.OUTPUT_DIR, "config.yaml"))
        command = f"meddlr-greedy reconstruct --config-file {config} --weights {weights} SCAN.h5 --output FOLDER"
        logger.info("Next, reconstruct with it: %s", command)


def _compared_data_sets(cfg: Any) -> List[str]:
    return check_held_out(cfg.DATASETS.TRAIN, cfg.DATASETS.VAL, cfg.DATASETS.TEST)


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


if __name__ == "__main__":
    main()
