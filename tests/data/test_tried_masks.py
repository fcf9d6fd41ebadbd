"""Masks that are not of the acceleration asked for are told of before a run."""

import pytest
from meddlr.data.transforms.subsample import (
    EquispacedMaskFunc1D,
    EquispacedMaskFunc2D,
    PoissonDiskMaskFunc,
    RandomMaskFunc,
    RandomMaskFunc1D,
)

from meddlr_greedy.data.build import build_train_loader, build_val_loader
from meddlr_greedy.data.masks import UniformKtMaskFunc
from meddlr_greedy.data.poisson import _MOST_DRAWS, checked_mask_func
from meddlr_greedy.data.tried_masks import _warn_once, try_masks
from meddlr_greedy.errors import UserError

pytestmark = pytest.mark.short


@pytest.fixture(autouse=True)
def nothing_told_before():
    _warn_once.cache_clear()
    yield
    _warn_once.cache_clear()


def poisson(acceleration, calib_size):
    return checked_mask_func(PoissonDiskMaskFunc((acceleration,), calib_size))


@pytest.mark.parametrize(
    "plane, acceleration, calib_size, words",
    [((16, 16), 4, 20, "searches without end"), ((64, 64), 2, 20, "writes beyond its arrays")],
)
def test_no_mask_is_one_line(plane, acceleration, calib_size, words):
    checked = poisson(acceleration, calib_size)
    with pytest.raises(UserError) as error:
        try_masks(checked, [(48, 40), plane])
    for text in (
        "AUG_TRAIN.UNDERSAMPLE: PoissonDiskMaskFunc gives no mask",
        f"acceleration {acceleration} for a plane of {plane[0]} x {plane[1]}",
        f"of {_MOST_DRAWS} seeds; it {words}",
        f"CALIBRATION_SIZE (found {calib_size})",
    ):
        assert text in str(error.value)


def test_what_poisson_disc_masks_are_is_told_of(caplog):
    with caplog.at_level("WARNING", "meddlr_greedy"):
        try_masks(poisson(4, 8), [(48, 40)])
        assert not caplog.messages
        try_masks(poisson(4, 20), [(24, 24)])
    assert caplog.messages == [
        "Poisson disc masks of acceleration 4 for planes of 24 x 24: the acceleration is 1.3, since CALIBRATION_SIZE is"
        " 20"
    ]
    caplog.clear()
    with caplog.at_level("WARNING", "meddlr_greedy"):
        try_masks(poisson(4, 8), [(32, 32)])
    assert "for some seeds meddlr's code fails, and the next seed is taken" in caplog.text


# The numbers: 48 lines with 20 central ones at R = 16 are 20 lines, of which 48 / 20 = 2.4; a half of 48 is R = 2; of
# 64 x 48 points 1 in 16 and all of 20 x 20 are sampled: 3072 / (400 + 2672 / 16) = 5.4; every 4th of 48 lines and 8
# central ones, two of them counted before, are 18 lines.
@pytest.mark.parametrize(
    "mask_func, expected, words",
    [
        (RandomMaskFunc1D((16,), 20), 2.4, "with CALIBRATION_SIZE 20; 16 allows 3 of the 48 lines in all, so give 3 c"),
        (RandomMaskFunc1D((8,), None, (0.5,)), 2.0, "with CENTER_FRACTIONS (0.5,); 8 allows 6 of the 48 lines in all"),
        (RandomMaskFunc((16,), 20), 5.4, "with CALIBRATION_SIZE 20"),
        (EquispacedMaskFunc2D((4,), 8), 2.7, "with CALIBRATION_SIZE 8"),
        (EquispacedMaskFunc1D((4,), 4), 1.0, "with CALIBRATION_SIZE 4"),  # it undersamples the last axis, of one
    ],
)
def test_another_acceleration_is_told_of_once(mask_func, expected, words, caplog):
    with caplog.at_level("WARNING", "meddlr_greedy"):
        for _ in range(2):
            try_masks(mask_func, [(64, 48)])
    (line,) = caplog.messages
    asked = mask_func.accelerations[0]
    assert line.startswith(f"{type(mask_func).__name__} of acceleration {asked} for planes of 64 x 48: ")
    assert f"the acceleration is {expected}, {words}" in line


@pytest.mark.parametrize(
    "mask_func",
    [
        RandomMaskFunc1D((4,), 12),
        RandomMaskFunc1D((4, 12), 4),
        RandomMaskFunc1D((16,), 2),
        RandomMaskFunc((4,), 4),
        UniformKtMaskFunc((16,), 20),  # it refuses this itself, where a mask is drawn
    ],
)
def test_nothing_is_told_where_the_acceleration_is_that_asked_for(mask_func, caplog):
    with caplog.at_level("WARNING", "meddlr_greedy"):
        try_masks(mask_func, [(64, 48)])
    assert not caplog.messages


@pytest.mark.parametrize("kind", ["plane", "cine"])
def test_training_and_evaluation_tell_it(kind, data_cfg, caplog):
    names = ("NAME", "RandomMaskFunc1D", "CENTER_FRACTIONS", (), "ACCELERATIONS", (8,), "CALIBRATION_SIZE", 5)
    keys = [f"AUG_TRAIN.UNDERSAMPLE.{text}" if i % 2 == 0 else text for i, text in enumerate(names)]
    cfg = data_cfg(kind, *keys)
    for build in (lambda: build_train_loader(cfg, seed=0), lambda: build_val_loader(cfg, cfg.DATASETS.TRAIN[0])):
        _warn_once.cache_clear()
        caplog.clear()
        with caplog.at_level("WARNING", "meddlr_greedy"):
            build()
        assert "RandomMaskFunc1D of acceleration 8 for planes of" in caplog.text
