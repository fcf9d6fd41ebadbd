"""Loaders of training and validation batches, built from the config.

Data sets, filters, mask functions, 2D transforms and collation are meddlr's, obtained from its own builders; the loader
around them is :class:`~meddlr_greedy.data.loader.ExampleLoader`.
"""

import functools
import logging
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Tuple

from meddlr.data.build import build_recon_train_loader, build_recon_val_loader
from meddlr.data.collate import default_collate
from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY, build_mask_func
from meddlr.data.transforms.transform import DataTransform

from meddlr_greedy.config.schema import CineConfig, GreedyConfig, changed_keys
from meddlr_greedy.data.catalog import check_dataset_names
from meddlr_greedy.data.coverage import time_average_coverage
from meddlr_greedy.data.dataset import CheckedSliceData, CineSliceData, ExampleKind
from meddlr_greedy.data.loader import ExampleLoader, SeededDataset
from meddlr_greedy.data.poisson import checked_mask_func
from meddlr_greedy.data.sampler import ResumableBatchSampler, batches_in_order, check_minimum
from meddlr_greedy.data.scan_file import read_header
from meddlr_greedy.data.seeding import EVAL_EPOCH, SeededMaskFunc
from meddlr_greedy.data.transform import CineDataTransform
from meddlr_greedy.data.tried_masks import try_masks
from meddlr_greedy.errors import UserError, did_you_mean, naming

__all__ = ["build_train_loader", "build_val_loader"]


# What meddlr's builders act on.
_KEYS_OF_DATA = "DATASETS, DATALOADER, AUG_TRAIN or MODEL.NORMALIZER"

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
    _check_train_config(cfg)
    build_dataset = functools.partial(
        _build_dataset,
        cfg,
        is_test=False,
        add_noise=cfg.AUG_TRAIN.USE_NOISE,
        add_motion=cfg.AUG_TRAIN.USE_MOTION,
        augment=True,
        hold_out=True,
    )
    stock_cfg = _config_for_stock_builders(cfg)
    with naming(_KEYS_OF_DATA):
        stock = build_recon_train_loader(stock_cfg, dataset_type=build_dataset)
    _check_schedules(cfg, stock.dataset.transform)
    _try_masks(stock.dataset)
    kinds = stock.dataset.kinds
    sampler = ResumableBatchSampler(kinds, cfg.SOLVER.TRAIN_BATCH_SIZE, cfg.DATALOADER.DROP_LAST, seed, share)
    _log_kinds(kinds, sampler)
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
    stock_cfg = _config_for_stock_builders(cfg)
    build_dataset = functools.partial(_build_dataset, cfg, is_test=as_test, hold_out=hold_out)
    with naming(_KEYS_OF_DATA):
        stock = build_recon_val_loader(stock_cfg, dataset_name, as_test=as_test, dataset_type=build_dataset)
    _try_masks(stock.dataset)
    batches = batches_in_order(stock.dataset.kinds, cfg.SOLVER.TEST_BATCH_SIZE)
    return ExampleLoader(
        SeededDataset(stock.dataset, max(cfg.SEED, 0)),
        cfg,
        stock.collate_fn,
        batch_sampler=[[(EVAL_EPOCH, index) for index in batch] for batch in batches],
    )


def _check_train_config(cfg) -> None:
    if cfg.DATALOADER.SAMPLER_TRAIN:
        raise UserError(
            f"DATALOADER.SAMPLER_TRAIN: '{cfg.DATALOADER.SAMPLER_TRAIN}' is not allowed, since meddlr's "
            'samplers do not work with the current torch; only "" is'
        )
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN: () is not allowed; name at least one data set")
    check_dataset_names(cfg.DATASETS.TRAIN)


def _config_for_stock_builders(cfg):
    """Checks the config, and returns one with which meddlr's builders work.

    They filter scans, build the mask function and call :func:`_build_dataset`. The loader that they build is not used.
    """
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
    with naming(f"AUG_TRAIN.UNDERSAMPLE: not allowed for {name}"):
        build_mask_func(cfg.AUG_TRAIN)


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
    """Called by meddlr's builders in place of a data set class; 2D or cine is told by the first file."""
    if not dataset_dicts:
        raise UserError("DATASETS: no scans are left after DATALOADER.FILTER and SUBSAMPLE_TRAIN")
    keys = keys or None
    mask_func = SeededMaskFunc(checked_mask_func(stock_transform.mask_func))
    if read_header(dataset_dicts[0]["file_name"], keys).is_cine:
        transform = CineDataTransform(cfg, mask_func, augment=augment, hold_out=hold_out, **transform_options)
        # Where lines are held out for the loss, nothing shall depend on a target.
        with_targets = not (hold_out and GreedyConfig.from_cfg(cfg).CINE.LOSS_LINES)
        return CineSliceData(dataset_dicts, transform, keys, include_metadata, with_targets)
    _check_no_cine_keys(cfg)
    return CheckedSliceData(dataset_dicts, DataTransform(cfg, mask_func, **transform_options), keys, include_metadata)


def _check_no_cine_keys(cfg) -> None:
    """Refuses the keys that act on cine alone."""
    greedy = GreedyConfig.from_cfg(cfg)
    for key, value in changed_keys(greedy, CineConfig, "CINE."):
        raise UserError(
            f"{key.full_name}: found {value}, but the data are 2D, not cine; allowed is {key.default} (the default)"
        )


def _log_kinds(kinds: Sequence[ExampleKind], sampler: ResumableBatchSampler) -> None:
    """Tells where examples cannot all be one batch."""
    counts = Counter(kinds)
    if len(counts) > 1 and sampler.batch_size > 1:
        found = "; ".join(f"{count} of {kind}" for kind, count in counts.most_common(3))
        more = f" and {len(counts) - 3} more" if len(counts) > 3 else ""
        logging.getLogger(__name__).info(
            f"Batches hold examples of one kind, and there are {len(counts)} kinds ({found}{more}):"
            f" {sampler.batches_per_epoch} batches in an epoch, {len(sampler.smaller)} of them smaller than"
            f" {sampler.batch_size}"
        )


def _try_masks(dataset: CheckedSliceData) -> None:
    """Draws a few of the masks that scans without one of their own get."""
    drawn = [shape for path, shape in dataset.example_shapes.items() if "mask" not in dataset.contents[path]]
    try_masks(dataset.transform.mask_func.mask_func, [(shape[0], shape[1]) for shape in drawn])


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
