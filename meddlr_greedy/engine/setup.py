"""How a process starts a run: device, threads, seed, output folder and log."""

import argparse
import contextlib
import io
import logging
import os
import re
from typing import Any, Iterator, Optional

import torch
from meddlr.config import CfgNode
from meddlr.engine import default_setup
from meddlr.utils import env
from meddlr.utils.logger import setup_logger

from meddlr_greedy.config.safe_yaml import read_yaml
from meddlr_greedy.config.shipped import find_config
from meddlr_greedy.console import show_messages
from meddlr_greedy.data.catalog import is_cine
from meddlr_greedy.engine.checkpoint import LAST_CHECKPOINT, GreedyCheckpointer
from meddlr_greedy.engine.memory import keep_freed_memory
from meddlr_greedy.engine.run_files import CONFIG_FILE
from meddlr_greedy.errors import UserError, log_causes
from meddlr_greedy.files import writing, written_atomically
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.locks import LOG_FILE, lock_until_end
from meddlr_greedy.modeling.contract import inner_class, inner_name, traits_of

__all__ = ["check_axes", "check_device", "output_dir", "save_config", "setup_run"]

_LOGGERS = ("meddlr_greedy", "meddlr", "fvcore")


def check_device(cfg: CfgNode, option: str = "MODEL.DEVICE") -> torch.device:
    """The device of ``MODEL.DEVICE``.

    Args:
        cfg: meddlr's config.
        option: By what the user named it.

    Raises:
        UserError: It names no device, or one that is not there.
    """
    name = cfg.MODEL.DEVICE
    if not re.fullmatch(r"cpu|cuda(:\d{1,4})?", name, re.ASCII):
        raise UserError(f"{option}: found '{name}', allowed are 'cpu', 'cuda' and 'cuda:N'")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"{option}: found '{name}', but {torch.cuda.device_count()} CUDA devices are available;"
            f" set {option} cpu to use the CPU"
        )
    return device


def output_dir(cfg: CfgNode) -> str:
    """The path of the folder ``OUTPUT_DIR``.

    Raises:
        UserError: The config names none.
    """
    if not cfg.OUTPUT_DIR:
        raise UserError("OUTPUT_DIR: missing; set it in the config or as an override (OUTPUT_DIR results/my_run)")
    return env.get_path_manager().get_local_path(cfg.OUTPUT_DIR)


def check_axes(cfg: CfgNode, *splits: str) -> None:
    """Refuses cine data for 2D networks, and the other way round.

    Args:
        cfg: meddlr's config.
        splits: Those of its data sets that are to be used: "TRAIN", "VAL", "TEST".

    Raises:
        UserError: A data set does not fit the network, or cannot be used.
    """
    takes_cine = traits_of(inner_class(cfg)).is_cine
    for split in splits:
        for name in cfg.DATASETS[split]:
            if is_cine(name, dict(cfg.DATALOADER.DATA_KEYS) or None) != takes_cine:
                takes, is_of = ("cine", "2D") if takes_cine else ("2D", "cine")
                raise UserError(
                    f"DATASETS.{split}: '{name}' is {is_of}, but the network {inner_name(cfg)} takes {takes} data;"
                    " use a config or weights for the data, or data for the network"
                )


def setup_run(cfg: CfgNode, args: Any, trains: bool, job: Optional[Job] = None) -> CfgNode:
    """Prepares this process for a run: device, threads, seed, output folder and log.

    It does what meddlr's ``default_setup`` does, and calls it.

    Args:
        cfg: The config.
        args: The command line, see :func:`meddlr_greedy.arguments.run_parser`. ``args.config_file`` is the path of a
            file, which the log quotes.
        trains: Whether the run writes checkpoints.
        job: The job of this process, where it is one of several.

    Returns:
        The config to run with: ``SEED`` is always set, so that ``config.yaml`` repeats the run.

    Raises:
        UserError: OUTPUT_DIR is missing or cannot be used, the device is impossible, or the command line asks for
            devices that are not used.
    """
    folder = output_dir(cfg)
    check_device(cfg)
    _check_command_line(args, trains, job)
    if job is not None:
        _choose_device_of_process(cfg, job)
    _prepare_torch(cfg)
    cfg = cfg.clone().defrost()
    cfg.OUTPUT_DIR = folder
    if trains and not args.auto_version:
        _lock_folder(cfg.OUTPUT_DIR, job)
        if not args.resume:
            _check_starts_anew(cfg.OUTPUT_DIR)
    if cfg.SEED < 0:
        cfg.SEED = _choose_seed(cfg.OUTPUT_DIR, args.resume, job)
    _make_folder(cfg.OUTPUT_DIR)
    with _logging_apart(cfg.OUTPUT_DIR, job) if job and not _is_io_rank(cfg, job) else _showing_what_matters():
        default_setup(cfg.freeze(), _with_config_found(args), save_cfg=False)
        setup_logger(cfg.OUTPUT_DIR, name="meddlr_greedy")
    if trains and args.auto_version:
        _lock_folder(cfg.OUTPUT_DIR, job)  # the numbered folder, which is known only now
    log_causes(os.path.join(cfg.OUTPUT_DIR, LOG_FILE))
    return cfg


