"""ESPIRiT maps of a slice, and its target: the coil combination of fully sampled k-space."""

from typing import Dict

import numpy as np
import torch

from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.espirit import espirit_maps
from meddlr_greedy.preparation.settings import CoilMaps

__all__ = ["coil_combination", "estimated_maps", "sense_arrays"]


def estimated_maps(kspace_calib: np.ndarray, coil_maps: CoilMaps) -> np.ndarray:
    """Maps (H, W, 1, C, M), complex64, from centered k-space (H, W, C) whose center was sampled in full."""
    maps = espirit_maps(
        np.ascontiguousarray(kspace_calib.transpose(2, 0, 1)),
        coil_maps.calib_width,
        crop=coil_maps.crop,
        num_maps=coil_maps.num_maps,
        soft=coil_maps.soft,
    )
    return maps[:, :, None]


def sense_arrays(
    kspace: np.ndarray, kspace_calib: np.ndarray, coil_maps: CoilMaps, has_target: bool
) -> Dict[str, np.ndarray]:
    """The arrays of one slice as they lie in the file.

    Args:
        kspace: Centered k-space (H, W, T, C), complex64.
        kspace_calib: Of what maps are estimated, (H, W, C): its mean over the frames, or lines for calibration.
        coil_maps: How maps are estimated.
        has_target: Whether k-space is fully sampled, so that it gives the target.
    """
    maps = estimated_maps(kspace_calib, coil_maps)
    arrays = {"kspace": kspace, "maps": maps}
    return {**arrays, "target": coil_combination(kspace, maps)} if has_target else arrays


def coil_combination(kspace: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The target (H, W, T, M): fully sampled k-space (H, W, T, C) combined with the conjugate maps (H, W, 1, C, M)."""
    signal_model = CineSenseModel(torch.from_numpy(maps)[None])
    return signal_model(torch.from_numpy(np.ascontiguousarray(kspace))[None], adjoint=True)[0].numpy()
