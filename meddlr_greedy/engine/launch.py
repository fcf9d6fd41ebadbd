"""Starting a run: device, threads, seed, log and output folder."""

import contextlib
import logging
import os
from typing import Any, Iterator, Optional

import torch
from meddlr.config import CfgNode
from meddlr.engine import default_setup
from meddlr.utils import env
from meddlr.utils.logger import setup_logger

from meddlr_greedy.config.safe_yaml import read_yaml
from meddlr_greedy.engine.memory import keep_freed_memory
from meddlr_greedy.errors import UserError
from meddlr_greedy.files import written_atomically
from meddlr_greedy.jobs.job import Job

__all__ = ["check_device", "save_config", "setup_run"]


def check_device(cfg: CfgNode) -> torch.device:
    """The device of ``MODEL.DEVICE``.

    Raises:
        UserError: where it is no device, or none such is there.
    """
    name = cfg.MODEL.DEVICE
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"MODEL.DEVICE: found '{name}', allowed are 'cpu', 'cuda' and 'cuda:N'") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"MODEL.DEVICE: found '{name}', but {torch.cuda.device_count()} CUDA devices are available;"
            " set MODEL.DEVICE cpu to train on the CPU"
        )
    return device


def setup_run(cfg: CfgNode, args: Any, trains: bool, job: Optional[Job] = None) -> CfgNode:
    """meddlr's ``default_setup`` for a run of this plugin: device, threads, seed, log and output folder.

    Args:
        cfg: The config.
        args: Command line, see :func:`meddlr_greedy.arguments.run_parser`.
        trains: Whether the run writes checkpoints.
        job: The processes that this one belongs to, if there are several.

    Returns:
        The config to run with: ``SEED`` is always set, so that ``config.yaml`` repeats the run.

    Raises:
        UserError: for a missing OUTPUT_DIR, an impossible device, or more devices than are used.
    """
    if not cfg.OUTPUT_DIR:
        raise UserError("OUTPUT_DIR: missing; set it in the config or as an override (OUTPUT_DIR results/my_run)")
    check_device(cfg)
    if args.num_gpus > 1 and not trains:
        raise UserError(f"--num-gpus: found {args.num_gpus}, allowed is 1 (evaluation uses one device)")
    if job is not None:
        _choose_device_of_process(cfg, job)
    if job is not None and args.auto_version:
        raise UserError("--auto-version: not allowed with several processes; give OUTPUT_DIR")
    if args.devices:
        raise UserError(f"--devices: found {args.devices}, not used here; set MODEL.DEVICE cuda:N")
    # meddlr looks for free GPUs, and stops where it finds none, unless this is set.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
    keep_freed_memory()
    threads = cfg.MISC.GREEDY.RUN.THREADS
    if threads:
        torch.set_num_threads(threads)
    cfg = cfg.clone().defrost()
    cfg.OUTPUT_DIR = env.get_path_manager().get_local_path(cfg.OUTPUT_DIR)
    checkpoint = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if trains and not args.resume and not args.auto_version and os.path.exists(checkpoint):
        raise UserError(
            f"OUTPUT_DIR: {cfg.OUTPUT_DIR} holds the checkpoints of an earlier run; continue it with --resume, or give"
            " another folder"
        )
    if cfg.SEED < 0:
        seed = _seed_of_earlier_run(cfg.OUTPUT_DIR) if args.resume else _new_seed()
        cfg.SEED = seed if job is None else int(job.agree("seed", str(seed)))
    try:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR: {cfg.OUTPUT_DIR} cannot be made: {error.strerror}") from None
    # The writer of the logs; see Place.writer.
    apart = None
    if job is not None and job.rank != job.world_size // cfg.MISC.GREEDY.PARALLEL.REPLICAS - 1:
        apart = os.path.join(cfg.OUTPUT_DIR, f"log.rank{job.rank}.txt")
    with _logging_apart(apart) if apart else contextlib.nullcontext():
        setup_logger(cfg.OUTPUT_DIR, name="meddlr_greedy")
        default_setup(cfg.freeze(), args, save_cfg=False)
    return cfg


def _choose_device_of_process(cfg: CfgNode, job: Job) -> None:
    """Processes take the GPUs of their machine in turn."""
    if cfg.MODEL.DEVICE == "cuda":
        torch.cuda.set_device(job.local_rank % torch.cuda.device_count())
    elif cfg.MODEL.DEVICE != "cpu":
        raise UserError(
            f"MODEL.DEVICE: found '{cfg.MODEL.DEVICE}', with several processes 'cuda' (each takes the next GPU) and"
            " 'cpu' are allowed"
        )


@contextlib.contextmanager
def _logging_apart(path: str) -> Iterator[None]:
    """For all but one process: one console is enough, so what is set up inside the block logs to a file of its own."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        file = logging.FileHandler(path)
        file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s"))
        for name in ("meddlr", "meddlr_greedy", "fvcore"):
            logging.getLogger(name).handlers[:] = [file]


def save_config(cfg: CfgNode) -> None:
    """Writes ``config.yaml``, with which the run can be repeated, to the output folder."""
    with written_atomically(os.path.join(cfg.OUTPUT_DIR, "config.yaml")) as partial:
        partial.write_text(cfg.dump())


def _new_seed() -> int:
    return int.from_bytes(os.urandom(4), "big") // 2


def _seed_of_earlier_run(output_dir: str) -> int:
    path = os.path.join(output_dir, "config.yaml")
    if not os.path.isfile(path):
        return _new_seed()
    seed = read_yaml(path).get("SEED", -1)
    return seed if isinstance(seed, int) and seed >= 0 else _new_seed()