def _check_command_line(args: Any, trains: bool, job: Optional[Job]) -> None:
    if args.num_gpus != 1 and not trains:
        raise UserError(f"--num-gpus: found {args.num_gpus}, allowed is 1 (evaluation uses one device)")
    if job is not None and args.auto_version:
        raise UserError("--auto-version: not allowed with several processes; give OUTPUT_DIR")
    if args.devices:
        raise UserError(f"--devices: found {args.devices}, not used here; set MODEL.DEVICE cuda:N")


def _with_config_found(args: Any) -> argparse.Namespace:
    """The arguments with the path of the config file, which meddlr opens to log it."""
    found = {"config_file": find_config(args.config_file)} if args.config_file else {}
    return argparse.Namespace(**{**vars(args), **found})


def _choose_device_of_process(cfg: CfgNode, job: Job) -> None:
    """Gives each process of a machine one of its GPUs, in turn."""
    if cfg.MODEL.DEVICE == "cuda":
        torch.cuda.set_device(job.local_rank % torch.cuda.device_count())
    elif cfg.MODEL.DEVICE != "cpu":
        raise UserError(
            f"MODEL.DEVICE: found '{cfg.MODEL.DEVICE}', with several processes 'cuda' (each takes the next GPU) and"
            " 'cpu' are allowed"
        )


def _prepare_torch(cfg: CfgNode) -> None:
    # Unless this is set, meddlr searches for free GPUs, and stops where it finds none.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
    keep_freed_memory()
    if not cfg.MISC.GREEDY.RUN.TF32:  # else torch's choice stays, which is to use it
        torch.backends.cudnn.allow_tf32 = False
    use_threads(cfg)


def use_threads(cfg: CfgNode) -> None:
    """Gives torch ``RUN.THREADS`` threads in this process; 0 leaves it its choice."""
    if cfg.MISC.GREEDY.RUN.THREADS:
        torch.set_num_threads(cfg.MISC.GREEDY.RUN.THREADS)


def _check_starts_anew(output_dir: str) -> None:
    tag = os.path.join(output_dir, LAST_CHECKPOINT)
    if os.path.lexists(tag) or GreedyCheckpointer(torch.nn.Module(), output_dir).has_checkpoint():
        raise UserError(
            f"OUTPUT_DIR: {output_dir} holds the checkpoints of an earlier run; continue it with --resume, or give"
            " another folder"
        )


def _make_folder(output_dir: str) -> None:
    with writing(output_dir, "OUTPUT_DIR"):
        os.makedirs(output_dir, exist_ok=True)


def _lock_folder(output_dir: str, job: Optional[Job]) -> None:
    """Locks the folder of the run until the command ends, once for all processes of a job."""
    if job is None or job.rank == 0:
        lock_until_end(output_dir, "OUTPUT_DIR")
    if job is not None:
        job.agree("locked", "yes")  # the others write nothing before


def _choose_seed(output_dir: str, resume: bool, job: Optional[Job]) -> int:
    """The seed of the earlier run where one is resumed, else a new one; the same in all processes."""
    seed = _seed_of_earlier_run(output_dir) if resume else _new_seed()
    return seed if job is None else int(job.agree("seed", str(seed)))


def _new_seed() -> int:
    return int.from_bytes(os.urandom(4), "big") // 2


def _seed_of_earlier_run(output_dir: str) -> int:
    path = os.path.join(output_dir, CONFIG_FILE)
    if not os.path.isfile(path):
        return _new_seed()
    seed = read_yaml(path).get("SEED", -1)
    return seed if isinstance(seed, int) and seed >= 0 else _new_seed()


def _is_io_rank(cfg: CfgNode, job: Job) -> bool:
    """Whether this process writes the files and the log: the last of the first chain (see ``parallel.place``)."""
    return job.rank == job.world_size // cfg.MISC.GREEDY.PARALLEL.REPLICAS - 1


@contextlib.contextmanager
def _showing_what_matters() -> Iterator[None]:
    """Loggers set up inside the block write to the log alone; what is shown of them is chosen here.

    meddlr's console gets all that its log gets: the build of torch, the whole config, several lines of each data set.
    """
    console = io.StringIO()
    with contextlib.redirect_stdout(console):  # which the loggers take for the console
        yield
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler for handler in logger.handlers if getattr(handler, "stream", None) is not console]
    show_messages(["meddlr_greedy"], logging.INFO)
    show_messages(["meddlr", "fvcore"], logging.WARNING)


@contextlib.contextmanager
def _logging_apart(output_dir: str, job: Job) -> Iterator[None]:
    """For the processes other than the I/O rank: loggers set up inside the block write to a file of this process.

    One console is enough, so nothing is shown there.
    """
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        file = logging.FileHandler(os.path.join(output_dir, f"log.rank{job.rank}.txt"))
        file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s"))
        for name in _LOGGERS:
            logging.getLogger(name).handlers[:] = [file]


def save_config(cfg: CfgNode) -> None:
    """Writes ``config.yaml``, with which the run can be repeated, to the output folder."""
    with written_atomically(os.path.join(cfg.OUTPUT_DIR, CONFIG_FILE)) as partial:
        partial.write_text(cfg.dump())
