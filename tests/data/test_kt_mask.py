"""What all k-t masks have in common: the number of lines, the center, what decides them, what is refused."""

import numpy as np
import pytest
import torch
from meddlr.config import get_cfg
from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY, build_mask_func

from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.data.kt_mask import KtMaskFunc, kt_mask_names, partial_echo
from meddlr_greedy.data.masks import VariableDensityKtMaskFunc
from meddlr_greedy.errors import UserError
from tests.helpers.masks import KT_MASKS, draw


@pytest.mark.parametrize("kind", KT_MASKS)
@pytest.mark.parametrize("num_lines, num_frames", [(12, 4), (13, 1), (31, 3), (64, 20), (144, 7), (145, 20)])
@pytest.mark.parametrize("acceleration, center", [(1, 0), (1.5, 3), (3, 2), (4, 1), (4.7, 0), (7, 1), (10, 1), (12, 1)])
def test_lines_are_as_many_as_asked_over_all_frames(kind, num_lines, num_frames, acceleration, center):
    """Per frame, 144 lines and R = 7 or 10, say, would be impossible within 1 %."""
    expected = round(num_lines * num_frames / acceleration)
    first = (num_lines - center + 1) // 2
    for seed in range(12):
        lines = draw(kind(acceleration, center), num_lines, num_frames, seed)
        assert lines.sum() == expected
        assert np.ptp(lines.sum(axis=0)) <= 1, "not spread evenly over the frames"
        assert lines[first : first + center].all(), "central lines are missing in some frame"
        if center:
            assert lines[num_lines // 2].all(), "zero frequency is missing"


@pytest.mark.parametrize("kind", KT_MASKS)
def test_acceleration_and_center_over_200_seeds_and_the_sizes_of_cine(kind):
    """R = 4 ... 15, W = 96 ... 224, T = 1 ... 30: within 1 % or the nearest count, the center in each frame."""
    choose = np.random.RandomState(0)
    refused = 0
    for seed in range(200):
        num_lines, num_frames = choose.randint(96, 225), choose.randint(1, 31)
        acceleration, center = choose.uniform(4, 15), choose.randint(0, 13)
        total = num_lines * num_frames
        mask_func = kind(acceleration, center)
        if round(total / acceleration) < center * num_frames:
            refused += 1
            with pytest.raises(UserError, match="central lines"):
                draw(mask_func, num_lines, num_frames, seed)
            continue
        lines = draw(mask_func, num_lines, num_frames, seed)
        assert lines.sum() == round(total / acceleration) or abs(total / lines.sum() / acceleration - 1) < 0.01
        assert np.ptp(lines.sum(axis=0)) <= 1
        assert lines[mask_func.central_lines(num_lines)].all() and len(mask_func.central_lines(num_lines)) == center
    assert 5 < refused < 100


@pytest.mark.parametrize("kind", KT_MASKS)
def test_seed_alone_decides(kind):
    mask_func = kind((2, 6), 2)
    lines = draw(mask_func, 40, 6, seed=5)
    for _ in range(3):
        mask_func((1, 3, 40, 6, 1))
        np.random.rand()
        torch.rand(1)
        assert np.array_equal(lines, draw(mask_func, 40, 6, seed=5))
        assert np.array_equal(lines, draw(kind((2, 6), 2), 40, 6, seed=5))


@pytest.mark.parametrize("kind", KT_MASKS)
def test_masks_without_a_seed_differ_and_leave_the_global_generators_alone(kind):
    mask_func = kind((2, 6), 2)
    np_state, torch_state = np.random.get_state(), torch.get_rng_state()
    lines = draw(mask_func, 40, 6, seed=5)
    assert not np.array_equal(lines, draw(mask_func, 40, 6, seed=6))
    assert not np.array_equal(draw(mask_func, 40, 6, None), draw(mask_func, 40, 6, None))
    assert all(np.array_equal(a, b) for a, b in zip(np_state, np.random.get_state()))
    assert torch.equal(torch_state, torch.get_rng_state())


@pytest.mark.parametrize("kind", KT_MASKS)
def test_acceleration_range(kind):
    drawn = [480 / draw(kind((3, 6), 0), 60, 8, seed).sum() for seed in range(60)]
    assert 2.99 < min(drawn) < 3.3 and 5.7 < max(drawn) < 6.01
    assert 480 / draw(kind((3, 6), 0), 60, 8, 0, acceleration=10).sum() == 10


@pytest.mark.parametrize("kind", KT_MASKS)
def test_frames_differ_and_one_frame_is_a_2d_mask(kind):
    lines = draw(kind(4, 2), 64, 4, seed=2)
    assert len({tuple(column) for column in lines.T}) == 4
    assert kind(4, 2)((1, 5, 64, 1), 2).shape == (1, 5, 64, 1)


@pytest.mark.parametrize("kind", KT_MASKS)
def test_frames_are_alike_in_distribution(kind):
    distance = np.abs(np.arange(128) - 64)[:, None]
    outer = (distance > 2) * np.mean([draw(kind(8, 4), 128, 20, seed) for seed in range(400)], axis=0)
    mean_distance = (outer * distance).sum(axis=0) / outer.sum(axis=0)
    for frame in (0, 10, 19):
        assert mean_distance[frame] == pytest.approx(mean_distance.mean(), rel=0.05)


def test_partial_echo_zeroes_the_beginning_of_the_readout():
    mask = VariableDensityKtMaskFunc(3)((1, 12, 20, 4, 1), 0)
    cut = partial_echo(mask, 0.25)
    assert not cut[:, :3].any() and torch.equal(cut[:, 3:], mask[:, 3:])
    assert mask[:, :3].any()
    assert partial_echo(mask, 0.0) is mask


def test_center_fractions_and_the_registry():
    cfg = get_cfg()
    cfg.merge_from_list(
        ["AUG_TRAIN.UNDERSAMPLE.NAME", "UniformKtMaskFunc", "AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE", 0]
    )
    cfg.AUG_TRAIN.UNDERSAMPLE.CENTER_FRACTIONS = (0.1,)
    lines = draw(build_mask_func(cfg.AUG_TRAIN), 40, 4, seed=0)
    assert np.flatnonzero(lines.all(axis=1)).tolist() == [18, 19, 20, 21]


@pytest.mark.parametrize("kind", KT_MASKS)
@pytest.mark.parametrize(
    "key, accelerations, calibration_size, center_fractions",
    [
        ("ACCELERATIONS", (0.5,), 0, ()),
        ("ACCELERATIONS", (), 0, ()),
        ("ACCELERATIONS", (6, 4), 0, ()),
        ("ACCELERATIONS", (2, 3, 4), 0, ()),
        ("ACCELERATIONS", "8", 0, ()),
        ("ACCELERATIONS", float("nan"), 0, ()),
        ("ACCELERATIONS", (60,), 0, ()),
        ("CALIBRATION_SIZE", (8,), 6, ()),
        ("CALIBRATION_SIZE", (4, 8), 6, ()),
        ("CALIBRATION_SIZE", (1,), 41, ()),
        ("CALIBRATION_SIZE", (4,), -1, ()),
        ("CALIBRATION_SIZE", (4,), 2.5, ()),
        ("CENTER_FRACTIONS", (8,), 0, (0.2,)),
        ("CENTER_FRACTIONS", (8,), 4, (0.1,)),
        ("CENTER_FRACTIONS", (8,), 0, (0.1, 0.2)),
        ("CENTER_FRACTIONS", (8,), 0, 1.5),
    ],
)
def test_what_cannot_be_is_refused(kind, key, accelerations, calibration_size, center_fractions):
    with pytest.raises(UserError, match=rf"^AUG_TRAIN\.UNDERSAMPLE\.{key}: "):
        kind(accelerations, calibration_size, center_fractions)((1, 4, 40, 10, 1), 0)


@pytest.mark.parametrize("kind", KT_MASKS)
def test_edge_mask_marks_lines_never_acquired(kind):
    kspace = torch.ones(1, 6, 10, 3, 2, dtype=torch.complex64)
    kspace[:, :, :2] = 0
    edges = kind(2).get_edge_mask(kspace, out_shape=(1, 6, 10, 3, 1))
    assert edges.shape == (1, 6, 10, 3, 1)
    assert edges[:, :, :2].all() and not edges[:, :, 2:].any()


def test_a_mask_of_ones_own_is_listed_once_it_is_registered(data_cfg):
    assert kt_mask_names()[: len(KT_MASKS)] == tuple(kind.__name__ for kind in KT_MASKS)

    class FirstLinesKtMaskFunc(KtMaskFunc):
        def sample_outer(self, outer, num_outer, dc, rng):
            return np.arange(len(outer))[:, None] < num_outer

    assert "FirstLinesKtMaskFunc" not in kt_mask_names()
    MASK_FUNC_REGISTRY.register(FirstLinesKtMaskFunc)
    try:
        assert kt_mask_names()[-1] == "FirstLinesKtMaskFunc"
        with pytest.raises(UserError, match="PoissonDiskMaskFunc has no time axis; .* FirstLinesKtMaskFunc"):
            build_train_loader(data_cfg("cine", "AUG_TRAIN.UNDERSAMPLE.NAME", "PoissonDiskMaskFunc"), seed=0)
        loader = build_train_loader(data_cfg("cine", "AUG_TRAIN.UNDERSAMPLE.NAME", "FirstLinesKtMaskFunc"), seed=0)
        sampled = next(iter(loader))["mask"][:, 0, :, :, 0]
        assert sampled[:, 0].all() and not sampled[:, -1].any()
    finally:
        del MASK_FUNC_REGISTRY._obj_map["FirstLinesKtMaskFunc"]
