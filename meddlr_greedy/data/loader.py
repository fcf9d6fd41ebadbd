"""Examples -> batches, in an order and with random choices that do not depend on who reads them.

Data sets, filters, mask functions, transforms and collation are meddlr's, obtained from its own builders.
What differs is told by :func:`build_train_loader` and :func:`build_val_loader`.
"""

import contextlib
import functools
import logging
import os
import signal
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from meddlr.data.build import build_recon_train_loader, build_recon_val_loader
from meddlr.data.collate import default_collate
from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY, build_mask_func
from meddlr.data.transforms.transform import DataTransform
from torch.utils.data import DataLoader, Dataset, Sampler

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.data.dataset import (
    CINE_AXES,
    CheckedSliceData,
    CineSliceData,
    check_scan_file,
)
from meddlr_greedy.data.datasets import check_dataset_names
from meddlr_greedy.data.masks import time_average_coverage
from meddlr_greedy.data.seeding import (
    EVAL_EPOCH,
    SeededMaskFunc,
    example_name,
    example_seed,
    isolated_generators,
    seed_transform,
)
from meddlr_greedy.data.transform import CineDataTransform
from meddlr_greedy.errors import UserError, did_you_mean

__all__ = [
    "ExampleLoader",
    "ResumableBatchSampler",
    "SeededDataset",
    "build_train_loader",
    "build_val_loader",
]

#: An example to read: (epoch, index in the data set).
Key = Tuple[int, int]

# meddlr's; it checks by an assertion.
_POSTPROCESSORS = ("", "hard_dc_edge", "hard_dc_all")


class ResumableBatchSampler(Sampler[List[Key]]):
    """Endless batches of shuffled examples; batch t is a function of (seed, t) alone.

    Args:
        num_examples: Number of examples of the data set.
        batch_size: Examples in a batch.
        drop_last: Leaves out the last, smaller batch of an epoch.
        seed: The seed of the run.
        share: (i, n): yields the i-th of n equal shares of every batch.
        start_iter: The first batch to yield. May also be set later, before iteration starts: a run resumed
            at iteration t gets batches t, t + 1, ...

    Raises:
        UserError: There is not one batch in an epoch.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        drop_last: bool,
        seed: int,
        share: Tuple[int, int] = (0, 1),
        start_iter: int = 0,
    ):
        _check_minimum("SOLVER.TRAIN_BATCH_SIZE", batch_size, 1)
        full, rest = divmod(num_examples, batch_size)
        self.batches_per_epoch = full if drop_last or not rest else full + 1
        if not self.batches_per_epoch:
            raise UserError(
                f"SOLVER.TRAIN_BATCH_SIZE: {batch_size} is more than the {num_examples} training examples; "
                "give fewer, or set DATALOADER.DROP_LAST to False"
            )
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.share = share
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[List[Key]]:
        epoch, batch = divmod(self.start_iter, self.batches_per_epoch)
        while True:
            order = self._order(epoch)
            for first in range(batch * self.batch_size, self.batches_per_epoch * self.batch_size, self.batch_size):
                examples = order[first : first + self.batch_size]
                i, n = self.share
                own = examples[i * len(examples) // n : (i + 1) * len(examples) // n]
                yield [(epoch, index) for index in own]
            epoch, batch = epoch + 1, 0

    def _order(self, epoch: int) -> List[int]:
        seed = example_seed(self.seed, epoch, "order of examples")
        return np.random.RandomState(seed).permutation(self.num_examples).tolist()


class SeededDataset(Dataset):
    """A data set whose example is a function of (seed, epoch, example) alone.

    Examples are read on one thread, as a worker of a ``DataLoader`` does: sums over several threads round
    differently, so batches would depend on the number of workers.

    Args:
        dataset: A data set with a ``DataTransform`` around a :class:`SeededMaskFunc`.
        seed: The seed of the run.
    """

    def __init__(self, dataset: CheckedSliceData, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Dict[str, Any]:
        epoch, index = key
        example, transform = self.dataset.examples[index], self.dataset.transform
        name = example_name(self.dataset.scan_names[example["file_name"]], example["slice_id"])
        if isinstance(transform, CineDataTransform):
            transform.loss_lines_seed = example_seed(self.seed, epoch, f"{name}, lines for the loss")
        if example["is_unsupervised"]:  # stands for a prospectively undersampled scan: its mask is fixed
            epoch = EVAL_EPOCH
        seed = example_seed(self.seed, epoch, name)
        with _single_thread(), isolated_generators(seed):
            seed_transform(transform, seed)
            return self.dataset[index]

    def __getitems__(self, keys: Sequence[Key]) -> List[Union[Dict[str, Any], UserError]]:
        """Reads a batch; a user's mistake is handed on as a value, see :class:`ExampleLoader`."""
        try:
            return [self[key] for key in keys]
        except UserError as error:
            return [error]


