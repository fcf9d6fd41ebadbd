"""k-t masks: the number of lines, the centre, what decides them, what is refused."""

import numpy as np
import pytest
import torch
from meddlr.config import get_cfg
from meddlr.data.transforms.subsample import build_mask_func

from meddlr_greedy.data.masks import UniformKtMaskFunc, VariableDensityKtMaskFunc
from meddlr_greedy.errors import UserError

KINDS = [VariableDensityKtMaskFunc, UniformKtMaskFunc]


def draw(mask_func, num_lines, num_frames, seed, **kwargs):
    """The sampled lines, (W, T), of a mask that must not vary along the readout."""
    mask = mask_func((1, 3, num_lines, num_frames, 1), seed, **kwargs)
    assert mask.shape == (1, 3, num_lines, num_frames, 1)
    assert mask.dtype == torch.float32
    assert torch.equal(mask, mask[:, :1].expand_as(mask))
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    return mask[0, 0, :, :, 0].numpy()


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
def test_seed_alone_decides(kind):
    mask_func = kind((2, 6), 2)
    lines = draw(mask_func, 40, 6, seed=5)
    for _ in range(3):
        mask_func((1, 3, 40, 6, 1))
        np.random.rand()
        torch.rand(1)
        assert np.array_equal(lines, draw(mask_func, 40, 6, seed=5))
        assert np.array_equal(lines, draw(kind((2, 6), 2), 40, 6, seed=5))


@pytest.mark.parametrize("kind", KINDS)
def test_masks_without_a_seed_differ_and_leave_the_global_generators_alone(kind):
    mask_func = kind((2, 6), 2)
    np_state, torch_state = np.random.get_state(), torch.get_rng_state()
    lines = draw(mask_func, 40, 6, seed=5)
    assert not np.array_equal(lines, draw(mask_func, 40, 6, seed=6))
    assert not np.array_equal(draw(mask_func, 40, 6, None), draw(mask_func, 40, 6, None))
    assert all(np.array_equal(a, b) for a, b in zip(np_state, np.random.get_state()))
    assert torch.equal(torch_state, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_acceleration_range(kind):
    drawn = [480 / draw(kind((3, 6), 0), 60, 8, seed).sum() for seed in range(60)]
    assert 2.99 < min(drawn) < 3.3 and 5.7 < max(drawn) < 6.01
    assert 480 / draw(kind((3, 6), 0), 60, 8, 0, acceleration=10).sum() == 10


@pytest.mark.parametrize("kind", KINDS)
def test_frames_differ_and_one_frame_is_a_2d_mask(kind):
    lines = draw(kind(4, 2), 64, 4, seed=2)
    assert len({tuple(column) for column in lines.T}) == 4
    assert kind(4, 2)((1, 5, 64, 1), 2).shape == (1, 5, 64, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_alike_in_distribution(kind):
    distance = np.abs(np.arange(128) - 64)[:, None]
    outer = (distance > 2) * np.mean([draw(kind(8, 4), 128, 20, seed) for seed in range(400)], axis=0)
    mean_distance = (outer * distance).sum(axis=0) / outer.sum(axis=0)
    for frame in (0, 10, 19):
        assert mean_distance[frame] == pytest.approx(mean_distance.mean(), rel=0.05)


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


def test_center_fractions_and_the_registry():
    cfg = get_cfg()
    cfg.merge_from_list(
        ["AUG_TRAIN.UNDERSAMPLE.NAME", "UniformKtMaskFunc", "AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE", 0]
    )
    cfg.AUG_TRAIN.UNDERSAMPLE.CENTER_FRACTIONS = (0.1,)
    lines = draw(build_mask_func(cfg.AUG_TRAIN), 40, 4, seed=0)
    assert np.flatnonzero(lines.all(axis=1)).tolist() == [18, 19, 20, 21]


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
def test_edge_mask_marks_lines_never_acquired(kind):
    kspace = torch.ones(1, 6, 10, 3, 2, dtype=torch.complex64)
    kspace[:, :, :2] = 0
    edges = kind(2).get_edge_mask(kspace, out_shape=(1, 6, 10, 3, 1))
    assert edges.shape == (1, 6, 10, 3, 1)
    assert edges[:, :, :2].all() and not edges[:, :, 2:].any()
