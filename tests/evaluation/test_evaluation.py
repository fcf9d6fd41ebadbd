"""Metrics against skimage, the evaluator against meddlr's own, and the pictures and files of an evaluation."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from meddlr.config import get_cfg
from meddlr.evaluation import ReconEvaluator
from meddlr.modeling import build_model
from meddlr.ops import fft2c
from PIL import Image
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from meddlr_greedy import eval_net, train_net
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer, find_weights
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation import GreedyReconEvaluator, ZeroFilledEvaluator
from meddlr_greedy.evaluation import report as report_module
from meddlr_greedy.evaluation.figures import draw_cine_gif, draw_recon_figure
from meddlr_greedy.evaluation.heart import Profile, heart_region
from meddlr_greedy.evaluation.metrics.definitions import default_cine_metrics, higher_is_better
from meddlr_greedy.evaluation.metrics.functional import fold_frames
from meddlr_greedy.evaluation.report import DatasetReport
from meddlr_greedy.evaluation.slices import IMAGES, KeptSlice, read_slices, write_slices
from meddlr_greedy.evaluation.tables import ALL_SUBJECTS

MEAN, STD = 0.25, 3.0  # of the normalized images that a batch holds


@pytest.fixture(scope="module")
def cfg():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    return cfg.freeze()


def make_scan(*shape, seed=0):
    """A reconstruction and its target, complex, of very unequal brightness between slices and frames; a part beats."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(shape, dtype=torch.complex64, generator=generator)
    brightness = torch.linspace(0.2, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    if len(shape) == 5:
        brightness = brightness * torch.linspace(1, 0.3, shape[3])[:, None]
        target[:, 4:9, 3:8, 1::2] *= 8
    error = torch.randn(shape, dtype=torch.complex64, generator=generator)
    return target * brightness + 0.1 * error, target * brightness


def feed(evaluator, scans, batch_size=2, mean=MEAN, std=STD):
    """Gives the evaluator scans {id: (pred, target)}, in batches normalized by mean and std."""
    slices = [
        (scan_id, i, (pred[i] - mean) / std, (target[i] - mean) / std)
        for scan_id, (pred, target) in scans.items()
        for i in range(len(target))
    ]
    evaluator.reset()
    for start in range(0, len(slices), batch_size):
        ids, numbers, preds, targets = zip(*slices[start : start + batch_size])
        inputs = {
            "mean": torch.full((len(ids), 1), mean),
            "std": torch.full((len(ids), 1), std),
            "metadata": [{"scan_id": s, "slice_id": i} for s, i in zip(ids, numbers)],
        }
        outputs = {"pred": torch.stack(preds), "target": torch.stack(targets)}
        outputs["zf_image"] = torch.view_as_real(outputs["pred"])
        evaluator.process(inputs, outputs)
    return evaluator


def ssim_by_skimage(pred, target, data_range):
    return structural_similarity(
        pred, target, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )


@pytest.mark.parametrize("shape", [(2, 16, 13, 3, 1), (3, 12, 17, 4, 2), (1, 14, 14, 1, 2), (2, 11, 20, 1, 1)])
def test_cine_metrics_agree_with_skimage(cfg, shape):
    pred, target = make_scan(*shape)
    evaluator = feed(GreedyReconEvaluator(cfg, dataset_name="x"), {"a": (pred, target)})
    results = evaluator.evaluate()
    values = evaluator.table().set_index(["metric", "image"])["value"]

    pred, target = pred.numpy().astype(complex), target.numpy().astype(complex)
    mag_pred, mag_target = np.linalg.norm(pred, axis=-1), np.linalg.norm(target, axis=-1)
    peak = mag_target.max()
    ssims = []
    for s in range(shape[0]):
        for t in range(shape[3]):
            p, r = mag_pred[s, :, :, t], mag_target[s, :, :, t]
            error = np.linalg.norm(pred[s, :, :, t] - target[s, :, :, t], axis=-1)
            ssims.append(ssim_by_skimage(p, r, peak))
            expected = {
                "psnr": peak_signal_noise_ratio(np.zeros_like(error), error, data_range=peak),
                "psnr_mag": peak_signal_noise_ratio(r, p, data_range=peak),
                "ssim (Wang)": ssims[-1],
                "nrmse": np.linalg.norm(error) / np.linalg.norm(r),
                "nrmse_mag": np.linalg.norm(p - r) / np.linalg.norm(r),
            }
            for metric, value in expected.items():
                assert values[f"val_{metric}", f"a-{s}-{t}"] == pytest.approx(value, rel=1e-4), metric
    error = np.linalg.norm(pred - target, axis=-1)
    expected = {
        "psnr": peak_signal_noise_ratio(np.zeros_like(error), error, data_range=peak),
        "psnr_mag": peak_signal_noise_ratio(mag_target, mag_pred, data_range=peak),
        "ssim (Wang)": np.mean(ssims),
        "nrmse": np.linalg.norm(error) / np.linalg.norm(mag_target),
        "nrmse_mag": np.linalg.norm(mag_pred - mag_target) / np.linalg.norm(mag_target),
    }
    for metric, value in expected.items():
        assert results[f"val_{metric}_scan"] == pytest.approx(value, rel=1e-4), metric
    assert all(type(value) is float for value in results.values())
    assert (
        set(results)
        == {f"val_{name}" for name in default_cine_metrics()}
        > {f"val_{name}" for name in ReconEvaluator.default_metrics()}
    )


def ssim_map(x, y, data_range):
    """SSIM of vectors (H, W, V) by its formula, on the pixels with a full window."""

    def mean(image):
        return ndimage.gaussian_filter(image, 1.5, truncate=5 / 1.5, axes=(0, 1))[5:-5, 5:-5]

    mean_x, mean_y = mean(x), mean(y)
    xx, yy, xy = (mean((a * b).sum(-1)) for a, b in ((x, x), (y, y), (x, y)))
    mean_xy, squares = (mean_x * mean_y).sum(-1), (mean_x**2 + mean_y**2).sum(-1)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return (2 * mean_xy + c1) * (2 * (xy - mean_xy) + c2) / ((squares + c1) * (xx + yy - squares + c2))


@pytest.mark.parametrize("num_maps", [1, 2])
def test_metrics_in_the_heart_and_over_time(cfg, num_maps):
    """All by their definitions, from the magnitudes and the region."""
    pred, target = make_scan(3, 40, 34, 4, num_maps)
    target[2] = target[2, :, :, :1]  # a slice at rest has no heart
    target[:, 30, 28] = pred[:, 30, 28] = 50  # bright, and outside
    evaluator = feed(GreedyReconEvaluator(cfg, dataset_name="x", prefix=None), {"a": (pred, target)})
    results = evaluator.evaluate()
    values = evaluator.table().set_index(["metric", "image"])["value"]

    pred, target = pred.numpy().astype(complex), target.numpy().astype(complex)
    mag_pred, mag_target = np.linalg.norm(pred, axis=-1), np.linalg.norm(target, axis=-1)
    hearts = [heart_region(m) for m in mag_target]
    assert [heart.is_empty for heart in hearts] == [False, False, True]
    peak = max(heart.crop(m).max() for heart, m in zip(hearts[:2], mag_target))
    assert peak < mag_target.max() / 2
    expected, of_slices = {}, {}
    for s, heart in enumerate(hearts[:2]):
        p, t, mp, mt = (heart.crop(x[s]) for x in (pred, target, mag_pred, mag_target))
        complex_error, error = np.linalg.norm(p - t, axis=-1), mp - mt
        inside = tuple(slice(max(x.start, 5) - 5, x.stop - 5) for x in (heart.rows, heart.columns))
        for frame in [0, 1, 2, 3]:
            image = f"a-{s}-{frame}"
            for name, e in (("", complex_error), ("_mag", error)):
                expected[f"nrmse{name}_heart", image] = np.linalg.norm(e[..., frame]) / np.linalg.norm(mt[..., frame])
                expected[f"psnr{name}_heart", image] = 20 * np.log10(peak / np.sqrt((e[..., frame] ** 2).mean()))
            as_reals = [x[s, :, :, frame].view(float) for x in (pred, target)]
            magnitudes = [x[s, :, :, frame, None] for x in (mag_pred, mag_target)]
            for name, vectors in (("ssim (Wang)", magnitudes), ("ssim_complex (Wang)", as_reals)):
                expected[f"{name}_heart", image] = ssim_map(*vectors, peak)[inside].mean()
                expected[name, image] = ssim_map(*vectors, mag_target.max()).mean()
        line = heart.line.position - (heart.rows, heart.columns)[heart.line.axis].start
        profile, of_target = (np.take(m, line, axis=heart.line.axis) for m in (mp, mt))
        expected["nrmse_xt", f"a-{s}"] = np.linalg.norm(profile - of_target) / np.linalg.norm(of_target)
        stds = mp.std(-1), mt.std(-1)
        expected["nrmse_tstd", f"a-{s}"] = np.linalg.norm(stds[0] - stds[1]) / np.linalg.norm(stds[1])
        of_slices[s] = 20 * np.log10(peak / np.sqrt((complex_error**2).mean()))
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=2e-4), key
    for name in ("psnr_heart", "ssim (Wang)_heart"):
        assert np.isnan(values[name, "a-2-0"])
    assert np.isnan(values["nrmse_xt", "a-2"])
    assert results["psnr_heart_scan"] == pytest.approx(np.mean(list(of_slices.values())), rel=1e-4)
    assert results["nrmse_tstd_scan"] == pytest.approx(results["nrmse_tstd"], rel=1e-4)


