"""k-t sampling masks for Cartesian cine: which phase-encode lines each cardiac phase (frame) samples.

The acceleration is counted over all frames, calibration lines included:

    R = W T / (number of sampled lines, over all frames)

so the number of lines is the integer nearest to W T / R. (Per frame, R within 1 % is impossible for some W.)
Lines are spread over the frames as evenly as can be, the central lines are sampled in every frame, and what
cannot be is refused. A mask does not vary along the readout, unless :func:`partial_echo` cuts its beginning off.
"""

import math
from typing import NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from meddlr.data.transforms.subsample import (
    MASK_FUNC_REGISTRY,
    MaskFunc,
    get_cartesian_edge_mask,
)

from meddlr_greedy.errors import UserError

__all__ = [
    "Coverage",
    "GaussianKtMaskFunc",
    "GoldenStepKtMaskFunc",
    "KT_MASK_FUNCS",
    "KtMaskFunc",
    "UniformKtMaskFunc",
    "VariableDensityKtMaskFunc",
    "central_lines",
    "lines_per_frame",
    "partial_echo",
    "time_average_coverage",
]

_KEY = "AUG_TRAIN.UNDERSAMPLE"


class KtMaskFunc(MaskFunc):
    """Base of the k-t masks; a subclass says how the lines outside the center are chosen.

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


@MASK_FUNC_REGISTRY.register()
class VariableDensityKtMaskFunc(KtMaskFunc):
    """k-t mask with lines drawn anew for every frame, denser towards the center.

    Frames are drawn one after the other, in random order, so that all are alike in distribution. In each,
    lines are drawn without replacement, a line at distance r from the center with a weight of

        r^-1.5 * 0.5^(number of frames drawn before that sampled it).

    The first factor is the density of DL-ESPIRiT (Sandino et al., MRM 2021); the second makes frames differ
    and lets their time average cover k-space, from which the coil sensitivities are estimated. So the
    density drawn is flatter than r^-1.5. Where lines are sampled in several frames their weights even out, and
    twice the distance costs a line up to 1.5 frames (1.3 to 1.4 for 20 frames and R of 12.5 to 4) instead of a
    factor of 2.8; only lines that are seldom sampled come near the power law.
    """

    DENSITY_POWER = 1.5
    REPEAT_FACTOR = 0.5

    def sample_outer(self, outer, num_outer, dc, rng):
        sampled = np.zeros((len(outer), len(num_outer)), dtype=bool)
        log_weight = -self.DENSITY_POWER * np.log(np.maximum(np.abs(outer - dc), 1))
        for frame in rng.permutation(len(num_outer)):
            drawn = _draw_without_replacement(log_weight, num_outer[frame], rng)
            log_weight[drawn] += math.log(self.REPEAT_FACTOR)
            sampled[drawn, frame] = True
        return sampled


@MASK_FUNC_REGISTRY.register()
class GoldenStepKtMaskFunc(KtMaskFunc):
    """k-t mask of DL-ESPIRiT: a perturbed comb of variable density, shifted from frame to frame by the golden step.

    A line at distance r from the center is sampled with the density

        p(r) = (1 + r / r0)^-1.5,

    one at the center and (1 / r)^1.5 further out; r0 is the one length with which the lines are as many as R asks
    for. For each mask the density is perturbed, line by line, by up to 40 %. Sampled are the lines where its running
    sum passes the teeth of a comb of spacing one: where the density is 1 / R they lie R lines apart. In frame t the
    comb is shifted by round(0.618034 R t) mod R such lines, from a random start (Sandino et al., MRM 2021). The golden
    step spreads the shifts of any number of frames evenly, so that the time average has no gaps in its center.
    """

    DENSITY_POWER = 1.5
    PERTURBATION = 0.4
    GOLDEN_STEP = 0.618034

    def sample_outer(self, outer, num_outer, dc, rng):
        sampled = np.zeros((len(outer), len(num_outer)), dtype=bool)
        if not num_outer.any():
            return sampled
        acceleration = len(outer) / num_outer.mean()
        # With p(0) = 1 and a mean density of 1 / R up to the radius dc: 2 R s^2 - s - 1 = 0 for s^2 = r0 / (r0 + dc).
        s = (1 + math.sqrt(1 + 8 * acceleration)) / (4 * acceleration)
        distance = np.abs(outer - dc) / max(dc, 1)
        density = (s**2 + (1 - s**2) * distance) ** -self.DENSITY_POWER
        density *= rng.uniform(1 - self.PERTURBATION, 1 + self.PERTURBATION, len(outer))
        density[outer == dc] = density.sum()  # zero frequency in every frame, perturbed or not
        start = rng.uniform(0, acceleration)
        for frame, count in enumerate(num_outer):
            running = np.cumsum(_expected_numbers(density, count))
            shift = start + round(self.GOLDEN_STEP * acceleration * frame)
            # Counted from the center, so that a frame with one line more does not move the comb there.
            phase = (shift / acceleration + running[outer < dc].max(initial=0)) % 1
            sampled[_passed_by_teeth(running, count, phase), frame] = True
        return sampled


@MASK_FUNC_REGISTRY.register()
class GaussianKtMaskFunc(KtMaskFunc):
    """k-t mask with lines drawn anew for every frame from a Gaussian on a constant, as in CMRxRecon (2024, 2025).

    Lines are drawn without replacement; a line at distance r from the center of W lines has the weight
    0.1 + a / (1 - a) exp(-r^2 / (W / 5)^2), a = 0.2. Frames are independent of each other.
    """

    FLOOR = 0.1
    ALPHA = 0.2
    WIDTH = 0.2

    def sample_outer(self, outer, num_outer, dc, rng):
        gaussian = np.exp(-(((outer - dc) / (self.WIDTH * 2 * max(dc, 1))) ** 2))
        log_weight = np.log(self.FLOOR + self.ALPHA / (1 - self.ALPHA) * gaussian)
        sampled = np.zeros((len(outer), len(num_outer)), dtype=bool)
        for frame, count in enumerate(num_outer):
            sampled[_draw_without_replacement(log_weight, count, rng), frame] = True
        return sampled


@MASK_FUNC_REGISTRY.register()
class UniformKtMaskFunc(KtMaskFunc):
    """k-t mask with equally spaced lines, moved on by one line from frame to frame (interleaved).

    The comb of lines is the same in all frames, its place in the first one random. It lies on the lines
    outside the center, and its spacing is not always a whole number; the spacing is larger than R if central
    lines are asked for, since R counts them. In frames with one line more than others, that is the line
    sampled least often, so all lines are sampled by some frame if R allows as many.
    """

    def sample_outer(self, outer, num_outer, dc, rng):
        frames = np.arange(len(num_outer))
        sampled = np.zeros((len(outer), len(num_outer)), dtype=bool)
        comb = np.linspace(0, len(outer), num_outer.min(), endpoint=False) + rng.uniform(0, len(outer))
        sampled[(np.floor(comb).astype(int)[:, None] + frames) % len(outer), frames] = True
        for frame in rng.permutation(frames[num_outer > num_outer.min()]):
            # Of the lines this frame lacks those sampled least, of these the most central.
            order = np.lexsort((np.abs(outer - dc), sampled.sum(axis=1), sampled[:, frame]))
            sampled[order[0], frame] = True
        return sampled


#: The k-t mask functions, as named in ``AUG_TRAIN.UNDERSAMPLE.NAME``.
KT_MASK_FUNCS = tuple(kind.__name__ for kind in KtMaskFunc.__subclasses__())


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


class Coverage(NamedTuple):
    """What the frames of a k-t mask sample together; coil maps are estimated from it (their time average)."""

    num_lines: int  #: W, all lines
    sampled: int  #: lines sampled in one frame or more
    central: int  #: width of the largest central block that is sampled fully

    def __str__(self) -> str:
        return (
            f"the time average covers {self.sampled} of {self.num_lines} lines,"
            f" the central {self.central} without a gap"
        )


def time_average_coverage(mask: torch.Tensor) -> Coverage:
    """Returns how far the frames of a mask, taken together, cover k-space.

    Args:
        mask: Shape (1, H, W, T, 1). A line is sampled in a frame if any point on it is.
    """
    sampled = mask[0, ..., 0].bool().any(dim=0).any(dim=-1).numpy()
    num_lines = len(sampled)
    central = next(count for count in range(num_lines, -1, -1) if sampled[central_lines(num_lines, count)].all())
    return Coverage(num_lines, int(sampled.sum()), central)


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


def _draw_without_replacement(log_weight: np.ndarray, count: int, rng: np.random.RandomState) -> np.ndarray:
    """Returns ``count`` indices; those of larger weight are likelier.

    Weighted draws without replacement are the largest of log(weight) + Gumbel noise (Efraimidis and Spirakis, 2006);
    logarithms cannot underflow.
    """
    return np.argsort(log_weight + rng.gumbel(size=len(log_weight)))[::-1][:count]


def _expected_numbers(weight: np.ndarray, count: int) -> np.ndarray:
    """Returns ``count`` shared out in proportion to positive weights, but at most one to each."""
    if count == len(weight):
        return np.ones(count)
    expected = np.zeros(len(weight))
    free = np.ones(len(weight), dtype=bool)
    while True:
        expected[free] = weight[free] * (count - np.sum(~free)) / weight[free].sum()
        above = free & (expected > 1)
        if not above.any():
            return expected
        expected[above] = 1
        free &= ~above


def _passed_by_teeth(running: np.ndarray, count: int, phase: float) -> np.ndarray:
    """Systematic sampling: returns the ``count`` elements whose running sum passes phase, phase + 1, ...

    Args:
        running: Running sum of numbers of at most one, together ``count``. Shape (L,).
        count: Number of teeth, at most L.
        phase: 0 to 1; if it is uniformly random, each element's probability is its number.
    """
    teeth = np.arange(count)
    passed = np.searchsorted(running, phase + teeth, side="right")
    # By rounding, two teeth can lie in an element of one: then the next one is taken.
    return np.minimum(np.maximum.accumulate(passed - teeth), len(running) - count) + teeth


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
