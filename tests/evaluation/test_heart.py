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
        # The edge of the disc moves between 3 and 9 pixels from its center; a margin of 3, and a pixel of blur.
        for found, middle in zip((region.rows, region.columns), (50, 36)):
            assert abs(found.start - (middle - 12)) <= 1 and abs(found.stop - (middle + 1 + 12)) <= 1
        line = region.line
        assert abs(line.position - (50, 36)[line.axis]) <= 1
        assert region.crop(target).shape[:2] == (
            region.rows.stop - region.rows.start,
            region.columns.stop - region.columns.start,
        )
        assert region.crop(target, margin=200).shape == target.shape
        assert region.profile(target).shape[1:] == (6,)


# Of about 100 x 100 pixels: walls up to 6 pixels apart belong together, and the margin is 3. What the smoothing spreads
# beyond the edges of a block of 18 to 34 pixels, not far from the center, is part of the tails, and the edges are not.
MARGIN = 3


def blinking(*blocks, shape=(101, 99)):
    """Blocks (rows, columns, amplitude) that go on and off together: magnitudes (H, W, 6)."""
    series = np.ones((*shape, 6))
    for rows, columns, amplitude in blocks:
        series[rows, columns] += amplitude * np.array([0, 1, 0, 1, 0, 1])
    return series


def around(*ranges):
    return tuple(slice(r.start - MARGIN, r.stop + MARGIN) for r in ranges)


@pytest.mark.parametrize(
    "rows, columns, axis",
    [
        (slice(40, 58), slice(35, 59), 0),
        (slice(32, 60), slice(44, 63), 1),
        (slice(0, 30), slice(40, 60), 1),
        (slice(40, 60), slice(68, 99), 0),
    ],
)
def test_box_and_line_to_the_pixel(rows, columns, axis):
    """The line is the longer one of the two through the center of the box: along it more pixels change."""
    series = blinking((rows, columns, 1.0))
    region = heart_region(series)
    box = tuple(slice(max(s.start, 0), min(s.stop, size)) for s, size in zip(around(rows, columns), series.shape))
    assert (region.rows, region.columns) == box
    position = [(s.start + s.stop) // 2 for s in box]
    assert region.line == Profile(axis, position[axis])
    profile = series[position[0], box[1]] if axis == 0 else series[box[0], position[1]]
    np.testing.assert_array_equal(region.profile(series), profile)
    wider = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in box)
    np.testing.assert_array_equal(region.crop(series, 2), series[wider])


def test_tails_are_left_out_at_all_sides():
    """Thin and faint arms to all sides."""
    rows, columns = slice(38, 62), slice(40, 63)
    arms = [(slice(50, 51), slice(32, 40)), (slice(50, 51), slice(63, 71))]
    arms += [(slice(30, 38), slice(50, 51)), (slice(62, 70), slice(50, 51))]
    for chosen in ([], arms, *([arm] for arm in arms)):
        region = heart_region(blinking((rows, columns, 1.0), *((*arm, 0.65) for arm in chosen)))
        assert (region.rows, region.columns) == around(rows, columns)


@pytest.mark.parametrize("transposed", [False, True])
def test_of_two_that_move_the_one_near_the_center(transposed):
    """Though its variance is smaller; but a much larger one wins, wherever it is."""
    central, outer, across = slice(42, 60), slice(78, 96), slice(41, 59)
    for amplitude, found in ((1.3, central), (3.0, outer)):
        series = blinking((central, across, 1.0), (outer, across, amplitude), shape=(100, 100))
        region = heart_region(series.transpose(1, 0, 2) if transposed else series)
        along = region.columns if transposed else region.rows
        assert abs(along.start - around(found)[0].start) <= 1 and abs(along.stop - around(found)[0].stop) <= 1


@pytest.mark.parametrize("gap, together", [(4, True), (12, False)])
def test_walls_near_each_other_belong_together(gap, together):
    first, rows = slice(36, 46), slice(40, 60)
    second = slice(first.stop + gap, first.stop + gap + 10)
    region = heart_region(blinking((rows, first, 1.0), (rows, second, 1.0)))
    assert region.rows == around(rows)[0]
    if together:
        assert region.columns == around(slice(first.start, second.stop))[0]
    else:
        assert region.columns.stop < second.start


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