def test_averaging_over_time_is_seen_in_the_heart_alone(cfg):
    """The static body flatters: the mean over time is a good image, and has no motion left."""
    _, target = make_scan(1, 40, 34, 4, 1)
    target = target[:, :, :, :1].repeat(1, 1, 1, 4, 1)
    target[:, 14:26, 12:24, 1::2] *= 4
    blurred = target.mean(3, keepdim=True).expand_as(target)
    scores = feed(GreedyReconEvaluator(cfg, dataset_name="x", prefix=None), {"a": (blurred, target)}).evaluate()
    assert scores["nrmse_heart"] > 1.1 * scores["nrmse"]
    assert scores["ssim (Wang)_heart"] < scores["ssim (Wang)"] - 0.1
    assert scores["nrmse_tstd"] == pytest.approx(1, abs=1e-5)
    perfect = feed(GreedyReconEvaluator(cfg, dataset_name="x", prefix=None), {"a": (target, target)}).evaluate()
    for name in ("nrmse_heart", "nrmse_xt", "nrmse_tstd"):
        assert perfect[name] == 0
    for name in ("ssim (Wang)_heart", "ssim_complex (Wang)", "ssim (Wang)_heart_scan"):
        assert perfect[name] == pytest.approx(1)


def test_complex_ssim_sees_the_phase(cfg):
    _, target = make_scan(1, 20, 20, 2, 1)
    metrics = ["ssim (Wang)", "ssim_complex (Wang)"]
    wrong, shared = (
        feed(GreedyReconEvaluator(cfg, dataset_name="x", metrics=metrics, prefix=None), {"a": scan}).evaluate()
        for scan in ((target * 1j, target), (target * 1j, target * 1j))
    )
    assert wrong["ssim (Wang)"] == pytest.approx(1) and wrong["ssim_complex (Wang)"] < 0.1
    assert shared["ssim_complex (Wang)"] == pytest.approx(1)


