"""The base of the k-t sampling masks for Cartesian cine, from which a mask of one's own is derived.

A k-t mask says which phase-encode lines each cardiac phase (frame) samples. The acceleration is counted over all
frames, calibration lines included:

    R = W T / (number of sampled lines, over all frames)

so the number of lines is the integer nearest to W T / R. (Per frame, R within 1 % is impossible for some W.)
Lines are spread over the frames as evenly as can be, the central lines are sampled in every frame, and what
cannot be is refused. A mask does not vary along the readout, unless :func:`partial_echo` cuts its beginning off.
"""

import math
from typing import Optional, Sequence, Tuple, Union

import numpy as np
import torch
from meddlr.data.transforms.subsample import (
    MASK_FUNC_REGISTRY,
    MaskFunc,
    get_cartesian_edge_mask,
)

from meddlr_greedy.errors import UserError

__all__ = ["KtMaskFunc", "central_lines", "kt_mask_names", "lines_per_frame", "partial_echo"]

_KEY = "AUG_TRAIN.UNDERSAMPLE"


class KtMaskFunc(MaskFunc):
    """Base of the k-t masks; a subclass says in :meth:`sample_outer` how the lines outside the center are chosen.

    Registered with meddlr, a subclass can be named in ``AUG_TRAIN.UNDERSAMPLE.NAME``::

        @MASK_FUNC_REGISTRY.register()
        class MyKtMaskFunc(KtMaskFunc):
            def sample_outer(self, outer, num_outer, dc, rng): ...

    Args:
        accelerations: R, or a range (low, high) from which R is drawn uniformly for each mask.
        calibration_size: Number of central lines sampled in every frame.
        center_fractions: The same as a fraction of the lines; instead of ``calibration_size``.

    Raises:
        UserError: R below 1, or central lines that are given twice or make no sense.
    """

    def __init__(
        self,
        accelerations: Union[float, Sequence[float]],
        calibration_size: int = 0,
        center_fractions: Union[float, Sequence[float]] = (),
    ):
        super().__init__(accelerations)
        self._range = _parse_accelerations(accelerations)
        self._calibration_size, self._center_fraction = _parse_center(calibration_size, center_fractions)

    def __call__(
        self,
        shape: Sequence[int],
        seed: Optional[int] = None,
        acceleration: Optional[float] = None,
    ) -> torch.Tensor:
        """Draws a mask.

        Args:
            shape: (1, H, W, T, 1); or (1, H, W, 1), one frame, for 2D.
            seed: Decides the mask; without it the function's own generator ``rng`` does.
            acceleration: R of this mask; by default drawn from the function's range.

        Returns:
            torch.Tensor: 1 where sampled, else 0; float32 of shape ``shape``, a view expanded along H.

        Raises:
            UserError: The number of lines that R allows is too small (for the largest R of the range, so
                that it does not depend on the draw).
        """
        shape = tuple(shape)
        num_lines, num_frames = shape[2], (shape[3] if len(shape) == 5 else 1)
        # RandomState, not Generator: numpy guarantees its stream for ever, and validation masks shall not
        # change with numpy.
        rng = self.rng if seed is None else np.random.RandomState(seed)
        low, high = self._range if acceleration is None else _parse_accelerations(acceleration)

        center = self.central_lines(num_lines)
        self._check_budget(num_lines, num_frames, len(center), high)
        acceleration = low if low == high else rng.uniform(low, high)

        sampled = np.zeros((num_lines, num_frames), dtype=np.float32)
        sampled[center] = 1
        outer = np.setdiff1d(np.arange(num_lines), center)
        num_outer = lines_per_frame(num_lines, num_frames, acceleration, rng) - len(center)
        sampled[outer] = self.sample_outer(outer, num_outer, num_lines // 2, rng)
        return torch.from_numpy(sampled).reshape(1, 1, *shape[2:]).expand(shape)

    def sample_outer(self, outer: np.ndarray, num_outer: np.ndarray, dc: int, rng: np.random.RandomState) -> np.ndarray:
        """Chooses the lines sampled besides the central ones.

        Args:
            outer: The lines to choose from, ascending. Shape (L,).
            num_outer: How many to choose, for each frame. Shape (T,).
            dc: The line of zero frequency.
            rng: The generator of all random choices.

        Returns:
            np.ndarray: True where sampled. Shape (L, T), bool.
        """
        raise NotImplementedError

    def central_lines(self, num_lines: int) -> np.ndarray:
        """Returns the central lines of ``num_lines``: meddlr's choice; the line of zero frequency is in it.

        Raises:
            UserError: More central lines than there are lines.
        """
        count = self._calibration_size
        if self._center_fraction is not None:
            count = int(round(num_lines * self._center_fraction))
        if count > num_lines:
            raise UserError(
                f"{_KEY}.CALIBRATION_SIZE: {count} central lines are more than the {num_lines} lines of the data"
            )
        return central_lines(num_lines, count)

    def get_edge_mask(self, kspace: torch.Tensor, out_shape: Optional[Sequence[int]] = None) -> torch.Tensor:
        """Returns 1 at the edges of k-space that were never acquired (are zero), else 0.

        Args:
            kspace: Shape (1, H, W, T, C), or (1, H, W, C).
            out_shape: Shape of the result; by default that of ``kspace``.
        """
        return get_cartesian_edge_mask(kspace, dims=(1, 2), out_shape=out_shape)

    def _check_budget(self, num_lines: int, num_frames: int, num_center: int, acceleration: float) -> None:
        total = int(round(num_lines * num_frames / acceleration))
        found = f"{acceleration:g} allows {total} lines in all for {num_frames} frames of {num_lines}"
        if total < num_frames:
            raise UserError(f"{_KEY}.ACCELERATIONS: {found}, so some frame would be empty; give {num_lines} or less")
        if total < num_center * num_frames:
            key = "CALIBRATION_SIZE" if self._center_fraction is None else "CENTER_FRACTIONS"
            raise UserError(
                f"{_KEY}.{key}: {num_center} central lines in every frame are too many, since "
                f"{_KEY}.ACCELERATIONS: {found}; at most {total // num_frames} central lines are possible"
            )


def kt_mask_names() -> Tuple[str, ...]:
    """Returns the names that ``AUG_TRAIN.UNDERSAMPLE.NAME`` may take for a k-t mask: those registered up to now."""
    return tuple(name for name, kind in MASK_FUNC_REGISTRY if isinstance(kind, type) and issubclass(kind, KtMaskFunc))


def partial_echo(mask: torch.Tensor, fraction: float) -> torch.Tensor:
    """Leaves out the beginning of every readout, as an echo that is sampled asymmetrically.

    Args:
        mask: Shape (1, H, W, T, 1), H along the readout.
        fraction: The part of the readout that is not acquired, 0 to below 0.5 (the center stays).

    Returns:
        torch.Tensor: The mask with its first round(fraction H) rows zero; where that is none, ``mask`` itself.
    """
    missing = int(round(fraction * mask.shape[1]))
    if not missing:
        return mask
    mask = mask.clone(memory_format=torch.contiguous_format)
    mask[:, :missing] = 0
    return mask


def lines_per_frame(num_lines: int, num_frames: int, acceleration: float, rng: np.random.RandomState) -> np.ndarray:
    """Returns how many lines each frame samples; over all frames the integer nearest to W T / R.

    Counts differ by one line at most, and the frames with one more are spread evenly, from a random start.

    Returns:
        np.ndarray: Shape (T,), integers.
    """
    total = int(round(num_lines * num_frames / acceleration))
    first = rng.randint(num_frames)
    return np.diff((first + np.arange(num_frames + 1)) * total // num_frames)


def central_lines(num_lines: int, count: int) -> np.ndarray:
    """Returns the ``count`` central ones of ``num_lines`` lines; the line of zero frequency is in it, if any is."""
    start = (num_lines - count + 1) // 2
    return np.arange(start, start + count)


def _parse_accelerations(accelerations: Union[float, Sequence[float]]) -> Tuple[float, float]:
    values = tuple(accelerations) if isinstance(accelerations, Sequence) else (accelerations,)
    if (
        len(values) not in (1, 2)
        or not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
        or not 1 <= values[0] <= values[-1]
    ):
        raise UserError(
            f"{_KEY}.ACCELERATIONS: {accelerations!r} is not allowed; "
            "give one number, or a range (low, high), of 1 or more"
        )
    return float(values[0]), float(values[-1])


def _parse_center(
    calibration_size: int, center_fractions: Union[float, Sequence[float]]
) -> Tuple[int, Optional[float]]:
    """Returns the number of central lines and their fraction (None if the number counts)."""
    calibration_size = calibration_size or 0
    if not isinstance(calibration_size, (int, np.integer)) or calibration_size < 0:
        raise UserError(
            f"{_KEY}.CALIBRATION_SIZE: {calibration_size!r} is not allowed; give the number of central lines, 0 or more"
        )
    fractions = tuple(center_fractions) if isinstance(center_fractions, Sequence) else (center_fractions,)
    if not fractions:
        return int(calibration_size), None
    if calibration_size:
        raise UserError(
            f"{_KEY}.CENTER_FRACTIONS: {center_fractions!r} and {_KEY}.CALIBRATION_SIZE: "
            f"{calibration_size} are both given; set one of them to () or 0"
        )
    if len(fractions) != 1 or not isinstance(fractions[0], (int, float)) or not 0 <= fractions[0] <= 1:
        raise UserError(f"{_KEY}.CENTER_FRACTIONS: {center_fractions!r} is not allowed; give one fraction in 0 ... 1")
    return 0, float(fractions[0])