class ExampleLoader(DataLoader):
    """A ``DataLoader`` over a :class:`SeededDataset`, with faults of meddlr's loaders repaired.

    It works without workers, pins memory only for a CUDA device, and draws nothing from the global
    generator. A :class:`UserError` met by a worker is raised here as the one line it is; torch would make it
    the text of a traceback.

    Args:
        dataset: The data set.
        cfg: meddlr's config.
        collate_fn: Makes a batch of a list of examples.
        **kwargs: ``batch_sampler``, or ``sampler`` and ``batch_size``.
    """

    def __init__(self, dataset: SeededDataset, cfg, collate_fn: Callable, **kwargs):
        num_workers = cfg.DATALOADER.NUM_WORKERS
        super().__init__(
            dataset,
            num_workers=num_workers,
            prefetch_factor=cfg.DATALOADER.PREFETCH_FACTOR if num_workers else None,
            pin_memory=str(cfg.MODEL.DEVICE).startswith("cuda"),
            collate_fn=functools.partial(_collate, collate_fn),
            generator=torch.Generator().manual_seed(dataset.seed),
            worker_init_fn=_leave_signals_to_the_trainer,
            **kwargs,
        )

    def __iter__(self):
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def build_train_loader(cfg, seed: int, share: Tuple[int, int] = (0, 1)) -> ExampleLoader:
    """Builds the endless loader of training batches.

    Args:
        cfg: meddlr's config. 2D or cine is told by the data.
        seed: Together with the iteration it decides everything random.
        share: (i, n): loads the i-th of n equal shares of every batch.

    Returns:
        ExampleLoader: ``batch_sampler`` is a :class:`ResumableBatchSampler`.

    Raises:
        UserError: The config asks for what is not possible, or a file cannot be used.
    """
    if cfg.DATALOADER.SAMPLER_TRAIN:
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN: '{cfg.DATALOADER.SAMPLER_TRAIN}' is not allowed, since meddlr's "
            'samplers do not work with the current torch; only "" is'
        )
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN: () is not allowed; name at least one data set")
    check_dataset_names(cfg.DATASETS.TRAIN)
    build_dataset = functools.partial(
        _build_dataset,
        cfg,
        is_test=False,
        add_noise=cfg.AUG_TRAIN.USE_NOISE,
        add_motion=cfg.AUG_TRAIN.USE_MOTION,
        augment=True,
        hold_out=True,
    )
    stock = build_recon_train_loader(_stock_cfg(cfg), dataset_type=build_dataset)
    _check_schedules(cfg, stock.dataset.transform)
    sampler = ResumableBatchSampler(
        len(stock.dataset), cfg.SOLVER.TRAIN_BATCH_SIZE, cfg.DATALOADER.DROP_LAST, seed, share
    )
    _check_shapes("SOLVER.TRAIN_BATCH_SIZE", sampler.batch_size, stock.dataset)
    _log_coverage(stock.dataset)
    # Of scans marked as undersampled meddlr makes batches for models that treat them in another way than the others;
    # where none has a target, all are alike.
    collate_fn = default_collate if GreedyConfig.from_cfg(cfg).LOSS_LINES else stock.collate_fn
    return ExampleLoader(SeededDataset(stock.dataset, seed), cfg, collate_fn, batch_sampler=sampler)