@pytest.mark.parametrize("name,higher", [("psnr_mag_heart", True), ("ssim_complex (Wang)", True), ("nrmse_xt", False)])
def test_which_value_is_better(name, higher):
    assert higher_is_better(name) == higher
    assert higher_is_better("ssim (Wang)") and not higher_is_better("nrmse")


def test_frames_are_permuted_not_viewed():
    series = torch.arange(2 * 3 * 4 * 5 * 2).reshape(2, 3, 4, 5, 2)
    frames = fold_frames(series)
    assert frames.shape == (10, 2, 3, 4)
    for s in range(2):
        for t in range(5):
            assert torch.equal(frames[s * 5 + t], series[s, :, :, t].permute(2, 0, 1))


def test_an_error_in_one_frame_lowers_that_frame_alone(cfg):
    _, target = make_scan(2, 16, 16, 4, 1)
    pred = target.clone()
    pred[1, :, :, 2] += 0.3
    evaluator = feed(GreedyReconEvaluator(cfg, dataset_name="x", metrics=["ssim (Wang)", "mse"]), {"a": (pred, target)})
    values = evaluator.evaluate() and evaluator.table().set_index(["metric", "image"])["value"]
    for s in range(2):
        for t in range(4):
            is_wrong = (s, t) == (1, 2)
            assert (values["val_ssim (Wang)", f"a-{s}-{t}"] < 0.9) == is_wrong
            assert values["val_mse", f"a-{s}-{t}"] == pytest.approx(0.09 if is_wrong else 0, rel=1e-4, abs=1e-9)


def test_data_range_is_that_of_the_scan(cfg):
    """Brightening one scan, error and all, changes neither its own PSNR nor that of the other."""
    first, second = make_scan(2, 12, 12, 3, 1), make_scan(2, 12, 12, 3, 1, seed=1)
    metrics = ["psnr", "ssim (Wang)", "psnr_scan", "ssim (Wang)_scan"]

    def evaluate(scans):
        return feed(GreedyReconEvaluator(cfg, dataset_name="x", metrics=metrics, group_by_scan=True), scans).evaluate()

    together = evaluate({"a": first, "b": tuple(100 * x for x in second)})
    assert set(together) == {"a", "b"}
    for scan_id, alone in (("a", evaluate({"a": first})["a"]), ("b", evaluate({"b": second})["b"])):
        assert set(alone) == {f"val_{name}" for name in metrics}
        assert together[scan_id] == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_ssim_does_not_depend_on_the_unit(cfg, scale):
    pred, target = make_scan(1, 12, 12, 2, 1)
    evaluator = GreedyReconEvaluator(cfg, dataset_name="x", metrics=["ssim (Wang)"])
    scaled, plain = (feed(evaluator, {"a": (k * pred, k * target)}, mean=0.0, std=k).evaluate() for k in (scale, 1.0))
    assert scaled == pytest.approx(plain, rel=1e-4)


