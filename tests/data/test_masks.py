"""Where each of the k-t masks has its lines."""

import numpy as np
import pytest

from meddlr_greedy.data.masks import (
    GaussianKtMaskFunc,
    GoldenStepKtMaskFunc,
    UniformKtMaskFunc,
    VariableDensityKtMaskFunc,
)
from tests.helpers.masks import draw


@pytest.mark.parametrize(
    "num_lines, num_frames, acceleration", [(144, 7, 7), (144, 8, 7), (128, 10, 8.5), (144, 20, 15)]
)
def test_uniform_lines_of_all_frames_together_are_all_lines(num_lines, num_frames, acceleration):
    for seed in range(20):
        lines = draw(UniformKtMaskFunc(acceleration), num_lines, num_frames, seed)
        assert lines.any(axis=1).all()
        assert lines.sum() == round(num_lines * num_frames / acceleration)
        assert np.ptp(lines.sum(axis=0)) <= 1
        moved_on = np.roll(lines[:, :-1], 1, axis=0) * lines[:, 1:]
        assert (moved_on.sum(axis=0) >= lines.sum(axis=0).min()).all(), "not one comb for all frames"


def test_uniform_lines_are_interleaved():
    lines = draw(UniformKtMaskFunc(4), 32, 4, seed=3)
    for frame in range(4):
        assert set(np.diff(np.flatnonzero(lines[:, frame]))) == {4}
        assert np.array_equal(np.roll(lines[:, frame - 1], 1), lines[:, frame])
    assert (lines.sum(axis=1) == 1).all(), "four frames at R = 4 sample every line once"


def test_variable_density_is_denser_inside_and_its_average_covers_the_calibration_region():
    masks = [draw(VariableDensityKtMaskFunc(15, 2), 144, 20, seed) for seed in range(20)]
    density = np.mean(masks, axis=(0, 2))
    assert density[64:80].mean() > 2 * density[48:64].mean() > 3 * density[:48].mean() > 0
    for mask in masks:
        assert mask[62:82].any(axis=1).all(), "20 central lines over all frames, for ESPIRiT"


def test_golden_step_density():
    """One in the center, (1 / r)^1.5 further out, the same on both sides."""
    density = np.mean([draw(GoldenStepKtMaskFunc(8), 192, 12, seed) for seed in range(300)], axis=(0, 2))
    center = 96
    assert density[center] == 1
    both = (density[center + 1 :] + density[center - 1 : 0 : -1]) / 2
    assert np.all(np.diff([both[i : i + 8].mean() for i in range(0, 88, 8)]) < 0)
    assert density[:center].sum() == pytest.approx(density[center + 1 :].sum(), rel=0.05)
    # (1 + r / r0)^-1.5, r0 as the sampling of every line of the center needs it
    s = (1 + np.sqrt(1 + 64)) / 32
    r = np.arange(1, 96)
    expected = (1 + r / (96 * s**2 / (1 - s**2))) ** -1.5
    assert both == pytest.approx(expected, rel=0.15, abs=0.01)


@pytest.mark.parametrize("acceleration", [5, 12.3])
def test_golden_step_shifts_the_comb(acceleration, monkeypatch):
    """Where the density is even, the lines of frame t are those of frame 0, round(0.618034 R t) mod R further on."""
    monkeypatch.setattr(GoldenStepKtMaskFunc, "DENSITY_POWER", 0)
    monkeypatch.setattr(GoldenStepKtMaskFunc, "PERTURBATION", 0)
    num_lines, num_frames = 615, 8
    lines = draw(GoldenStepKtMaskFunc(acceleration), num_lines, num_frames, seed=1)
    first = np.flatnonzero(lines[:, 0])
    for frame in range(num_frames):
        shift = round(0.618034 * acceleration * frame) % acceleration
        apart = (np.flatnonzero(lines[:, frame])[0] - first[0] - shift) % acceleration
        assert min(apart, acceleration - apart) <= 1


class _Generator:
    """Draws no perturbation, and a start of the comb, in lines."""

    def __init__(self, start):
        self.start = start

    def uniform(self, low, high, size=None):
        return np.full(size, (low + high) / 2) if size else self.start


@pytest.mark.parametrize("acceleration, start", [(5, 0.1), (7, 6.8), (3, 2.1)])
def test_golden_step_is_a_whole_number_of_lines(acceleration, start, monkeypatch):
    """Not a line is off where the density is even: a step that is not rounded is, in one of the frames."""
    monkeypatch.setattr(GoldenStepKtMaskFunc, "DENSITY_POWER", 0)
    num_lines, num_frames = 30 * acceleration, 12
    outer = np.arange(num_lines) + 1  # the line of zero frequency is not among them
    lines = GoldenStepKtMaskFunc(acceleration).sample_outer(outer, np.full(num_frames, 30), 0, _Generator(start))
    for frame in range(num_frames):
        shift = round(0.618034 * acceleration * frame)
        np.testing.assert_array_equal(lines[:, frame], np.roll(lines[:, 0], shift))
    apart = {0.618034 * acceleration * frame % 1 for frame in range(num_frames)}
    assert lines.sum() == 30 * num_frames and any(np.floor(start % 1 + a) != round(a) for a in apart)


def test_gaussian_lines_are_a_gaussian_on_a_constant():
    density = np.mean([draw(GaussianKtMaskFunc(10), 200, 10, seed) for seed in range(300)], axis=(0, 2))
    weight = 0.1 + 0.25 * np.exp(-(((np.arange(200) - 100) / 40) ** 2))
    assert np.corrcoef(density, weight)[0, 1] > 0.98
    assert density[90:110].mean() / density[:20].mean() == pytest.approx(3, rel=0.2)
