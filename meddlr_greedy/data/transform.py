"""An example as it is on disk -> an example as the network takes it, for cine."""

from typing import Any, Dict, Optional

import numpy as np
import torch
from meddlr.data.transforms.subsample import MaskFunc
from meddlr.data.transforms.transform import DataTransform, Subsampler

from meddlr_greedy.data.masks import UniformKtMaskFunc, VariableDensityKtMaskFunc
from meddlr_greedy.data.seeding import EVAL_EPOCH, example_name, example_seed
from meddlr_greedy.errors import UserError

__all__ = ["CineDataTransform", "sampled_lines"]

# meddlr's mask functions that cannot make a mask of shape (1, H, W, T, 1).
_PLANE_MASKS = ("RandomMaskFunc", "PoissonDiskMaskFunc", "EquispacedMaskFunc1D", "EquispacedMaskFunc2D")


class CineDataTransform(DataTransform):
    """meddlr's ``DataTransform`` with one mask per cardiac phase.

    Masks and zero-fills, scales, and adds noise or motion if asked, as meddlr does in 2D. Differences:
    the mask is drawn for (H, W, T); "mask" in the output does not vary along the readout; a fixed mask
    (test data) is a function of (cfg.SEED, scan, slice), not of the scan alone.

    Args:
        cfg: meddlr's config.
        mask_func: Called with shape (1, H, W, T, 1).
        is_test: The mask is fixed, and ``TEST.POSTPROCESSOR`` applies.
        add_noise: See meddlr.
        add_motion: See meddlr; the phase errors are the same in all frames.

    Raises:
        UserError: The mask function or the augmentations asked for are for 2D only.
    """

    def __init__(
        self,
        cfg,
        mask_func: MaskFunc,
        is_test: bool = False,
        add_noise: bool = False,
        add_motion: bool = False,
    ):
        name = cfg.AUG_TRAIN.UNDERSAMPLE.NAME
        if name in _PLANE_MASKS:
            raise UserError(
                f"AUG_TRAIN.UNDERSAMPLE.NAME: {name} has no time axis; allowed for cine are "
                f"{VariableDensityKtMaskFunc.__name__}, {UniformKtMaskFunc.__name__} and RandomMaskFunc1D "
                "(the same lines in every frame)"
            )
        if cfg.AUG_TRAIN.MRI_RECON.TRANSFORMS and not is_test:
            raise UserError("AUG_TRAIN.MRI_RECON.TRANSFORMS: these augmentations are for 2D; () is allowed for cine")
        super().__init__(cfg, mask_func, is_test, add_noise, add_motion)
        self._subsampler = _KtSubsampler(mask_func)

    def __call__(
        self,
        kspace: np.ndarray,
        maps: np.ndarray,
        target: np.ndarray,
        fname: str,
        slice_id: int,
        is_fixed: bool,
        acceleration: Optional[float] = None,
    ) -> Dict[str, Any]:
        """Transforms one example; the arrays given are not changed.

        Args:
            kspace: Shape (H, W, T, C), complex64.
            maps: Shape (H, W, 1, C, M), complex64.
            target: Shape (H, W, T, M), complex64.
            fname: Name of the scan.
            slice_id: Number of the slice.
            is_fixed: The mask is the same in every epoch.
            acceleration: Needed if ``is_fixed``.

        Returns:
            Dict[str, Any]: "kspace", "maps" and "target" of the shapes above, "mask" and "edge_mask"
            (H, W, T, 1) float32, "mean" (1,), "std" (1,), "norm" (); in test with a postprocessor also
            "postprocessing_mask" (H, W, T, 1).
        """
        self._subsampler.fixed_seed = None
        if self._is_test or is_fixed:
            example = example_name(fname, slice_id)
            self._subsampler.fixed_seed = example_seed(max(self._cfg.SEED, 0), EVAL_EPOCH, example)
        return super().__call__(kspace, maps, target, fname, slice_id, is_fixed, acceleration)

    def _get_mask(self, masked_kspace: torch.Tensor) -> torch.Tensor:
        return sampled_lines(masked_kspace)


class _KtSubsampler(Subsampler):
    """Draws masks for (H, W, T), where meddlr asks for (H, W); and with a seed per slice, where meddlr's
    (the sum of the characters of the scan's name) is the same for all slices and for many names."""

    fixed_seed: Optional[int] = None

    def _get_mask_shape(self, data_shape, mode):
        return super()._get_mask_shape(data_shape, "3D")

    def __call__(self, data, mode="2D", seed=None, acceleration=None):
        return super().__call__(data, "3D", self.fixed_seed, acceleration)


def sampled_lines(kspace: torch.Tensor) -> torch.Tensor:
    """Returns the sampling mask of masked k-space: a line is sampled if any value on it is not zero.

    A mask of single values would have holes at values that happen to be zero, and so vary along the
    readout, which a Cartesian mask does not.

    Args:
        kspace: Shape (H, W, T, C).

    Returns:
        torch.Tensor: Shape (H, W, T, 1), float32; a view expanded along H.
    """
    lines = (kspace != 0).any(dim=-1, keepdim=True).any(dim=0, keepdim=True)
    return lines.float().expand(kspace.shape[:-1] + (1,))
