"""Which examples are in which batch: a function of the seed and the iteration."""

from collections import Counter
from typing import Dict, Hashable, Iterator, List, Sequence, Tuple

import numpy as np
from torch.utils.data import Sampler

from meddlr_greedy.data.seeding import example_seed
from meddlr_greedy.errors import UserError

__all__ = ["ResumableBatchSampler", "batches_in_order", "check_minimum"]


#: An example to read: (epoch, index in the data set).
Key = Tuple[int, int]


class ResumableBatchSampler(Sampler[List[Key]]):
    """Endless batches of shuffled examples; batch t is a function of (seed, t) alone.

    A batch holds examples of one kind. The shuffled examples of an epoch are dealt out to the kinds, and a batch comes
    when it is full; those that do not fill up come last. So with one kind, batches are cut from the shuffled examples.

    Args:
        kinds: What tells of each example of the data set with which others it can be one batch.
        batch_size: Examples in a batch.
        drop_last: Leaves out the smaller batches at the end of an epoch.
        seed: The seed of the run.
        share: (i, n): yields the i-th of n equal shares of every batch.
        start_iter: The first batch to yield. May also be set later, before iteration starts: a run resumed
            at iteration t gets batches t, t + 1, ...

    Attributes:
        batches_per_epoch: Their number, the same in every epoch.
        smaller: Numbers of examples in the batches that are smaller than the others; they end an epoch.

    Raises:
        UserError: Of a kind there is not one batch in an epoch.
    """

    def __init__(
        self,
        kinds: Sequence[Hashable],
        batch_size: int,
        drop_last: bool,
        seed: int,
        share: Tuple[int, int] = (0, 1),
        start_iter: int = 0,
    ):
        check_minimum("SOLVER.TRAIN_BATCH_SIZE", batch_size, 1)
        counts = Counter(kinds)
        if drop_last:
            _check_full_batches(counts, batch_size)
        rests = [count % batch_size for count in counts.values()]
        self.smaller = [] if drop_last else [rest for rest in rests if rest]
        self.batches_per_epoch = sum(count // batch_size for count in counts.values()) + len(self.smaller)
        self.kinds = list(kinds)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.seed = seed
        self.share = share
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[List[Key]]:
        epoch, first = divmod(self.start_iter, self.batches_per_epoch)
        while True:
            for examples in self._batches(epoch)[first:]:
                i, n = self.share
                own = examples[i * len(examples) // n : (i + 1) * len(examples) // n]
                yield [(epoch, index) for index in own]
            epoch, first = epoch + 1, 0

    def _batches(self, epoch: int) -> List[List[int]]:
        full: List[List[int]] = []
        filling: Dict[Hashable, List[int]] = {}
        for index in self._order(epoch):
            batch = filling.setdefault(self.kinds[index], [])
            batch.append(index)
            if len(batch) == self.batch_size:
                full.append(filling.pop(self.kinds[index]))
        return full if self.drop_last else [*full, *filling.values()]

    def _order(self, epoch: int) -> List[int]:
        seed = example_seed(self.seed, epoch, "order of examples")
        return np.random.RandomState(seed).permutation(len(self.kinds)).tolist()


def batches_in_order(kinds: Sequence[Hashable], batch_size: int) -> List[List[int]]:
    """All examples once, in their order: a batch ends where it is full, and where examples of another kind begin."""
    batches: List[List[int]] = []
    for index, kind in enumerate(kinds):
        if not batches or len(batches[-1]) == batch_size or kinds[batches[-1][0]] != kind:
            batches.append([])
        batches[-1].append(index)
    return batches


def check_minimum(key: str, value: int, minimum: int) -> None:
    """Raises a UserError about a config key unless its value is an integer of at least ``minimum``."""
    if not isinstance(value, int) or value < minimum:
        raise UserError(f"{key}: {value!r} is not allowed; give {minimum} or more")


def _check_full_batches(counts: Dict[Hashable, int], batch_size: int) -> None:
    for kind, count in counts.items():
        if count < batch_size:
            of_kind = f" of one kind ({kind}), which alone can be one batch" if len(counts) > 1 else ""
            raise UserError(
                f"SOLVER.TRAIN_BATCH_SIZE: {batch_size} is more than the {count} training examples{of_kind}; "
                "give fewer, or set DATALOADER.DROP_LAST to False"
            )
