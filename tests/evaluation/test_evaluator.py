"""The evaluators against meddlr's own, what they hold in memory, and what they refuse."""

import h5py
import numpy as np
import pytest
import torch
from meddlr.evaluation import ReconEvaluator
from meddlr.ops import fft2c

from meddlr_greedy import train_net
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.evaluator import CineEvaluator, ImageEvaluator, build_evaluator
from meddlr_greedy.evaluation.metrics.definitions import default_cine_metrics
from tests.helpers import runs
from tests.helpers.evaluation import feed, make_reconstruction, ssim_by_skimage

pytestmark = pytest.mark.short


def test_one_scan_in_memory(cfg):
    scans = {f"scan-{i}": make_reconstruction(3, 12, 12, 2, 1, seed=i) for i in range(3)}
    evaluator = feed(CineEvaluator(cfg, dataset_name="x"), scans, batch_size=1)
    assert [p["metadata"]["scan_id"] for p in evaluator._predictions] == ["scan-2"] * 3
    assert set(evaluator._scored_scans) == {"scan-0", "scan-1"}
    evaluator.evaluate()
    assert not evaluator._predictions
    assert sorted(evaluator.table()["scan"].unique()) == sorted(scans)


@pytest.mark.parametrize("flush_period", [0, 2, -1, -5])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_results_do_not_depend_on_batches_and_flushing(cfg, flush_period, batch_size):
    scans = {f"s{i}": make_reconstruction(3, 12, 12, 2, 1, seed=i) for i in range(3)}
    evaluator = CineEvaluator(cfg, dataset_name="x")
    expected = feed(evaluator, scans).evaluate()
    evaluator.flush_period = flush_period
    assert feed(evaluator, scans, batch_size).evaluate() == expected


def test_scan_that_comes_back_is_refused(cfg):
    evaluator = feed(CineEvaluator(cfg, dataset_name="x"), {i: make_reconstruction(1, 12, 12, 2, 1) for i in "ab"})
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
    scans = {"a-0": make_reconstruction(11, 13, 12, num_maps), "b": make_reconstruction(12, 13, 12, num_maps, seed=1)}
    own, stock = (
        feed(cls(cfg, dataset_name="x", **kwargs), scans, batch_size=6).evaluate()
        for cls in (ImageEvaluator, ReconEvaluator)
    )
    assert own == stock
    assert len(own) == (2 if "group_by_scan" in kwargs else 10 * num_maps)