def test_one_scan_in_memory(cfg):
    scans = {f"scan-{i}": make_scan(3, 12, 12, 2, 1, seed=i) for i in range(3)}
    evaluator = feed(GreedyReconEvaluator(cfg, dataset_name="x"), scans, batch_size=1)
    assert [p["metadata"]["scan_id"] for p in evaluator._predictions] == ["scan-2"] * 3
    assert set(evaluator._scored_scans) == {"scan-0", "scan-1"}
    evaluator.evaluate()
    assert not evaluator._predictions
    assert sorted(evaluator.table()["scan"].unique()) == sorted(scans)


@pytest.mark.parametrize("flush_period", [0, 2, -1, -5])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_results_do_not_depend_on_batches_and_flushing(cfg, flush_period, batch_size):
    scans = {f"s{i}": make_scan(3, 12, 12, 2, 1, seed=i) for i in range(3)}
    evaluator = GreedyReconEvaluator(cfg, dataset_name="x")
    expected = feed(evaluator, scans).evaluate()
    evaluator.flush_period = flush_period
    assert feed(evaluator, scans, batch_size).evaluate() == expected


def test_scan_that_comes_back_is_refused(cfg):
    evaluator = feed(GreedyReconEvaluator(cfg, dataset_name="x"), {i: make_scan(1, 12, 12, 2, 1) for i in "ab"})
    scan_a = {"mean": torch.zeros(1, 1), "std": torch.ones(1, 1), "metadata": [{"scan_id": "a", "slice_id": 1}]}
    image = torch.ones(1, 12, 12, 2, 1, dtype=torch.complex64)
    with pytest.raises(ValueError, match="scan 'a'"):
        evaluator.process(scan_a, {"pred": image, "target": image})
        evaluator.evaluate()


@pytest.mark.parametrize(
    "num_maps,kwargs",
    [(2, {"group_by_scan": True}), (1, {"prefix": None, "flush_period": -1})],
    ids=["grouped", "flushed"],
)
def test_2d_equals_meddlr(cfg, num_maps, kwargs):
    scans = {"a-0": make_scan(11, 13, 12, num_maps), "b": make_scan(12, 13, 12, num_maps, seed=1)}
    own, stock = (
        feed(cls(cfg, dataset_name="x", **kwargs), scans, batch_size=6).evaluate()
        for cls in (GreedyReconEvaluator, ReconEvaluator)
    )
    assert own == stock
    assert len(own) == (2 if "group_by_scan" in kwargs else 10 * num_maps)


def test_2d_scan_of_few_slices(cfg):
    pred, target = make_scan(3, 16, 15, 1)
    results = feed(GreedyReconEvaluator(cfg, dataset_name="x"), {"a": (pred, target)}).evaluate()
    p, r = (np.abs(x[..., 0].numpy().astype(complex)) for x in (pred, target))
    expected = np.mean([ssim_by_skimage(p[s], r[s], r.max()) for s in range(3)])
    assert results["val_ssim (Wang)_scan"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 12, 12, 1), (2, 12, 12, 3, 1)])
@pytest.mark.parametrize("metrics", [["psnr"], ["psnr_scan"], ["ssim (Wang)_scan", "nrmse_scan"], False])
def test_metrics_only_per_image_or_only_per_scan(cfg, tmp_path, shape, metrics):
    scans = {"a": make_scan(*shape)}
    evaluator = GreedyReconEvaluator(cfg, dataset_name="x", metrics=metrics, output_dir=str(tmp_path))
    results = feed(evaluator, scans).evaluate()
    assert set(results) == {f"val_{name}" for name in metrics or []}
    everything = feed(GreedyReconEvaluator(cfg, dataset_name="x"), scans).evaluate()
    assert all(value == everything[name] for name, value in results.items())


def test_zero_filled_image_may_be_a_real_view(cfg):
    for shape in ((2, 12, 12, 2), (2, 12, 12, 3, 2)):
        scans = {"a": make_scan(*shape)}
        expected = feed(GreedyReconEvaluator(cfg, dataset_name="x"), scans).evaluate()
        assert feed(ZeroFilledEvaluator(cfg, dataset_name="x"), scans).evaluate() == expected


