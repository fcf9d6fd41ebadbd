"""Metrics by their definitions, and against skimage."""

import numpy as np
import pytest
import torch
from meddlr.evaluation import ReconEvaluator
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio

from meddlr_greedy.evaluation.evaluator import CineEvaluator
from meddlr_greedy.evaluation.heart import heart_region
from meddlr_greedy.evaluation.metrics.definitions import default_cine_metrics, higher_is_better
from meddlr_greedy.evaluation.metrics.functional import fold_frames
from tests.helpers.evaluation import feed, make_reconstruction, ssim_by_skimage

pytestmark = pytest.mark.short


@pytest.mark.parametrize("shape", [(2, 16, 13, 3, 1), (3, 12, 17, 4, 2), (1, 14, 14, 1, 2), (2, 11, 20, 1, 1)])
def test_cine_metrics_agree_with_skimage(cfg, shape):
    pred, target = make_reconstruction(*shape)
    evaluator = feed(CineEvaluator(cfg, dataset_name="x"), {"a": (pred, target)})
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
    pred, target = make_reconstruction(3, 40, 34, 4, num_maps)
    target[2] = target[2, :, :, :1]  # a slice at rest has no heart
    target[:, 30, 28] = pred[:, 30, 28] = 50  # bright, and outside
    evaluator = feed(CineEvaluator(cfg, dataset_name="x", prefix=None), {"a": (pred, target)})
    results = evaluator.evaluate()
    values = evaluator.table().set_index(["metric", "image"])["value"]

    pred, target = pred.numpy().astype(complex), target.numpy().astype(complex)
    mag_pred, mag_target = np.linalg.norm(pred, axis=-1), np.linalg.norm(target, axis=-1)
    hearts = [heart_region(m) for m in mag_target]
    assert [heart.is_empty for heart in hearts] == [False, False, True]
    for heart in hearts[:2]:  # what beats, the margin, and what the smoothing may add
        assert all(0 <= first - found.start <= 2 for first, found in zip((4, 3), (heart.rows, heart.columns)))
        assert all(0 <= found.stop - last <= 2 for last, found in zip((9, 8), (heart.rows, heart.columns)))
    peak = max(heart.crop(m).max() for heart, m in zip(hearts[:2], mag_target))
    assert peak < mag_target.max() / 2
    expected, slice_psnr = {}, {}
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
        profiles = [[m[m.shape[0] // 2], m[:, m.shape[1] // 2]] for m in (mp, mt)]  # through the middle of the box
        longest = np.argmax([line.var(axis=-1).sum() for line in profiles[1]])
        profile, target_profile = (lines[longest] for lines in profiles)
        expected["nrmse_xt", f"a-{s}"] = np.linalg.norm(profile - target_profile) / np.linalg.norm(target_profile)
        stds = mp.std(-1), mt.std(-1)
        expected["nrmse_tstd", f"a-{s}"] = np.linalg.norm(stds[0] - stds[1]) / np.linalg.norm(stds[1])
        slice_psnr[s] = 20 * np.log10(peak / np.sqrt((complex_error**2).mean()))
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=2e-4), key
    for name in ("psnr_heart", "ssim (Wang)_heart"):
        assert np.isnan(values[name, "a-2-0"])
    assert np.isnan(values["nrmse_xt", "a-2"])
    assert results["psnr_heart_scan"] == pytest.approx(np.mean(list(slice_psnr.values())), rel=1e-4)
    assert results["nrmse_tstd_scan"] == pytest.approx(results["nrmse_tstd"], rel=1e-4)


def test_averaging_over_time_is_seen_in_the_heart_alone(cfg):
    """The static body flatters: the mean over time is a good image, and has no motion left."""
    _, target = make_reconstruction(1, 40, 34, 4, 1)
    target = target[:, :, :, :1].repeat(1, 1, 1, 4, 1)
    target[:, 14:26, 12:24, 1::2] *= 4
    blurred = target.mean(3, keepdim=True).expand_as(target)
    scores = feed(CineEvaluator(cfg, dataset_name="x", prefix=None), {"a": (blurred, target)}).evaluate()
    assert scores["nrmse_heart"] > 1.1 * scores["nrmse"]
    assert scores["ssim (Wang)_heart"] < scores["ssim (Wang)"] - 0.1
    assert scores["nrmse_tstd"] == pytest.approx(1, abs=1e-5)
    perfect = feed(CineEvaluator(cfg, dataset_name="x", prefix=None), {"a": (target, target)}).evaluate()
    for name in ("nrmse_heart", "nrmse_xt", "nrmse_tstd"):
        assert perfect[name] == 0
    for name in ("ssim (Wang)_heart", "ssim_complex (Wang)", "ssim (Wang)_heart_scan"):
        assert perfect[name] == pytest.approx(1)


def test_complex_ssim_sees_the_phase(cfg):
    _, target = make_reconstruction(1, 20, 20, 2, 1)
    metrics = ["ssim (Wang)", "ssim_complex (Wang)"]
    wrong, shared = (
        feed(CineEvaluator(cfg, dataset_name="x", metrics=metrics, prefix=None), {"a": scan}).evaluate()
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
    _, target = make_reconstruction(2, 16, 16, 4, 1)
    pred = target.clone()
    pred[1, :, :, 2] += 0.3
    evaluator = feed(CineEvaluator(cfg, dataset_name="x", metrics=["ssim (Wang)", "mse"]), {"a": (pred, target)})
    values = evaluator.evaluate() and evaluator.table().set_index(["metric", "image"])["value"]
    for s in range(2):
        for t in range(4):
            is_wrong = (s, t) == (1, 2)
            assert (values["val_ssim (Wang)", f"a-{s}-{t}"] < 0.9) == is_wrong
            assert values["val_mse", f"a-{s}-{t}"] == pytest.approx(0.09 if is_wrong else 0, rel=1e-4, abs=1e-9)


def test_data_range_is_that_of_the_scan(cfg):
    """Brightening one scan, error and all, changes neither its own PSNR nor that of the other."""
    first, second = make_reconstruction(2, 12, 12, 3, 1), make_reconstruction(2, 12, 12, 3, 1, seed=1)
    metrics = ["psnr", "ssim (Wang)", "psnr_scan", "ssim (Wang)_scan"]

    def evaluate(scans):
        return feed(CineEvaluator(cfg, dataset_name="x", metrics=metrics, group_by_scan=True), scans).evaluate()

    together = evaluate({"a": first, "b": tuple(100 * x for x in second)})
    assert set(together) == {"a", "b"}
    for scan_id, alone in (("a", evaluate({"a": first})["a"]), ("b", evaluate({"b": second})["b"])):
        assert set(alone) == {f"val_{name}" for name in metrics}
        assert together[scan_id] == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_ssim_does_not_depend_on_the_unit(cfg, scale):
    pred, target = make_reconstruction(1, 12, 12, 2, 1)
    evaluator = CineEvaluator(cfg, dataset_name="x", metrics=["ssim (Wang)"])
    scaled, plain = (feed(evaluator, {"a": (k * pred, k * target)}, mean=0.0, std=k).evaluate() for k in (scale, 1.0))
    assert scaled == pytest.approx(plain, rel=1e-4)
