"""What was evaluated or reconstructed, in words: the network, and how k-space was sampled."""

from typing import Any, List, Mapping, Sequence

import torch
from meddlr.config import CfgNode
from meddlr.evaluation import DatasetEvaluator

from meddlr_greedy.config.schema import is_greedy
from meddlr_greedy.evaluation.tables import LABELS

__all__ = ["FULLY_SAMPLED", "MaskReader", "acceleration", "label_of", "network_in_words", "sampling_in_words"]

#: What :func:`sampling_in_words` says of R = 1.
FULLY_SAMPLED = "fully sampled"


def label_of(cfg: CfgNode) -> str:
    """What the network of a config is called in tables: how it is trained."""
    if not is_greedy(cfg):
        return LABELS["reconstruction"]
    return "greedy" if _num_modules(cfg) > 1 else "backpropagation"


def network_in_words(cfg: CfgNode) -> str:
    """The network of a config, and how it is trained."""
    if not is_greedy(cfg):
        return cfg.MODEL.META_ARCHITECTURE
    name = cfg.MISC.GREEDY.META_ARCHITECTURE
    modules = _num_modules(cfg)
    if modules == 1:
        return f"{name} trained by backpropagation"
    return f"{name} trained greedily in {modules} modules"


def _num_modules(cfg: CfgNode) -> int:
    modules = cfg.MISC.GREEDY.NUM_MODULES
    return modules if isinstance(modules, int) else len(modules)


def acceleration(mask: torch.Tensor) -> float:
    """R of a mask: all points of k-space over those that are sampled.

    Args:
        mask: Shape (H, W, T, 1) of cine or (H, W, 1) of 2D; not zero where sampled. Of cine a line counts as a whole,
            so that a partial echo does not count, unless nothing else is missing.
    """
    sampled = mask[..., 0] != 0
    if sampled.ndim == 3 and not sampled.any(dim=0).all():
        sampled = sampled.any(dim=0)
    return sampled.numel() / max(int(sampled.sum()), 1)


def sampling_in_words(accelerations: Sequence[float]) -> str:
    """How k-space was sampled, by the R of each slice: "undersampled, R = 7.9 to 8.1", or "fully sampled"."""
    if max(accelerations) == 1:
        return FULLY_SAMPLED
    digits = 1 if max(accelerations) >= 1.1 else 3
    lowest, highest = (f"{found:.{digits}f}" for found in (min(accelerations), max(accelerations)))
    return f"undersampled, R = {lowest}" + (f" to {highest}" if lowest != highest else "")


class MaskReader(DatasetEvaluator):
    """Reads the masks of the batches of an evaluation, and tells how k-space was sampled.

    Args:
        cfg: meddlr's config, which names the mask function.
        num_own: Scans whose file holds a mask, which is used in place of a drawn one.
        num_scans: All scans.
    """

    def __init__(self, cfg: CfgNode, num_own: int, num_scans: int):
        self._cfg = cfg
        self._num_own, self._num_scans = num_own, num_scans
        self._is_cine = False
        self._accelerations: List[float] = []

    def process(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:  # noqa: ARG002 (meddlr's)
        """Takes the masks (B, H, W, [T,] 1) of a batch."""
        self._is_cine = inputs["mask"].ndim == 5
        self._accelerations += [acceleration(mask) for mask in inputs["mask"]]

    def __str__(self) -> str:
        """A sentence; that R is as found in the masks, and lines without signal do not count as sampled."""
        found = sampling_in_words(self._accelerations)
        if self._num_own == self._num_scans:
            return f"K-space is {found}, by the masks of the scans."
        undersample = self._cfg.AUG_TRAIN.UNDERSAMPLE
        asked = " to ".join(f"{asked:g}" for asked in undersample.ACCELERATIONS)
        # meddlr draws the test masks of 2D by the name of each scan, whatever the seed.
        seed = f"SEED {max(self._cfg.SEED, 0)}" if self._is_cine else "seeded by the names of the scans"
        drawn = f"by {undersample.NAME} (ACCELERATIONS {asked}, {seed})"
        own = f"; {self._num_own} of {self._num_scans} scans have masks of their own" if self._num_own else ""
        return f"K-space is {found}, {drawn}{own}."
