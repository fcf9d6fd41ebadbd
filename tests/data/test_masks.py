"""k-t masks: the number of lines, the center, what decides them, what is refused."""

import numpy as np
import pytest
import torch
from meddlr.config import get_cfg
from meddlr.data.transforms.subsample import build_mask_func

from meddlr_greedy.data.masks import (
    KT_MASK_FUNCS,
    GaussianKtMaskFunc,
    GoldenStepKtMaskFunc,
    UniformKtMaskFunc,
    VariableDensityKtMaskFunc,
    partial_echo,
    time_average_coverage,
)
from meddlr_greedy.errors import UserError
from projects.cine import sampling

KINDS = [VariableDensityKtMaskFunc, GoldenStepKtMaskFunc, GaussianKtMaskFunc, UniformKtMaskFunc]


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


def test_gaussian_lines_are_a_gaussian_on_a_constant():
    density = np.mean([draw(GaussianKtMaskFunc(10), 200, 10, seed) for seed in range(300)], axis=(0, 2))
    weight = 0.1 + 0.25 * np.exp(-(((np.arange(200) - 100) / 40) ** 2))
    assert np.corrcoef(density, weight)[0, 1] > 0.98
    assert density[90:110].mean() / density[:20].mean() == pytest.approx(3, rel=0.2)


def test_golden_step_covers_the_calibration_region_better_than_independent_frames():
    def covered(kind):
        masks = [kind(12, 2)((1, 1, 144, 20, 1), seed) for seed in range(40)]
        return np.median([time_average_coverage(mask).central for mask in masks])

    assert covered(GoldenStepKtMaskFunc) > 1.3 * covered(GaussianKtMaskFunc)
    assert covered(GoldenStepKtMaskFunc) >= 20, "20 central lines, for ESPIRiT"


@pytest.mark.parametrize("num_lines", [8, 9])
def test_time_average_coverage(num_lines):
    lines = torch.zeros(num_lines, 3)
    lines[[2, 3, 4, 7], [0, 1, 2, 1]] = 1
    mask = lines.reshape(1, 1, num_lines, 3, 1).expand(1, 5, num_lines, 3, 1)
    coverage = time_average_coverage(mask)
    assert coverage == (num_lines, 4, 2 if num_lines == 8 else 1)
    assert f"4 of {num_lines} lines" in str(coverage)
    assert time_average_coverage(torch.ones_like(mask)).central == num_lines
    assert time_average_coverage(torch.zeros_like(mask)) == (num_lines, 0, 0)
    assert time_average_coverage(partial_echo(mask, 0.25)) == coverage


def test_partial_echo_zeroes_the_beginning_of_the_readout():
    mask = VariableDensityKtMaskFunc(3)((1, 12, 20, 4, 1), 0)
    cut = partial_echo(mask, 0.25)
    assert not cut[:, :3].any() and torch.equal(cut[:, 3:], mask[:, 3:])
    assert mask[:, :3].any()
    assert partial_echo(mask, 0.0) is mask


def test_command_draws_and_tells(tmp_path, capsys):
    sampling.main(["--lines", "48", "--frames", "6", "--accelerations", "4", "--seeds", "3", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    for name in KT_MASK_FUNCS:
        assert f"| {name} " in printed and "4.00 to 4.00" in printed
    assert (tmp_path / "sampling.png").stat().st_size > 1000
    for wrong, words in (
        (["--accelerations", "60"], "ACCELERATIONS"),
        (["--partial-echo", "0.5"], "--partial-echo: 0.5"),
        (["--frames", "0"], "--frames: 0"),
        (["--calibration-size", "20"], "CALIBRATION_SIZE"),
    ):
        with pytest.raises(SystemExit) as end:
            sampling.main(["--lines", "48", "--output", str(tmp_path / "none"), *wrong])
        assert end.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


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