def test_hard_data_consistency_is_scored_and_shown(cfg):
    """Fully sampled k-space of the target: postprocessing makes any reconstruction the target."""
    cfg = cfg.clone().defrost()
    cfg.TEST.POSTPROCESSOR.NAME = "hard_dc_all"
    _, target = make_scan(1, 12, 14, 3, 1)
    ones = torch.ones(1, 12, 14, 1, 1, 1, dtype=torch.complex64)
    inputs = {
        "kspace": fft2c(target, channels_last=True),
        "maps": ones,
        "postprocessing_mask": torch.ones(1, 12, 14, 3, 1),
        "mean": torch.zeros(1, 1),
        "std": torch.ones(1, 1),
        "metadata": [{"scan_id": "a", "slice_id": 0}],
    }
    outputs = {"pred": target * 0, "zf_image": target * 0.5, "target": target}
    errors = []
    for cls in (ZeroFilledEvaluator, GreedyReconEvaluator):
        evaluator = cls(cfg, dataset_name="x", metrics=["nrmse"])
        evaluator.reset()
        evaluator.process(inputs, outputs)
        errors.append(evaluator.evaluate()["val_nrmse"])
    assert errors == [pytest.approx(0.5), pytest.approx(0, abs=1e-5)]
    torch.testing.assert_close(outputs["pred"], target)


def test_unknown_metric(cfg):
    with pytest.raises(UserError, match=r"TEST.VAL_METRICS.RECON: no metric 'pnsr_scan'; did you mean 'psnr'\?"):
        GreedyReconEvaluator(cfg, dataset_name="x", metrics=["pnsr_scan"])
    evaluator = GreedyReconEvaluator(cfg, dataset_name="x", metrics=["DSC"])  # meddlr's, for 2D
    with pytest.raises(UserError, match="no metric 'DSC' of a cine series"):
        feed(evaluator, {"a": make_scan(1, 12, 12, 2, 1)})
    evaluator = GreedyReconEvaluator(cfg, dataset_name="x", metrics=["psnr", "nrmse_xt_scan"])
    with pytest.raises(UserError, match="no metric 'nrmse_xt_scan' of 2D images"):
        feed(evaluator, {"a": make_scan(1, 12, 12, 1)})


def test_no_target(cfg):
    _, target = make_scan(1, 12, 12, 2, 1)
    inputs = {"mean": torch.zeros(1, 1), "std": torch.ones(1, 1), "metadata": [{"scan_id": "a", "slice_id": 1}]}
    for cls in (GreedyReconEvaluator, ZeroFilledEvaluator):
        evaluator = cls(cfg, dataset_name="x")
        evaluator.reset()
        for outputs in ({"pred": target, "zf_image": target}, {"pred": target, "zf_image": target, "target": None}):
            with pytest.raises(UserError, match="scan 'a' has no target .* meddlr_greedy.reconstruct"):
                evaluator.process(inputs, outputs)


def test_training_with_metrics_of_the_heart(write_config, tmp_path):
    metrics = "('psnr_mag_heart', 'nrmse_xt_scan', 'ssim_complex (Wang)')"
    config = str(write_config("CineUnrolledCNN", data="beat"))
    train_net.main(["--config-file", config, "TEST.VAL_METRICS.RECON", metrics, "MISC.GREEDY.RUN.BEST_METRIC", ""])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    logged = {key for line in lines for key in line}
    assert {f"beat_val/val_{name}" for name in ("psnr_mag_heart", "nrmse_xt_scan", "ssim_complex (Wang)")} <= logged
    assert (tmp_path / "run" / "model_best.pth").is_file()


def test_save_scans(cfg, tmp_path):
    import h5py

    pred, target = make_scan(2, 12, 12, 3, 1)
    evaluator = GreedyReconEvaluator(cfg, dataset_name="x", output_dir=str(tmp_path), save_scans=True)
    feed(evaluator, {"a": (pred, target)}).evaluate()
    with h5py.File(tmp_path / "pred" / "a.h5") as file:
        np.testing.assert_allclose(file["pred"][()], pred.numpy(), atol=1e-6)


def beating_disc(height=40, width=30, num_frames=6, center=(22, 12)):
    """A disc that grows and shrinks: magnitudes (H, W, T)."""
    row, column = np.ogrid[:height, :width]
    distance = np.hypot(row - center[0], column - center[1])
    radius = 6 + 3 * np.cos(2 * np.pi * np.arange(num_frames) / num_frames)
    return 0.2 + np.clip(radius - distance[..., None] + 0.5, 0, 1)


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
    np.testing.assert_array_equal(Profile(0, 1).of(series), series[1])
    np.testing.assert_array_equal(Profile(1, 2).of(series), series[:, 2])


