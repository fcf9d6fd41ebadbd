"""The command eval_net: its files, its printed table, and what it says of mistakes."""

import json
import shutil

import h5py
import numpy as np
import pytest
from meddlr.evaluation import ReconEvaluator
from meddlr.modeling import build_model
from PIL import Image

from meddlr_greedy import eval_net
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from meddlr_greedy.engine.setup import save_config
from meddlr_greedy.evaluation import slices as slices_module
from meddlr_greedy.evaluation.metrics.definitions import default_cine_metrics
from meddlr_greedy.evaluation.slices import read_slices
from tests.helpers.viewer_pages import data_of


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


def expect_error(capsys, words, *arguments):
    with pytest.raises(SystemExit) as exit_:
        eval_net.main([*map(str, arguments)])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and words in error and error.count("\n") == 1


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
        [*scores["figures"], *scores["files"].values(), "report.html", "results.json"]
    )
    printed = capsys.readouterr().out
    report = data_of(folder / "report.html")
    network = f"{arch} trained greedily in 2 modules" if modules else arch
    assert results["network"] == network and report["about"][0].startswith(f"{network}, {results['parameters']} param")
    # Every other line and the central 4: 8 of 12 lines of beat, 10 of 16 of flat.
    r, seed = (1.5, "SEED 3") if data == "beat" else (1.6, "seeded by the names of the scans")
    sampled = f"K-space is undersampled, R = {r}, by FixedMaskFunc (ACCELERATIONS 2, {seed})."
    assert report["about"][1:] == [f"{data}_test: {sampled}"] and sampled in printed
    assert report["selection"] == f"1 of 4 slices of {data}_test are shown (--num-figures); the table has all."
    assert all(note.endswith(".") for note in report["notes"])
    images = (
        "16 frames; per scan: over 2 scans; heart: over those that show it; x-t profile and temporal std: over 4 slices"
    )
    spread = images if data == "beat" else "4 images; per scan: over 2 scans"
    assert f"Cells: mean (standard deviation) over {spread}. Those over subjects are in report.html." in printed
    psnr = scores["zero_filled"]["psnr"]
    assert f"{psnr['mean']:.2f} ({psnr['std']:.2f})" in printed
    told = "trained greedily in 2 modules" if modules else f"Images of {arch}, as the network gives them"
    assert told in printed and "(no k-space is filled in), and zero-filled images, against the target" in printed
    assert printed.count("PSNR, complex") == printed.count("SSIM, magnitude") == printed.count("NRMSE, complex") == 2
    assert ("per frame" in printed) == (data == "beat") != ("per image" in printed)
    assert ("heart, temporal std" in printed) == (data == "beat")
    rows = [line.split()[0] for line in printed.splitlines() if line.startswith(("zero", "greedy", "recon"))]
    assert rows == ["zero-filled", "greedy" if modules else "reconstruction"]


@pytest.mark.parametrize("modules, name", [(1, "backpropagation"), ("[4]", "backpropagation"), ("[1, 3]", "greedy")])
def test_the_table_names_what_it_compares(trained_run, capsys, modules, name):
    config, _ = trained_run("GeneralizedUnrolledCNN", modules, "flat")
    eval_net.main(["--config-file", config, "--num-figures", "0", "TEST.POSTPROCESSOR.NAME", "hard_dc_all"])
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.startswith(("zero", "greedy", "back"))] == [
        "zero-filled",
        name,
    ]
    trained = "by backpropagation" if name == "backpropagation" else "greedily in 2 modules"
    assert f"Images of GeneralizedUnrolledCNN trained {trained}, with all acquired k-space filled in" in printed


def test_numbers_outlive_a_failing_picture_and_no_picture_outlives_its_numbers(
    trained_run, tmp_path, monkeypatch, capsys
):
    config, _ = trained_run("GeneralizedUnrolledCNN", 2, "flat")
    folder = tmp_path / "run" / "test_results"
    eval_net.main(["--config-file", config, "--num-figures", "2"])
    assert len(list(folder.glob("*.png"))) == 2
    (folder / "mine.png").touch()

    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(slices_module, "draw_recon_figure", fail)
    capsys.readouterr()
    eval_net.main(["--config-file", config, "--num-figures", "1", "SEED", "8"])
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(told) == 1 and "slice1.png: no picture (ZeroDivisionError" in told[0]
    assert "ZeroDivisionError" in (tmp_path / "run" / "log.txt").read_text()
    results = json.loads((folder / "results.json").read_text())
    assert results["seed"] == 8
    assert results["datasets"]["flat_test"]["reconstruction"]["psnr"]["count"] == 4
    assert results["datasets"]["flat_test"]["figures"] == []
    tables = ["flat_test_slices.csv", "flat_test_subjects.csv"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "flat_test_images.h5",
        *tables,
        "mine.png",
        "report.html",
        "results.json",
    ]

    eval_net.main(["--config-file", config, "--num-figures", "0", "DATASETS.TEST", "('flat_val',)"])
    tables = ["flat_val_slices.csv", "flat_val_subjects.csv"]
    assert sorted(path.name for path in folder.iterdir()) == [*tables, "mine.png", "report.html", "results.json"]


