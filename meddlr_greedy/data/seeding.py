"""Randomness of the data: every random choice for an example is a function of (seed, epoch, example).

meddlr's transforms and mask functions own generators that advance with every example a process reads, so
what an example gets depends on the worker that reads it and on everything read before. Here the generators
are set anew for each example, from a hash of (seed, epoch, example).
"""

import contextlib
import hashlib
import random
from typing import Iterator, Optional, Sequence

import numpy as np
import torch
from meddlr.data.transforms.subsample import MaskFunc
from meddlr.data.transforms.transform import DataTransform
from meddlr.transforms.build import seed_tfm_gens

__all__ = [
    "EVAL_EPOCH",
    "SeededMaskFunc",
    "example_name",
    "example_seed",
    "isolated_generators",
    "seed_transform",
]

#: The epoch of validation and test data, and of scans with a fixed mask. Training epochs count from 0.
EVAL_EPOCH = -1


def example_name(scan: str, slice_id: int) -> str:
    """Returns the name of an example of a scan, whose name must be the same on every machine."""
    return f"{scan}-{slice_id}"


def example_seed(seed: int, epoch: int, example: str) -> int:
    """Returns a 32-bit seed, the same in every process and Python version (unlike ``hash``).

    Args:
        seed: The seed of the run.
        epoch: The pass over the data, from 0, or :data:`EVAL_EPOCH`.
        example: See :func:`example_name`.

    Returns:
        int: In ``1 ... 2**32 - 1``; never 0, which meddlr's Poisson disk masks take for "unseeded".
    """
    key = f"{seed}/{epoch}/{example}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big") or 1


class SeededMaskFunc(MaskFunc):
    """A mask function whose next masks are decided by :meth:`reseed`.

    meddlr's mask functions draw from a generator of their own, from torch's, or inside compiled code, if
    they are called without a seed, as they are in training. This one always hands them a seed; a seed
    given by the caller (meddlr's fixed test masks) goes first.
    """

    def __init__(self, mask_func: MaskFunc):
        super().__init__(mask_func.accelerations)
        self.mask_func = mask_func
        self._seed: Optional[int] = None

    def reseed(self, seed: int) -> None:
        """Decides the masks drawn from now on, until the next call."""
        # meddlr draws the acceleration from `rng` even if it is given a seed for the lines. The seed for the
        # lines is drawn from it too, since two generators of one seed would make lines follow the acceleration.
        self.mask_func.rng = np.random.RandomState(seed)
        self._seed = int(self.mask_func.rng.randint(1, 2**31 - 1))

    def __call__(
        self,
        shape: Sequence[int],
        seed: Optional[int] = None,
        acceleration: Optional[float] = None,
    ) -> torch.Tensor:
        """Draws a mask; see the mask function that this one is around."""
        return self.mask_func(shape, self._seed if seed is None else seed, acceleration)

    def get_edge_mask(self, kspace: torch.Tensor, out_shape: Optional[Sequence[int]] = None) -> torch.Tensor:
        """Returns that of the mask function that this one is around."""
        return self.mask_func.get_edge_mask(kspace, out_shape=out_shape)


def seed_transform(transform: DataTransform, seed: int) -> None:
    """Sets every generator that a meddlr transform owns.

    Args:
        transform: Its ``mask_func`` must be a :class:`SeededMaskFunc`.
        seed: See :func:`example_seed`.
    """
    mask, choice, noise, motion, augmentor = np.random.SeedSequence(seed).generate_state(5).tolist()
    transform.mask_func.reseed(mask)
    transform.rng = np.random.RandomState(choice)
    transform.noiser.generator.manual_seed(noise)
    transform.motion_simulator.generator.manual_seed(motion)
    if transform.augmentor is not None:
        seed_tfm_gens(transform.augmentor.tfms_or_gens, augmentor)


@contextlib.contextmanager
def isolated_generators(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python, numpy and torch (CPU), and puts them back at the end.

    Some of meddlr's augmentations draw from them. What happens outside (dropout, say) is not disturbed.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        # Not torch.manual_seed, which also reseeds every accelerator.
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