@pytest.mark.parametrize("num_maps,spacing,frame_time", [(1, None, None), (2, (1.5, 2.0), 40.0)])
def test_pictures_of_a_series(tmp_path, num_maps, spacing, frame_time):
    target = np.stack([beating_disc()] * num_maps, axis=-1).astype(np.complex64)
    recons = {"zero-filled": target * 0.5, "greedy": torch.from_numpy(target * 0.9)}
    kwargs = {"target": target, "title": "disc", "pixel_spacing_mm": spacing, "frame_time_ms": frame_time}
    metrics = {"zero-filled": {"PSNR": 20.0, "SSIM": 0.5}, "greedy": {"PSNR": 30.0, "SSIM": 0.9}}
    png, gif = tmp_path / "disc.png", tmp_path / "disc.gif"
    draw_recon_figure(recons, png, metrics, **kwargs)
    draw_cine_gif(recons, gif, metrics, **kwargs)
    with Image.open(png) as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    with Image.open(gif) as picture:
        assert picture.n_frames == target.shape[2]
        assert picture.info["loop"] == 0
        assert picture.info["duration"] == (frame_time or 50)
        frames = []
        for t in range(picture.n_frames):
            picture.seek(t)
            frames.append(np.asarray(picture.convert("L")).astype(int))
        assert all(np.abs(frames[0] - frame).max() > 50 for frame in frames[1:])
    assert sorted(path.name for path in png.parent.iterdir()) == ["disc.gif", "disc.png"]


