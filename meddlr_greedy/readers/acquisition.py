"""How k-space is acquired where it is simulated: what a user can choose of it."""

import argparse
from dataclasses import dataclass
from typing import Any, Sequence, Tuple

from meddlr_greedy.errors import check
from meddlr_greedy.limits import MOST_COILS, check_memory, check_whole

__all__ = ["Acquisition", "add_acquisition_options", "check_simulated"]

_LARGEST_MATRIX = 4096  # points along one axis


@dataclass(frozen=True)
class Acquisition:
    """How k-space is acquired from an image.

    Args:
        matrix: Acquired points (H, W) along readout and phase encode.
        coils: Number of coils C.
        noise: Standard deviation of the real and of the imaginary part of the noise in each coil image, relative to
            :func:`meddlr_greedy.ops.acquisition.noise_reference`. FFTs are orthonormal and maps have unit norm over
            coils: noise of the same standard deviation is in k-space and, where maps are not zero, in the target.
        seed: Decides every random choice.

    Raises:
        UserError: where a value is not allowed.
    """

    matrix: Tuple[int, int] = (96, 80)
    coils: int = 8
    noise: float = 0.01
    seed: int = 0

    def __post_init__(self):
        check(
            8 <= min(self.matrix) <= max(self.matrix) <= _LARGEST_MATRIX,
            "--matrix",
            self.matrix,
            f"at least 8, at most {_LARGEST_MATRIX} along both axes",
        )
        check_whole("--coils", self.coils, 1, MOST_COILS)
        check(0 <= self.noise <= 100, "--noise", self.noise, "0 to 100")
        check(0 <= self.seed < 2**63, "--seed", self.seed, "0 to 2**63 - 1")


def add_acquisition_options(parser: argparse.ArgumentParser, default_matrix: str) -> None:
    """Adds the options of :class:`Acquisition`, for readers that simulate.

    Args:
        parser: The parser of the sub-command.
        default_matrix: What the matrix is where ``--matrix`` is not given, for the help text.
    """
    parser.add_argument(
        "--matrix",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help=f"readout and phase-encode points, taken from the center of k-space (default: {default_matrix})",
    )
    parser.add_argument(
        "--coils", type=int, default=Acquisition.coils, metavar="C", help="simulated coils (default: %(default)s)"
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=Acquisition.noise,
        metavar="SD",
        help="standard deviation of the real and the imaginary part in each coil image, relative to the 95th "
        "percentile of the image magnitude of the scan (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=Acquisition.seed, metavar="N", help="of all random choices (default: %(default)s)"
    )


def check_simulated(
    where: Any, acquisition: Acquisition, shape: Sequence[int], num_frames: int, num_slices: int = 0
) -> None:
    """Checks that there is memory for a slice to be simulated, before anything is.

    Args:
        where: The file or option, for the message.
        acquisition: How k-space is acquired.
        shape: Matrix (H0, W0) of the images.
        num_frames: Number of cardiac phases T.
        num_slices: Number of slices whose images are yet to be made.

    Raises:
        UserError: There is not.
    """
    pixels = int(shape[0]) * int(shape[1])
    # Coil images and their k-space, complex64; and images of all slices, which are drawn as float64.
    num_bytes = 2 * 8 * acquisition.coils * num_frames * pixels + 8 * max(num_slices, 1) * num_frames * pixels
    check_memory(
        f"{where}: simulating {num_frames} frames of {shape[0]} x {shape[1]} by {acquisition.coils} coils", num_bytes
    )
