"""A k-t mask, ``AUG_TRAIN.UNDERSAMPLE.NAME: ShuffledKtMaskFunc``."""

import numpy as np
from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY

from meddlr_greedy.data.kt_mask import KtMaskFunc


@MASK_FUNC_REGISTRY.register()
class ShuffledKtMaskFunc(KtMaskFunc):
    """Lines outside the center, all equally likely, drawn anew for every cardiac phase."""

    def sample_outer(self, outer, num_outer, dc, rng):
        """Chooses ``num_outer`` (T,) of the lines ``outer`` (L,); True where sampled, (L, T)."""
        sampled = np.zeros((len(outer), len(num_outer)), dtype=bool)
        for frame, count in enumerate(num_outer):
            sampled[rng.permutation(len(outer))[:count], frame] = True
        return sampled