def test_picture_of_one_image(tmp_path):
    image = beating_disc()[..., :1].astype(np.complex64)  # (H, W, M)
    draw_recon_figure({"a": image * 0, "b": image}, tmp_path / "a.png", {}, target=image)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 500
    for recons, message in (
        ({"a": image, "b": image[1:]}, "one shape"),
        ({}, "at least one"),
        ({"target": image}, "none of them named"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_recon_figure(recons, tmp_path / "b.png", target=image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_any_number_of_columns_and_no_target(tmp_path):
    series = beating_disc()[..., np.newaxis].astype(np.complex64)
    sizes = {}
    for count in (1, 2, 4):
        recons = {f"run {i}": series for i in range(count)}
        for target in (None, series):
            for draw, suffix in ((draw_recon_figure, "png"), (draw_cine_gif, "gif")):
                path = tmp_path / f"a.{suffix}"
                draw(recons, path, target=target)
                with Image.open(path) as picture:
                    sizes[suffix, count + (target is not None), target is not None] = picture.size
    for suffix in ("png", "gif"):
        widths = {columns: size[0] for (kind, columns, _), size in sizes.items() if kind == suffix}
        assert sorted(widths) == [1, 2, 3, 4, 5]
        assert widths[5] - widths[4] == pytest.approx(widths[2] - widths[1], abs=1)
        assert widths[2] - widths[1] > 200
        assert sizes[suffix, 2, True][1] > sizes[suffix, 2, False][1]  # a row of errors


def test_which_weights(tmp_path):
    checkpointer = GreedyCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    out = str(tmp_path)
    with pytest.raises(UserError, match="train first"):
        find_weights(out)
    with pytest.raises(UserError, match="no file 'gone.pth'"):
        find_weights(out, given="gone.pth")
    checkpointer.save("start", tag=False)
    start = str(tmp_path / "start.pth")
    assert find_weights(out, fallback=start) == start
    checkpointer.save("model_0000007")
    last = str(tmp_path / "model_0000007.pth")
    assert find_weights(out, fallback=start) == last
    checkpointer.save("model_best", tag=False)
    assert find_weights(out, fallback=start) == str(tmp_path / "model_best.pth")
    assert find_weights(out, last=True) == last
    assert find_weights(out, given=start) == start


@pytest.fixture
def trained_run(write_config, tmp_path):
    """Writes a config and an untrained model_best.pth: trained_run(arch, modules, data) -> config file, model."""

    def make(arch, modules, data):
        config = write_config(arch, modules=modules, data=data)
        cfg = load_config(str(config))
        model = build_model(cfg)
        (tmp_path / "run").mkdir()
        GreedyCheckpointer(model, cfg.OUTPUT_DIR).save("model_best", iteration=4)
        return str(config), model

    return make


@pytest.mark.parametrize(
    "arch,modules,data", [("CineUnrolledCNN", 2, "beat"), ("GeneralizedUnrolledCNN", None, "flat")]
)
def test_eval_net(trained_run, tmp_path, capsys, arch, modules, data):
    config, model = trained_run(arch, modules, data)
    eval_net.main(["--config-file", config, "--num-figures", "1"])

    folder = tmp_path / "run" / "test_results"
    results = json.loads((folder / "results.json").read_text())
    assert results["weights"] == "model_best.pth"
    assert results["iteration"] == 4
    assert results["parameters"] == sum(p.numel() for p in model.parameters())
    scores = results["datasets"][f"{data}_test"]
    num_images = 2 * 2 * (4 if data == "beat" else 1)
    for method in ("zero_filled", "reconstruction"):
        assert set(scores[method]) == set(
            default_cine_metrics() if data == "beat" else ReconEvaluator.default_metrics()
        )
        assert scores[method]["psnr"]["count"] == num_images
        assert scores[method]["psnr_scan"]["count"] == len(scores["scans"]) == 2
        per_scan = [scan[method]["psnr"] for scan in scores["scans"].values()]
        assert np.mean(per_scan) == pytest.approx(scores[method]["psnr"]["mean"])
    assert scores["zero_filled"]["psnr"]["mean"] != scores["reconstruction"]["psnr"]["mean"]
    assert [name[-3:] for name in scores["figures"]] == ["png", "gif"][: 2 if data == "beat" else 1]
    for name in scores["figures"]:
        Image.open(folder / name).verify()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*scores["figures"], *scores["files"].values(), "results.json"]
    )
    printed = capsys.readouterr().out
    psnr = scores["zero_filled"]["psnr"]
    assert f"{psnr['mean']:.2f} ({psnr['std']:.2f})" in printed
    assert ("per frame" in printed) == (data == "beat") != ("per image" in printed)
    assert ("heart, temporal std" in printed) == (data == "beat")
    rows = [line.split()[0] for line in printed.splitlines() if line.startswith(("zero", "greedy", "recon"))]
    assert rows == ["zero-filled", "greedy" if modules else "reconstruction"]


def test_numbers_outlive_a_failing_picture_and_no_picture_outlives_its_numbers(trained_run, tmp_path, monkeypatch):
    config, _ = trained_run("GeneralizedUnrolledCNN", 2, "flat")
    folder = tmp_path / "run" / "test_results"
    eval_net.main(["--config-file", config, "--num-figures", "2"])
    assert len(list(folder.glob("*.png"))) == 2
    (folder / "mine.png").touch()

    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(report_module, "draw_recon_figure", fail)
    with pytest.raises(ZeroDivisionError):
        eval_net.main(["--config-file", config, "--num-figures", "1", "SEED", "8"])
    results = json.loads((folder / "results.json").read_text())
    assert results["seed"] == 8
    assert results["datasets"]["flat_test"]["reconstruction"]["psnr"]["count"] == 4
    assert results["datasets"]["flat_test"]["figures"] == []
    tables = ["flat_test_slices.csv", "flat_test_subjects.csv"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "flat_test_images.h5",
        *tables,
        "mine.png",
        "results.json",
    ]

    eval_net.main(["--config-file", config, "--num-figures", "0", "DATASETS.TEST", "('flat_val',)"])
    tables = ["flat_val_slices.csv", "flat_val_subjects.csv"]
    assert sorted(path.name for path in folder.iterdir()) == [*tables, "mine.png", "results.json"]


def test_tables_of_slices_and_subjects():
    """Subject x has two scans, y one; a metric of scans, one of frames that is undefined once."""
    rows = [
        *[("psnr", scan, f"{scan}-{s}-{t}", v) for scan, s, t, v in SCORES],
        *[("psnr_scan", scan, scan, v) for scan, v in (("a", 5.0), ("b", 7.0), ("c-1", 9.0))],
        *[("nrmse_xt", "a", "a-0", 0.5), ("nrmse_xt", "b", "b-3", np.nan), ("nrmse_xt", "c-1", "c-1-0", 0.1)],
    ]
    table = pd.DataFrame(rows, columns=["metric", "scan", "image", "value"])
    subjects = {"a": "x", "b": "x", "c-1": "y"}
    report = DatasetReport("d", "greedy", True, {"zero_filled": table, "reconstruction": table}, subjects=subjects)
    slices = report.slice_table().set_index(["method", "metric", "scan", "slice"])
    assert slices.loc[("reconstruction", "psnr", "a", "0"), ["mean", "std", "count"]].tolist() == [2, np.sqrt(2), 2]
    assert slices.loc[("zero_filled", "psnr", "c-1", "0"), "mean"] == 10
    assert slices.loc[("zero_filled", "psnr_scan", "b", ""), "subject"] == "x"
    assert slices.loc[("zero_filled", "nrmse_xt", "b", "3"), "count"] == 0

    of_subjects = report.subject_table().set_index(["method", "metric", "subject"])
    assert of_subjects.loc[("reconstruction", "psnr", "x"), ["mean", "count"]].tolist() == [4, 4]
    assert of_subjects.loc[("reconstruction", "psnr", "x"), "std"] == pytest.approx(np.std([1, 3, 5, 7], ddof=1))
    assert of_subjects.loc[("reconstruction", "psnr_scan", "x"), "mean"] == 6
    total = of_subjects.loc[("reconstruction", "psnr", ALL_SUBJECTS)]
    assert total.tolist() == [pytest.approx(7), pytest.approx(np.std([4, 10], ddof=1)), 2]
    assert of_subjects.loc[("zero_filled", "nrmse_xt", "x"), ["mean", "count"]].tolist() == [0.5, 1]


SCORES = [("a", 0, 0, 1.0), ("a", 0, 1, 3.0), ("b", 3, 0, 5.0), ("b", 3, 1, 7.0), ("c-1", 0, 0, 10.0)]


def test_kept_slices_come_back(tmp_path):
    images = {name: np.full((3, 2, 4, 1), i, np.complex64) for i, name in enumerate(IMAGES)}
    slices = [
        KeptSlice("a", 2, images, Geometry((1.5, 2.0), 40.0)),
        KeptSlice("a", 10, images),
        KeptSlice("b c", 0, images),
    ]
    write_slices(tmp_path / "i.h5", slices)
    back = read_slices(tmp_path / "i.h5")
    assert [kept[:2] + kept[3:] for kept in back] == [kept[:2] + kept[3:] for kept in slices]
    for name in IMAGES:
        np.testing.assert_array_equal(back[2].images[name], images[name])
    (tmp_path / "i.h5").write_bytes(b"no")
    for path in (tmp_path / "i.h5", tmp_path / "none.h5"):
        with pytest.raises(UserError, match=path.name):
            read_slices(path)


def test_kept_images_are_in_the_units_of_the_file(trained_run, tmp_path, datasets):
    """The normalizer's scale is undone."""
    import h5py

    config, _ = trained_run("CineUnrolledCNN", 2, "beat")
    opts = ["MODEL.NORMALIZER.NAME", "TopMagnitudeNormalizer", "MODEL.NORMALIZER.KEYWORDS", "('image', 'target')"]
    eval_net.main(["--config-file", config, "--num-figures", "2", *opts])
    kept = read_slices(tmp_path / "run" / "test_results" / "beat_test_images.h5")
    assert [k.scan for k in kept] == ["beat_test_0", "beat_test_1"]
    for k in kept:
        with h5py.File(datasets / "beat" / "test" / f"{k.scan}.h5") as file:
            np.testing.assert_allclose(k.images["target"], file["target"][k.slice_id], rtol=1e-4, atol=1e-5)


def test_table_without_spread_where_there_is_one_value():
    images = {"a-0-0": ("", 20.0), "a-0-1": ("", 30.0), "a": ("_scan", 24.0)}
    metrics = ("psnr", "ssim (Wang)", "nrmse")
    values = [(m + suffix, "a", image, value) for m in metrics for image, (suffix, value) in images.items()]
    table = pd.DataFrame(values, columns=["metric", "scan", "image", "value"])
    tables = {"zero_filled": table, "reconstruction": table}
    text = DatasetReport("x", label="greedy", is_cine=True, tables=tables).as_text()
    row = text.splitlines()[-1].split()
    assert row == ["greedy", "25.00", "(7.07)", "24.00", *["25.0000", "(7.0711)", "24.0000"] * 2]


@pytest.mark.parametrize("in_the_way", ["run", "run/test_results"])
def test_no_room_for_the_results(trained_run, tmp_path, capsys, in_the_way):
    config, _ = trained_run("GeneralizedUnrolledCNN", 2, "flat")
    weights = (tmp_path / "run" / "model_best.pth").rename(tmp_path / "weights.pth")
    if in_the_way == "run":
        shutil.rmtree(tmp_path / "run")
    (tmp_path / in_the_way).write_text("a file")
    with pytest.raises(SystemExit) as exit_:
        eval_net.main(["--config-file", config, "--weights", str(weights)])
    assert exit_.value.code == 2
    assert f"error: OUTPUT_DIR: {tmp_path / in_the_way} cannot be made" in capsys.readouterr().err


def test_a_misspelt_output_folder_stays_absent(trained_run, tmp_path, capsys):
    config, _ = trained_run("GeneralizedUnrolledCNN", 2, "flat")
    with pytest.raises(SystemExit):
        eval_net.main(["--config-file", config, "OUTPUT_DIR", str(tmp_path / "rnu")])
    assert "train first" in capsys.readouterr().err
    assert not (tmp_path / "rnu").exists()


@pytest.mark.parametrize(
    "args,line",
    [
        (["DATASETS.TEST", "()"], "DATASETS.TEST: missing"),
        (["DATASETS.TEST", "('beet_test',)"], "no data set 'beet_test'"),
        ([], "train first"),
        (["--weights", "gone.pth"], "no file 'gone.pth'"),
        (["--num-figures", "-1"], "--num-figures: found -1"),
    ],
)
def test_eval_net_tells_mistakes_in_one_line(write_config, capsys, args, line):
    flags, opts = (args, []) if args[:1] and args[0].startswith("--") else ([], args)
    with pytest.raises(SystemExit) as exit_:
        eval_net.main(["--config-file", str(write_config("CineUnrolledCNN", data="beat")), *flags, *opts])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 2
    assert error.startswith("error: ") and line in error