def test_kept_images_are_in_the_units_of_the_file(trained_run, tmp_path, datasets):
    """The normalizer's scale is undone."""
    config, _ = trained_run("CineUnrolledCNN", 2, "beat")
    opts = ["MODEL.NORMALIZER.NAME", "TopMagnitudeNormalizer", "MODEL.NORMALIZER.KEYWORDS", "('image', 'target')"]
    eval_net.main(["--config-file", config, "--num-figures", "2", *opts])
    kept = read_slices(tmp_path / "run" / "test_results" / "beat_test_images.h5")
    assert [k.scan for k in kept] == ["beat_test_0", "beat_test_1"]
    for k in kept:
        with h5py.File(datasets / "beat" / "test" / f"{k.scan}.h5") as file:
            np.testing.assert_allclose(k.images["target"], file["target"][k.slice_id], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "in_the_way,says",
    [("run", "cannot be written (Not a directory)"), ("run/test_results", "cannot be written (File exists)")],
)
def test_no_room_for_the_results(trained_run, tmp_path, capsys, in_the_way, says):
    config, _ = trained_run("GeneralizedUnrolledCNN", 2, "flat")
    weights = (tmp_path / "run" / "model_best.pth").rename(tmp_path / "weights.pth")
    if in_the_way == "run":
        shutil.rmtree(tmp_path / "run")
    (tmp_path / in_the_way).write_text("a file")
    with pytest.raises(SystemExit) as exit_:
        eval_net.main(["--config-file", config, "--weights", str(weights)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: OUTPUT_DIR: {tmp_path / in_the_way}") and error.endswith(says)


def test_a_misspelled_output_folder_stays_absent(trained_run, tmp_path, capsys):
    config, _ = trained_run("GeneralizedUnrolledCNN", 2, "flat")
    with pytest.raises(SystemExit):
        eval_net.main(["--config-file", config, "OUTPUT_DIR", str(tmp_path / "rnu")])
    assert "train first" in capsys.readouterr().err
    assert not (tmp_path / "rnu").exists()


def test_an_evaluation_that_fails_leaves_no_folder(trained_run, tmp_path, capsys):
    config, _ = trained_run("GeneralizedUnrolledCNN", 2, "flat")
    weights = str(tmp_path / "run" / "model_best.pth")
    arguments = ["--config-file", config, "--weights", weights, "MODEL.UNROLLED.NUM_FEATURES", "3"]
    there = tmp_path / "there"
    there.mkdir()
    (there / "notes.txt").touch()
    for output in (tmp_path / "new" / "run", there):
        expect_error(capsys, "use the config that the checkpoint", *arguments, "OUTPUT_DIR", output)
    assert not (tmp_path / "new").exists()
    assert sorted(path.name for path in there.iterdir()) == ["log.txt", "notes.txt"]


@pytest.mark.parametrize(
    "arch,data,of", [("CineUnrolledCNN", "beat", "2D"), ("GeneralizedUnrolledCNN", "flat", "cine")]
)
def test_data_of_the_other_kind(trained_run, capsys, arch, data, of):
    config, _ = trained_run(arch, 2, data)
    other = {"beat": "flat_test", "flat": "beat_test"}[data]
    words = f"DATASETS.TEST: '{other}' is {of}, but the network {arch} takes"
    expect_error(capsys, words, "--config-file", config, "DATASETS.TEST", f"('{other}',)")


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


@pytest.mark.parametrize("arch,data", [("CineUnrolledCNN", "beat"), ("GeneralizedUnrolledCNN", "flat")])
def test_config_beside_the_weights(trained_run, tmp_path, arch, data):
    """As training leaves it; results go to the folder of the weights."""
    config, _ = trained_run(arch, 2, data)
    save_config(load_config(config))
    eval_net.main(["--config-file", config, "--num-figures", "0"])
    expected = (tmp_path / "run" / "test_results" / "results.json").read_text()
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    shutil.rmtree(moved / "test_results")
    eval_net.main(["--weights", str(moved / "model_best.pth"), "--num-figures", "0"])
    assert (moved / "test_results" / "results.json").read_text() == expected
    assert not (tmp_path / "run").exists()


def test_neither_config_nor_one_beside_the_weights(tmp_path, capsys):
    (tmp_path / "model.pth").touch()
    for args in ([], ["--weights", str(tmp_path / "model.pth")], ["MODEL.WEIGHTS", str(tmp_path / "model.pth")]):
        with pytest.raises(SystemExit) as end:
            eval_net.main(args)
        error = capsys.readouterr().err.strip()
        assert end.value.code == 2
        assert error.startswith("error: --config-file: ") and "\n" not in error
        assert "give the config of the training run, or --weights FILE" in error
