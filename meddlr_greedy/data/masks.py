"""The k-t sampling masks: random of variable density, golden step, Gaussian, uniform.

What they have in common is told by :mod:`meddlr_greedy.data.kt_mask`. Importing this module registers them with meddlr.
"""

import math

import numpy as np
from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY

from meddlr_greedy.data.kt_mask import KtMaskFunc

__all__ = ["GaussianKtMaskFunc", "GoldenStepKtMaskFunc", "UniformKtMaskFunc", "VariableDensityKtMaskFunc"]


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

    def sample_outer(self, outer: np.ndarray, num_outer: np.ndarray, dc: int, rng: np.random.RandomState) -> np.ndarray:
        """Chooses lines, see :meth:`KtMaskFunc.sample_outer`."""
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

    def sample_outer(self, outer: np.ndarray, num_outer: np.ndarray, dc: int, rng: np.random.RandomState) -> np.ndarray:
        """Chooses lines, see :meth:`KtMaskFunc.sample_outer`."""
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

    def sample_outer(self, outer: np.ndarray, num_outer: np.ndarray, dc: int, rng: np.random.RandomState) -> np.ndarray:
        """Chooses lines, see :meth:`KtMaskFunc.sample_outer`."""
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

    def sample_outer(self, outer: np.ndarray, num_outer: np.ndarray, dc: int, rng: np.random.RandomState) -> np.ndarray:
        """Chooses lines, see :meth:`KtMaskFunc.sample_outer`."""
        frames = np.arange(len(num_outer))
        sampled = np.zeros((len(outer), len(num_outer)), dtype=bool)
        comb = np.linspace(0, len(outer), num_outer.min(), endpoint=False) + rng.uniform(0, len(outer))
        sampled[(np.floor(comb).astype(int)[:, None] + frames) % len(outer), frames] = True
        for frame in rng.permutation(frames[num_outer > num_outer.min()]):
            # Of the lines this frame lacks those sampled least, of these the most central.
            order = np.lexsort((np.abs(outer - dc), sampled.sum(axis=1), sampled[:, frame]))
            sampled[order[0], frame] = True
        return sampled


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
