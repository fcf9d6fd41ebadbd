"""What a user can choose of how scans are prepared; what is done with it is in the other files of this folder."""

from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Optional, Tuple

from meddlr_greedy.errors import check
from meddlr_greedy.limits import LARGEST_LENGTH, MOST_COILS, check_whole, is_length

__all__ = ["COMPRESSIONS", "DEFAULT_COILS", "LEAST_CALIB_WIDTH", "MISSING", "CoilMaps", "Preparation"]

#: What is done where a phase or line is missing.
MISSING = ("refuse", "fill")
#: Kinds of coil compression.
COMPRESSIONS = ("geometric", "svd", "none")
#: Virtual coils.
DEFAULT_COILS = 8
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


@dataclass(frozen=True)
class Preparation:
    """What is done with k-space.

    Args:
        coil_maps: How ESPIRiT maps are estimated.
        coils: Virtual coils V, at most: coils that are fewer stay as they are.
        compression: "geometric" (for each readout position), "svd" or "none", which keeps the coils.
        missing: What is done where a phase or line of a fully sampled scan is missing: "refuse" or "fill".
        pixel_spacing_mm: Along readout and phase encode, where the file does not tell.
        frame_time_ms: Time between cardiac phases, where the file does not tell.

    Raises:
        UserError: A value is not allowed.
    """

    coil_maps: CoilMaps = field(default_factory=CoilMaps)
    coils: Optional[int] = DEFAULT_COILS
    compression: str = "geometric"
    missing: str = "refuse"
    pixel_spacing_mm: Optional[Tuple[float, float]] = None
    frame_time_ms: Optional[float] = None

    def __post_init__(self):
        check(self.compression in COMPRESSIONS, "--compression", self.compression, ", ".join(COMPRESSIONS))
        check(self.missing in MISSING, "--missing", self.missing, ", ".join(MISSING))
        if self.compression != "none":
            check_whole("--coils", self.coils or 0, 1, MOST_COILS)
        for option, values in (
            ("--pixel-spacing", self.pixel_spacing_mm or ()),
            ("--frame-time", () if self.frame_time_ms is None else (self.frame_time_ms,)),
        ):
            check(all(map(is_length, values)), option, values, f"above 0, up to {LARGEST_LENGTH:g}")
