"""Loaders of training and validation batches, built from the config."""

import functools
import logging
from typing import Any, Dict, List, Optional, Tuple

from meddlr.data.build import build_recon_train_loader, build_recon_val_loader
from meddlr.data.collate import default_collate
from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY, build_mask_func
from meddlr.data.transforms.transform import DataTransform

from meddlr_greedy.config.schema import CineConfig, GreedyConfig, schema_keys, value_of
from meddlr_greedy.data.catalog import check_dataset_names
from meddlr_greedy.data.dataset import CheckedSliceData, CineSliceData
from meddlr_greedy.data.loader import ExampleLoader, SeededDataset
from meddlr_greedy.data.masks import time_average_coverage
from meddlr_greedy.data.sampler import ResumableBatchSampler, check_minimum
from meddlr_greedy.data.scan_file import CINE_AXES, check_scan_file
from meddlr_greedy.data.seeding import EVAL_EPOCH, SeededMaskFunc
from meddlr_greedy.data.transform import CineDataTransform
from meddlr_greedy.errors import UserError, did_you_mean

__all__ = ["build_train_loader", "build_val_loader"]


# meddlr's; it checks by an assertion.
_POSTPROCESSORS = ("", "hard_dc_edge", "hard_dc_all")


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
    collate_fn = default_collate if GreedyConfig.from_cfg(cfg).CINE.LOSS_LINES else stock.collate_fn
    return ExampleLoader(SeededDataset(stock.dataset, seed), cfg, collate_fn, batch_sampler=sampler)


def build_val_loader(cfg, dataset_name: str, as_test: bool = True, hold_out: bool = False) -> ExampleLoader:
    """Builds the loader of validation or test batches: in order, and the same each time.

    Args:
        cfg: meddlr's config. 2D or cine is told by the data.
        dataset_name: The data set.
        as_test: Uses meddlr's test masks in 2D, so that numbers compare with meddlr's (for cine: masks by
            (cfg.SEED, scan, slice)), and the postprocessor.
        hold_out: Holds out ``MISC.GREEDY.CINE.LOSS_LINES`` of the acquired lines, the same each time, and gives no
            targets; for a loss on scans without.

    Returns:
        ExampleLoader: Batches also hold "metadata", a list of {"scan_id", "slice_id"}.

    Raises:
        UserError: See :func:`build_train_loader`.
    """
    check_dataset_names([dataset_name])
    check_minimum("SOLVER.TEST_BATCH_SIZE", cfg.SOLVER.TEST_BATCH_SIZE, 1)
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
    check_minimum("DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS, 0)
    if cfg.DATALOADER.NUM_WORKERS:
        check_minimum("DATALOADER.PREFETCH_FACTOR", cfg.DATALOADER.PREFETCH_FACTOR, 1)
    _check_postprocessor(cfg)
    _check_mask_func(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    # With 0 of either, meddlr's validation loader cannot be built.
    cfg.DATALOADER.NUM_WORKERS = cfg.DATALOADER.PREFETCH_FACTOR = 1
    cfg.DATALOADER.SAMPLER_TRAIN = ""
    cfg.SOLVER.TRAIN_BATCH_SIZE = cfg.SOLVER.TEST_BATCH_SIZE = 1
    return cfg


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
        if hold_out and greedy.CINE.LOSS_LINES:
            for contents in dataset.contents.values():
                contents.discard("target")  # is not read: nothing shall depend on it
        return dataset
    for key in schema_keys(CineConfig, "CINE."):
        value = value_of(greedy, key)
        if value != key.default:
            raise UserError(
                f"{key.full_name}: found {value}, but the data are 2D, not cine; allowed is {key.default} (the default)"
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
