"""Which examples are in which batch: a function of the seed and the iteration."""

from typing import Iterator, List, Tuple

import numpy as np
from torch.utils.data import Sampler

from meddlr_greedy.data.seeding import example_seed
from meddlr_greedy.errors import UserError

__all__ = ["ResumableBatchSampler", "check_minimum"]


#: An example to read: (epoch, index in the data set).
Key = Tuple[int, int]


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
        check_minimum("SOLVER.TRAIN_BATCH_SIZE", batch_size, 1)
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


def check_minimum(key: str, value: int, minimum: int) -> None:
    """Raises a UserError about a config key unless its value is an integer of at least ``minimum``."""
    if not isinstance(value, int) or value < minimum:
        raise UserError(f"{key}: {value!r} is not allowed; give {minimum} or more")
