"""Poisson disc masks: those of meddlr where it gives one, and nothing written where it should not be."""

import numpy as np
import pytest
import torch
from meddlr.data.transforms.subsample import PoissonDiskMaskFunc, RandomMaskFunc

from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.data.poisson import CheckedPoissonMaskFunc, checked_mask_func
from meddlr_greedy.errors import UserError
from tests.helpers.examples import scan_arrays

pytestmark = pytest.mark.short


def masks(acceleration, calib_size):
    stock = PoissonDiskMaskFunc((acceleration,), calib_size)
    return stock, checked_mask_func(stock)


@pytest.mark.parametrize("shape, acceleration, calib_size", [((1, 48, 40, 1), 4, 8), ((1, 40, 48, 1), 6, 20)])
def test_masks_are_meddlrs(shape, acceleration, calib_size):
    stock, checked = masks(acceleration, calib_size)
    before = np.random.get_state()[1].copy()
    for seed in (1, 2, 3):
        expected = stock(shape, seed)
        found = checked(shape, seed)
        assert torch.equal(found, expected) and found.dtype == expected.dtype
        assert torch.equal(checked.get_edge_mask(torch.zeros(shape)), stock.get_edge_mask(torch.zeros(shape)))
    assert checked.num_redrawn == 0
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_accelerations_are_drawn_as_meddlr_draws_them():
    stock = PoissonDiskMaskFunc((3, 8), 8)
    checked = checked_mask_func(stock)
    found = []
    for mask_func in (stock, checked):
        mask_func.rng = np.random.RandomState(4)
        found.append([mask_func((1, 48, 40, 1), seed) for seed in (5, 6)])
    assert all(torch.equal(*pair) for pair in zip(*found))
    assert not torch.equal(*found[0])


def test_what_would_be_written_out_of_bounds_is_drawn_with_the_next_seed():
    _, checked = masks(4, 8)
    shape = (1, 32, 32, 1)
    drawn = {}
    for seed in (1, 2, 3, 4, 5):  # with 1 to 4 meddlr writes beyond its arrays
        before = checked.num_redrawn
        drawn[seed] = checked(shape, seed)
        assert checked.num_redrawn - before == max(0, 5 - seed)
        assert drawn[seed].numel() / drawn[seed].sum() == pytest.approx(4, abs=0.2)
    assert torch.equal(drawn[1], drawn[5]) and set(drawn[1].unique().tolist()) == {0, 1}


def test_other_masks_are_left_alone():
    stock = RandomMaskFunc((4,), 8)
    assert checked_mask_func(stock) is stock


def test_a_training_is_refused_before_it_begins(data_cfg, annotate):
    arrays = {key: value[:, :, :16] for key, value in scan_arrays(0, "plane").items()}
    square = {key: np.concatenate([value, value], axis=1)[:, :16] for key, value in arrays.items()}
    annotate(("square", square))
    undersample = ("AUG_TRAIN.UNDERSAMPLE.NAME", "PoissonDiskMaskFunc", "AUG_TRAIN.UNDERSAMPLE.CENTER_FRACTIONS", ())
    cfg = data_cfg("plane", "DATASETS.TRAIN", ("some_train",), *undersample)
    cfg.AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE = 20
    with pytest.raises(UserError, match="^AUG_TRAIN.UNDERSAMPLE: PoissonDiskMaskFunc gives no mask .* 16 x 16"):
        build_train_loader(cfg, seed=0)
    cfg.AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE = 4
    loader = build_train_loader(cfg, seed=0)
    assert isinstance(loader.dataset.dataset.transform.mask_func.mask_func, CheckedPoissonMaskFunc)
    assert len(next(iter(loader))["mask"]) == 3