def test_2d_scan_of_few_slices(cfg):
    pred, target = make_reconstruction(3, 16, 15, 1)
    results = feed(ImageEvaluator(cfg, dataset_name="x"), {"a": (pred, target)}).evaluate()
    p, r = (np.abs(x[..., 0].numpy().astype(complex)) for x in (pred, target))
    expected = np.mean([ssim_by_skimage(p[s], r[s], r.max()) for s in range(3)])
    assert results["val_ssim (Wang)_scan"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("evaluator_type,shape", [(ImageEvaluator, (2, 12, 12, 1)), (CineEvaluator, (2, 12, 12, 3, 1))])
@pytest.mark.parametrize("metrics", [["psnr"], ["psnr_scan"], ["ssim (Wang)_scan", "nrmse_scan"], False])
def test_metrics_only_per_image_or_only_per_scan(cfg, tmp_path, evaluator_type, shape, metrics):
    scans = {"a": make_reconstruction(*shape)}
    evaluator = evaluator_type(cfg, dataset_name="x", metrics=metrics, output_dir=str(tmp_path))
    results = feed(evaluator, scans).evaluate()
    assert set(results) == {f"val_{name}" for name in metrics or []} == set(evaluator.metric_names)
    everything = feed(evaluator_type(cfg, dataset_name="x"), scans).evaluate()
    assert all(value == everything[name] for name, value in results.items())


def test_zero_filled_image_may_be_a_real_view(cfg):
    for evaluator_type, shape in ((ImageEvaluator, (2, 12, 12, 2)), (CineEvaluator, (2, 12, 12, 3, 2))):
        scans = {"a": make_reconstruction(*shape)}
        expected = feed(evaluator_type(cfg, dataset_name="x"), scans).evaluate()
        zero_filled = evaluator_type(cfg, dataset_name="x", scored_output="zf_image", postprocess="")
        assert feed(zero_filled, scans).evaluate() == expected


def test_hard_data_consistency_is_scored_and_shown(cfg):
    """Fully sampled k-space of the target: postprocessing makes any reconstruction the target."""
    cfg = cfg.clone().defrost()
    cfg.TEST.POSTPROCESSOR.NAME = "hard_dc_all"
    _, target = make_reconstruction(1, 12, 14, 3, 1)
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
    for options in ({"scored_output": "zf_image", "postprocess": ""}, {}):
        evaluator = CineEvaluator(cfg, dataset_name="x", metrics=["nrmse"], **options)
        evaluator.reset()
        evaluator.process(inputs, outputs)
        errors.append(evaluator.evaluate()["val_nrmse"])
    assert errors == [pytest.approx(0.5), pytest.approx(0, abs=1e-5)]
    torch.testing.assert_close(outputs["pred"], target)


def test_unknown_metric(cfg):
    for evaluator_type, images in ((ImageEvaluator, "2D images"), (CineEvaluator, "a cine series")):
        message = rf"TEST.VAL_METRICS.RECON: no metric 'pnsr_scan' of {images}; did you mean 'psnr'\?"
        with pytest.raises(UserError, match=message):
            evaluator_type(cfg, dataset_name="x", metrics=["pnsr_scan"])
    ImageEvaluator(cfg, dataset_name="x", metrics=["DSC"])  # meddlr's, for 2D
    with pytest.raises(UserError, match="no metric 'DSC' of a cine series"):
        CineEvaluator(cfg, dataset_name="x", metrics=["DSC"])
    CineEvaluator(cfg, dataset_name="x", metrics=["psnr", "nrmse_xt_scan"])
    with pytest.raises(UserError, match="no metric 'nrmse_xt_scan' of 2D images"):
        ImageEvaluator(cfg, dataset_name="x", metrics=["psnr", "nrmse_xt_scan"])


def test_no_target(cfg):
    _, target = make_reconstruction(1, 12, 12, 2, 1)
    inputs = {"mean": torch.zeros(1, 1), "std": torch.ones(1, 1), "metadata": [{"scan_id": "a", "slice_id": 1}]}
    for output in ("pred", "zf_image"):
        evaluator = CineEvaluator(cfg, dataset_name="x", scored_output=output)
        evaluator.reset()
        for outputs in ({"pred": target, "zf_image": target}, {"pred": target, "zf_image": target, "target": None}):
            with pytest.raises(UserError, match="scan 'a' has no target .* meddlr-greedy reconstruct"):
                evaluator.process(inputs, outputs)


def test_training_with_metrics_of_the_heart(write_config, tmp_path):
    names = "('psnr_mag_heart', 'nrmse_xt_scan', 'ssim_complex (Wang)')"
    best = "val_ssim_complex (Wang)"  # in these data nothing beats: there is no heart, and its metrics are NaN
    config = str(write_config("CineUnrolledCNN", data="beat"))
    train_net.main(["--config-file", config, "TEST.VAL_METRICS.RECON", names, "MISC.GREEDY.RUN.BEST_METRIC", best])
    lines = runs.metrics(tmp_path / "run")
    logged = {key for line in lines for key in line}
    assert {f"beat_val/val_{name}" for name in ("psnr_mag_heart", "nrmse_xt_scan", "ssim_complex (Wang)")} <= logged
    assert (tmp_path / "run" / "model_best.pth").is_file()


def test_save_scans(cfg, tmp_path):
    pred, target = make_reconstruction(2, 12, 12, 3, 1)
    evaluator = CineEvaluator(cfg, dataset_name="x", output_dir=str(tmp_path), save_scans=True)
    feed(evaluator, {"a": (pred, target)}).evaluate()
    with h5py.File(tmp_path / "pred" / "a.h5") as file:
        np.testing.assert_allclose(file["pred"][()], pred.numpy(), atol=1e-6)


@pytest.mark.parametrize("data,evaluator_type", [("flat", ImageEvaluator), ("beat", CineEvaluator)])
def test_the_kind_of_data_chooses_the_evaluator(cfg, datasets, data, evaluator_type):
    evaluator = build_evaluator(cfg, f"{data}_val", prefix=None)
    assert type(evaluator) is evaluator_type and evaluator.is_cine == (data == "beat")
    default = default_cine_metrics() if data == "beat" else ReconEvaluator.default_metrics()
    assert evaluator.metric_names == evaluator.metrics == default
    assert build_evaluator(cfg, f"{data}_val", ["psnr"]).metric_names == ["val_psnr"]


def test_unknown_data_set(cfg, datasets):
    with pytest.raises(UserError, match="no data set 'beet_val'"):
        build_evaluator(cfg, "beet_val")


@pytest.mark.parametrize("arch,data", [("CineUnrolledCNN", "beat"), ("GeneralizedUnrolledCNN", "flat")])
def test_a_wrong_metric_ends_the_training_before_it_begins(write_config, tmp_path, capsys, arch, data):
    """Also one that exists, for the other kind of data."""
    other = "('DSC',)" if data == "beat" else "('nrmse_xt',)"
    config = str(write_config(arch, data=data))
    with pytest.raises(SystemExit) as end:
        train_net.main(["--config-file", config, "TEST.VAL_METRICS.RECON", other])
    assert end.value.code == 2
    assert f"no metric '{other[2:-3]}' of " in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.pth"))


def empty_frame(target):
    target[1, :, :, 2] = 0


def empty_slice(target):
    target[1] = 0


@pytest.mark.parametrize(
    "evaluator_type, shape", [(CineEvaluator, (3, 16, 14, 4, 1)), (ImageEvaluator, (3, 16, 14, 1))]
)
@pytest.mark.parametrize("metric", ["nrmse", "nrmse_mag", "psnr"])
def test_an_image_without_signal_does_not_decide_a_mean(cfg, caplog, evaluator_type, shape, metric):
    """Its target is empty, so that its NRMSE is infinite; of 2D images, whose peak is their own, the PSNR too."""
    pred, target = make_reconstruction(*shape)
    (empty_frame if len(shape) == 5 else empty_slice)(target)
    evaluator = evaluator_type(cfg, dataset_name="x", metrics=[metric, f"{metric}_scan"])
    values = feed(evaluator, {"a": (pred, target)}).evaluate()
    assert np.isfinite(list(values.values())).all()
    table = evaluator.table().query("metric == @name", local_dict={"name": f"val_{metric}"})["value"]
    is_defined = metric == "psnr" and len(shape) == 5
    assert table.isna().sum() == (0 if is_defined else 1)
    assert values[f"val_{metric}"] == pytest.approx(table.mean())
    told = f"val_{metric} of 1 of {len(table)} images"
    assert (told in caplog.text) != is_defined


@pytest.mark.parametrize(
    "evaluator_type, shape", [(CineEvaluator, (3, 16, 14, 4, 1)), (ImageEvaluator, (3, 16, 14, 1))]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_no_image_to_leave_out(cfg, caplog, evaluator_type, shape, value):
    pred, target = make_reconstruction(*shape)
    pred[1, 3, 4] = value
    evaluator = evaluator_type(cfg, dataset_name="x", metrics=["psnr"])
    assert np.isnan(feed(evaluator, {"a": (pred, target)}).evaluate()["val_psnr"])
    assert "1 images hold NaN or infinity (first a, slice 1)" in caplog.text
    pred[1] = target[1]
    assert np.isfinite(feed(evaluator, {"a": (pred, target)}).evaluate()["val_psnr"])
