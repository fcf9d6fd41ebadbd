"""The drawing of the phantom: its volume curve, its motion, and its subjects."""

import numpy as np
import pytest

from meddlr_greedy.readers.simulation.beating_heart import (
    CEREBROSPINAL_FLUID,
    Anatomy,
    _draw_spine,
    _papillary_muscle,
    beating_heart,
    left_ventricular_volume,
)
from meddlr_greedy.readers.simulation.canvas import Canvas
from tests.helpers.heart import relative_difference


@pytest.mark.parametrize("ejection_fraction", [0.5, 0.65])
def test_volume_curve(ejection_fraction):
    def volume(phase):
        return left_ventricular_volume(np.asarray(phase), ejection_fraction)

    cycle = volume(np.linspace(0, 1, 1001))
    assert cycle[0] == 1 and cycle[-1] == pytest.approx(1)
    assert volume(0.35) == pytest.approx(1 - ejection_fraction) == cycle.min()
    assert np.all(np.diff(cycle[:351]) <= 0) and np.all(np.diff(cycle[351:]) >= -1e-12)
    diastasis = cycle[(np.linspace(0, 1, 1001) > 0.61) & (np.linspace(0, 1, 1001) < 0.83)]
    assert np.ptp(diastasis) < 1e-12 and 1 - ejection_fraction < diastasis[0] < 1


@pytest.mark.parametrize("seed", [0, 1])
def test_the_spine_lies_behind_and_to_the_side(seed):
    """12 mm beside the isocenter; its canal, of the brightest tissue there, 24 mm behind the vertebra's middle."""
    anatomy, canvas = Anatomy.random(np.random.default_rng(seed)), Canvas.over_field_of_view((600, 600), z=0.0)
    drawn = _draw_spine(canvas, anatomy, np.zeros(canvas.x.shape), np.zeros(canvas.x.shape))
    vertebra_y = 4 + anatomy.body_half_axes[1] - anatomy.fat_thickness - 46
    for part, y in ((drawn > 0, None), (drawn == CEREBROSPINAL_FLUID, vertebra_y + 24)):
        assert canvas.x[part].mean() == pytest.approx(-12, abs=0.3)
        assert y is None or canvas.y[part].mean() == pytest.approx(y, abs=0.5)


def left_ventricular_blood(frames, seed):
    """Pixels of bright blood within the left ventricle's end-diastolic outline, (T,)."""
    anatomy = Anatomy.random(np.random.default_rng(seed))
    position = (np.arange(150) - 75) * 2.0
    x, y = position - anatomy.heart_center[0] - anatomy.heart_tilt[0] / 2, position[:, None] - anatomy.heart_center[1]
    inside = np.hypot(x, y - anatomy.heart_tilt[1] / 2) < anatomy.lv_radius
    return ((frames > 0.7) & inside).sum(axis=(1, 2))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ventricle_contracts_and_narrows_to_the_apex(seed):
    base, middle, apex = (
        left_ventricular_blood(beating_heart((150, 150), 20, position, np.random.default_rng(seed)), seed)
        for position in (0.2, 0.5, 0.9)
    )
    assert 6 <= middle.argmin() <= 8  # 35 % of 20 frames
    assert middle.min() < 0.75 * middle[0]
    assert base[0] > middle[0] > 1.5 * apex[0] > 0


@pytest.mark.parametrize("contraction, endo_radius, place", [(0.0, 24.0, 18.71), (0.5, 24.0, 18.3926), (0.0, 4.0, 0.0)])
def test_papillary_muscle_is_an_ellipse_beside_the_wall(contraction, endo_radius, place):
    """Longer towards the wall than across it, and nearly touching the wall where there is room for it."""
    size = 4.6 * (1 + 0.12 * contraction)

    def distance(towards, across, level=0.52):
        x, y = np.asarray([place + towards]), np.asarray([across])
        (found,) = _papillary_muscle(np.hypot(x, y), np.arctan2(y, x), endo_radius, level, contraction)
        return found

    assert place == pytest.approx(max(endo_radius - 1.15 * size, 0))
    assert distance(0, 0) == pytest.approx(-size)
    for towards, across in ((1.25 * size, 0), (-1.25 * size, 0), (0, size), (0, -size), (size, 0.6 * size)):
        assert distance(towards, across) == pytest.approx(0, abs=1e-9)
    assert np.isinf(distance(0, 0, level=0.15)) and np.isinf(distance(0, 0, level=0.9))


def test_phantom_images():
    frames = beating_heart((60, 48), 5, 0.4, np.random.default_rng(5))
    assert frames.shape == (5, 60, 48) and frames.dtype == np.float32
    assert frames.min() >= 0 and 0.9 < frames.max() < 1.5
    np.testing.assert_array_equal(frames, beating_heart((60, 48), 5, 0.4, np.random.default_rng(5)))
    assert relative_difference(beating_heart((60, 48), 5, 0.4, np.random.default_rng(6)), frames) > 0.1
    # Breath-hold: what lies away from the heart stands still.
    assert np.ptp(frames, axis=0)[-10:].max() == 0 and np.ptp(frames, axis=0).max() > 0.3
    # A finer matrix shows the same subject: its pixels average to the coarser ones.
    fine = beating_heart((180, 144), 5, 0.4, np.random.default_rng(5))
    fine = np.roll(fine, (1, 1), axis=(1, 2)).reshape(5, 60, 3, 48, 3).mean(axis=(2, 4))
    assert relative_difference(fine, frames) < 0.1
