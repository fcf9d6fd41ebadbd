"""ESPIRiT maps of a slice, and its target: the coil combination of fully sampled k-space."""

from dataclasses import asdict, dataclass
from typing import Any, Dict

import numpy as np
import torch

from meddlr_greedy.errors import check
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.espirit import espirit_maps

__all__ = ["LEAST_CALIB_WIDTH", "CoilMaps", "coil_combination", "sense_arrays"]

#: The width of ESPIRiT's kernels.
LEAST_CALIB_WIDTH = 6


@dataclass(frozen=True)
class CoilMaps:
    """How ESPIRiT maps are estimated, see :func:`meddlr_greedy.ops.espirit.espirit_maps`.

    Args:
        num_maps: Map sets M.
        calib_width: Width of the calibration region along H and W; of simulated scans, at most their matrix.
        crop: Eigenvalue below which maps are zero; 0 crops nothing.
        soft: Whether they fade out around it instead.

    Raises:
        UserError: A value is not allowed.
    """

    num_maps: int = 1
    calib_width: int = 20
    crop: float = 0.8
    soft: bool = False

    def __post_init__(self):
        check(self.num_maps in (1, 2), "--maps", self.num_maps, "1 or 2")
        check(
            self.calib_width >= LEAST_CALIB_WIDTH,
            "--calib",
            self.calib_width,
            f"{LEAST_CALIB_WIDTH} (kernel width) or more",
        )
        check(0 <= self.crop < 1, "--crop", self.crop, "0 to below 1")

    @property
    def parameters(self) -> Dict[str, Any]:
        """What the maps are a function of; without what is not used of later versions, so that files stay known."""
        parameters = asdict(self)
        if not self.soft:
            del parameters["soft"]
        return parameters

    def estimate(self, kspace_calib: np.ndarray) -> np.ndarray:
        """Maps (H, W, 1, C, M), complex64, from centered k-space (H, W, C) whose center was sampled in full."""
        kspace_calib = np.ascontiguousarray(kspace_calib.transpose(2, 0, 1))
        maps = espirit_maps(kspace_calib, self.calib_width, crop=self.crop, num_maps=self.num_maps, soft=self.soft)
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
    maps = coil_maps.estimate(kspace_calib)
    arrays = {"kspace": kspace, "maps": maps}
    return {**arrays, "target": coil_combination(kspace, maps)} if has_target else arrays


def coil_combination(kspace: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The target (H, W, T, M): fully sampled k-space (H, W, T, C) combined with the conjugate maps (H, W, 1, C, M)."""
    signal_model = CineSenseModel(torch.from_numpy(maps)[None])
    return signal_model(torch.from_numpy(np.ascontiguousarray(kspace))[None], adjoint=True)[0].numpy()
