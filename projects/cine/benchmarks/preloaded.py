"""Trainers that read one batch only, so that a benchmark times the training and not the loader."""

from typing import Any, Dict, Iterator

from meddlr.config import CfgNode

from meddlr_greedy.data.loader import ExampleLoader
from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.parallel.trainer import ParallelGreedyTrainer
from meddlr_greedy.registry import TRAINER_REGISTRY

__all__ = ["PreloadedGreedyTrainer", "PreloadedParallelGreedyTrainer", "RepeatedBatch"]


class RepeatedBatch:
    """Stands for a loader: gives its first batch again and again.

    Args:
        loader: The loader that stands behind it.
    """

    def __init__(self, loader: ExampleLoader):
        self.loader = loader
        self.dataset = loader.dataset
        self.batch_sampler = loader.batch_sampler

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        batch = next(iter(self.loader))
        while True:
            yield dict(batch)


@TRAINER_REGISTRY.register()
class PreloadedGreedyTrainer(GreedyTrainer):
    """:class:`GreedyTrainer` on one batch."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> RepeatedBatch:
        """The first batch of the trainer's loader, again and again."""
        return RepeatedBatch(super().build_train_loader(cfg))


@TRAINER_REGISTRY.register()
class PreloadedParallelGreedyTrainer(ParallelGreedyTrainer):
    """:class:`ParallelGreedyTrainer` on one batch."""

    for_several_processes = True

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> RepeatedBatch:
        """The first batch of this process's loader, again and again."""
        return RepeatedBatch(super().build_train_loader(cfg))