def build_val_loader(cfg, dataset_name: str, as_test: bool = True, hold_out: bool = False) -> ExampleLoader:
    """Builds the loader of validation or test batches: in order, and the same each time.

    Args:
        cfg: meddlr's config. 2D or cine is told by the data.
        dataset_name: The data set.
        as_test: Uses meddlr's test masks in 2D, so that numbers compare with meddlr's (for cine: masks by
            (cfg.SEED, scan, slice)), and the postprocessor.
        hold_out: Holds out ``MISC.GREEDY.LOSS_LINES`` of the acquired lines, the same each time, and gives no targets;
            for a loss on scans without.

    Returns:
        ExampleLoader: Batches also hold "metadata", a list of {"scan_id", "slice_id"}.

    Raises:
        UserError: See :func:`build_train_loader`.
    """
    check_dataset_names([dataset_name])
    _check_minimum("SOLVER.TEST_BATCH_SIZE", cfg.SOLVER.TEST_BATCH_SIZE, 1)
    stock = build_recon_val_loader(
        _stock_cfg(cfg),
        dataset_name,
        as_test=as_test,
        dataset_type=functools.partial(_build_dataset, cfg, is_test=as_test, hold_out=hold_out),
    )
    _check_shapes("SOLVER.TEST_BATCH_SIZE", cfg.SOLVER.TEST_BATCH_SIZE, stock.dataset)
    dataset = SeededDataset(stock.dataset, max(cfg.SEED, 0))
    return ExampleLoader(
        dataset,
        cfg,
        stock.collate_fn,
        sampler=[(EVAL_EPOCH, index) for index in range(len(dataset))],
        batch_size=cfg.SOLVER.TEST_BATCH_SIZE,
    )


