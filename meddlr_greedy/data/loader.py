"""Examples -> batches, in an order and with random choices that do not depend on who reads them.

:mod:`meddlr_greedy.data.build` puts the parts together.
"""

import contextlib
import functools
import os
import signal
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Union

import torch
from torch.utils.data import DataLoader, Dataset

from meddlr_greedy.data.dataset import CheckedSliceData, CineSliceData
from meddlr_greedy.data.sampler import Key
from meddlr_greedy.data.seeding import (
    EVAL_EPOCH,
    example_name,
    example_seed,
    isolated_generators,
    seed_transform,
)
from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.axes import CINE_AXES

__all__ = ["ExampleLoader", "SeededDataset"]


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
        # A scan that stands for a prospectively undersampled one has a fixed mask. The lines for the loss are drawn
        # anew in every epoch all the same.
        seed = example_seed(self.seed, EVAL_EPOCH if example["is_unsupervised"] else epoch, name)
        with _single_thread(), isolated_generators(seed):
            seed_transform(transform, seed)
            if isinstance(self.dataset, CineSliceData):
                lines_seed = example_seed(self.seed, epoch, f"{name}, lines for the loss")
                return self.dataset.read_example(index, lines_seed)
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
        batch_sampler: The examples of each batch.
    """

    def __init__(self, dataset: SeededDataset, cfg, collate_fn: Callable, batch_sampler: Iterable[List[Key]]):
        num_workers = cfg.DATALOADER.NUM_WORKERS
        super().__init__(
            dataset,
            num_workers=num_workers,
            prefetch_factor=cfg.DATALOADER.PREFETCH_FACTOR if num_workers else None,
            pin_memory=str(cfg.MODEL.DEVICE).startswith("cuda"),
            collate_fn=functools.partial(_collate, collate_fn),
            generator=torch.Generator().manual_seed(dataset.seed),
            worker_init_fn=_leave_signals_to_the_trainer,
            batch_sampler=batch_sampler,
        )

    def __iter__(self):
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def _leave_signals_to_the_trainer(_: int) -> None:
    """Schedulers and Ctrl-C signal the whole process group; a worker that died of it would take the trainer with it.

    So a worker forms a group of its own. SIGTERM to the worker itself still ends it: torch relies on that.
    """
    os.setpgrp()
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _collate(collate_fn: Callable, examples: List[Any]) -> Any:
    for example in examples:
        if isinstance(example, UserError):
            return example
    batch = collate_fn(examples)
    mask = batch.get("mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == CINE_AXES:
        # Here it costs a look at memory; on a GPU the host would have to wait for all that is computed there.
        batch["constant_along_readout"] = bool((mask == mask[:, :1]).all())
    return batch


@contextlib.contextmanager
def _single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
