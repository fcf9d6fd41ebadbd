"""The heart is found where it beats, and nowhere else."""

import numpy as np
import pytest
import torch

from meddlr_greedy.evaluation.heart import Profile, heart_region
from tests.helpers.evaluation import beating_disc


def test_heart_region_is_where_it_beats():
    """Around the disc, however bright and noisy the rest is, and whatever the unit."""
    series = beating_disc(96, 80, center=(50, 36))
    series[:, 60:, :] += 20  # a bright wall at rest
    series[5:8, 5:8] += np.array([0, 2, 0, 2, 0, 2])  # a pulsating vessel at the edge
    noisy = np.abs(series + 0.05 * np.random.default_rng(0).standard_normal(series.shape))
    for target in (series, noisy, 1e-6 * series, torch.from_numpy(series)):
        region = heart_region(target)
        assert 36 <= region.rows.start <= 42 and 58 <= region.rows.stop <= 64
        assert 22 <= region.columns.start <= 28 and 44 <= region.columns.stop <= 50
        line = region.line
        assert abs(line.position - (50, 36)[line.axis]) <= 1
        assert region.crop(target).shape[:2] == (
            region.rows.stop - region.rows.start,
            region.columns.stop - region.columns.start,
        )
        assert region.crop(target, margin=200).shape == target.shape
        assert region.profile(target).shape[1:] == (6,)


@pytest.mark.parametrize("still", ["constant", "zero", "noise", "one frame"])
def test_no_heart_where_nothing_moves(still):
    rng = np.random.default_rng(0)
    series = np.repeat(beating_disc()[..., :1], 6, axis=-1)
    series = {
        "constant": series,
        "zero": 0 * series,
        "noise": np.hypot(*(series + 0.1 * rng.standard_normal((2, *series.shape)))),
        "one frame": series[..., :1],
    }[still]
    region = heart_region(series)
    assert region.is_empty
    assert region.crop(series, margin=5).size == region.profile(series).size == 0


def test_profile_of_a_line():
    series = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    np.testing.assert_array_equal(Profile(0, 1).take(series), series[1])
    np.testing.assert_array_equal(Profile(1, 2).take(series), series[:, 2])