def _stock_cfg(cfg):
    """Returns a config with which meddlr's builders work; of what they build, the loader is not used."""
    _check_minimum("DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS, 0)
    if cfg.DATALOADER.NUM_WORKERS:
        _check_minimum("DATALOADER.PREFETCH_FACTOR", cfg.DATALOADER.PREFETCH_FACTOR, 1)
    _check_postprocessor(cfg)
    _check_mask_func(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    # With 0 of either, meddlr's validation loader cannot be built.
    cfg.DATALOADER.NUM_WORKERS = cfg.DATALOADER.PREFETCH_FACTOR = 1
    cfg.DATALOADER.SAMPLER_TRAIN = ""
    cfg.SOLVER.TRAIN_BATCH_SIZE = cfg.SOLVER.TEST_BATCH_SIZE = 1
    return cfg


def _check_minimum(key: str, value: int, minimum: int) -> None:
    if not isinstance(value, int) or value < minimum:
        raise UserError(f"{key}: {value!r} is not allowed; give {minimum} or more")


def _check_postprocessor(cfg) -> None:
    name = cfg.TEST.POSTPROCESSOR.NAME
    if name not in _POSTPROCESSORS:
        raise UserError(
            f"TEST.POSTPROCESSOR.NAME: no postprocessor {name!r}; allowed are "
            f"{', '.join(map(repr, _POSTPROCESSORS))}" + did_you_mean(name, _POSTPROCESSORS)
        )


def _check_mask_func(cfg) -> None:
    name = cfg.AUG_TRAIN.UNDERSAMPLE.NAME
    if name not in MASK_FUNC_REGISTRY:
        allowed = [registered for registered, _ in MASK_FUNC_REGISTRY]
        raise UserError(
            f"AUG_TRAIN.UNDERSAMPLE.NAME: no mask function '{name}'; allowed are {', '.join(allowed)}"
            + did_you_mean(name, allowed)
        )
    try:
        build_mask_func(cfg.AUG_TRAIN)
    except UserError:
        raise
    except (ValueError, AssertionError) as error:
        raise UserError(f"AUG_TRAIN.UNDERSAMPLE: not allowed for {name}: {error}") from error


def _build_dataset(
    cfg,
    dataset_dicts: List[Dict[str, Any]],
    stock_transform: DataTransform,
    keys: Optional[Dict[str, str]] = None,
    include_metadata: bool = False,
    augment: bool = False,
    hold_out: bool = False,
    **transform_options: bool,
) -> CheckedSliceData:
    """Called by meddlr's builders in place of a data set class."""
    if not dataset_dicts:
        raise UserError("DATASETS: no scans are left after DATALOADER.FILTER and SUBSAMPLE_TRAIN")
    is_cine = len(check_scan_file(dataset_dicts[0]["file_name"], keys or None)) == CINE_AXES
    mask_func = SeededMaskFunc(stock_transform.mask_func)
    greedy = GreedyConfig.from_cfg(cfg)
    if is_cine:
        transform = CineDataTransform(cfg, mask_func, augment=augment, hold_out=hold_out, **transform_options)
        dataset = CineSliceData(dataset_dicts, transform, keys or None, include_metadata)
        if hold_out and greedy.LOSS_LINES:
            for contents in dataset.contents.values():
                contents.discard("target")  # is not read: nothing shall depend on it
        return dataset
    for key in ("PARTIAL_ECHO", "READOUT_CROP", "FLIP_PROBABILITY", "LOSS_LINES"):
        if getattr(greedy, key):
            raise UserError(
                f"MISC.GREEDY.{key}: found {getattr(greedy, key)}, but the data are 2D, not cine; allowed is 0"
            )
    transform = DataTransform(cfg, mask_func, **transform_options)
    return CheckedSliceData(dataset_dicts, transform, keys or None, include_metadata)


def _log_coverage(dataset: CheckedSliceData) -> None:
    """Tells how far the time average of a drawn k-t mask covers k-space."""
    drawn = [path for path, contents in dataset.contents.items() if "mask" not in contents]
    if not isinstance(dataset, CineSliceData) or not drawn:
        return
    height, num_lines, num_frames, _ = dataset.example_shapes[drawn[0]]
    mask = dataset.transform.mask_func((1, height, num_lines, num_frames, 1), seed=0)
    logging.getLogger(__name__).info(f"k-t sampling: {time_average_coverage(mask)} (in one draw, {num_frames} frames)")


def _check_schedules(cfg, transform: DataTransform) -> None:
    """Augmentations with a warm-up ask for the iteration, which a worker does not know."""
    augmentation = cfg.MODEL.CONSISTENCY.AUG
    scheduled = (
        (transform.add_noise and augmentation.NOISE.SCHEDULER.WARMUP_METHOD)
        or (transform.add_motion and augmentation.MOTION.SCHEDULER.WARMUP_METHOD)
        or (transform.augmentor is not None and transform.augmentor.schedulers())
    )
    if scheduled and cfg.DATALOADER.NUM_WORKERS:
        raise UserError(
            f"DATALOADER.NUM_WORKERS: {cfg.DATALOADER.NUM_WORKERS} is not allowed with augmentations that "
            "have a scheduler, since workers do not know the iteration; only 0 is"
        )


def _check_shapes(key: str, batch_size: int, dataset: CheckedSliceData) -> None:
    (path, shape), *others = dataset.example_shapes.items()
    for other_path, other in others:
        if batch_size > 1 and other != shape:
            raise UserError(
                f"{key}: {batch_size} examples cannot be one batch, since shapes differ: {shape} in {path}, "
                f"{other} in {other_path}; 1 is allowed"
            )
        if batch_size > 1 and ("target" in dataset.contents[path]) != ("target" in dataset.contents[other_path]):
            raise UserError(
                f"{key}: {batch_size} examples cannot be one batch, since of {path} and {other_path} one alone has a "
                "target; 1 is allowed"
            )


def _leave_signals_to_the_trainer(worker_id: int) -> None:
    """Schedulers and Ctrl-C signal the whole process group; a worker that died of it would take the trainer with it.

    So a worker forms a group of its own. SIGTERM to the worker itself still ends it: torch relies on that.
    """
    os.setpgrp()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _collate(collate_fn: Callable, examples: List[Any]) -> Any:
    for example in examples:
        if isinstance(example, UserError):
            return example
    return collate_fn(examples)


@contextlib.contextmanager
def _single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
