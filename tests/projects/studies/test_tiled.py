"""The study of trainings on tiles."""

import json

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.catalog import register_datasets
from projects.cine.studies import tiled
from projects.cine.support import trials
from tests.helpers.commands import start_trial


def test_study_writes_its_table(tmp_path, monkeypatch, datasets):
    monkeypatch.setenv("MEDDLR_GREEDY_DATASETS", str(tmp_path / "data"))
    small = tiled.prepare.main
    sizes = ["--subjects", "3", "--split", "1", "1", "1", "--slices", "1", "--frames", "4", "--matrix", "32", "24"]
    monkeypatch.setattr(tiled.prepare, "main", lambda argv: small([*argv, *sizes, "--coils", "3"]))
    monkeypatch.setattr(trials, "_start", start_trial)
    page = tmp_path / "page.md"
    page.write_text("<!-- tiled -->\n<!-- /tiled -->\n")
    opts = ["SOLVER.MAX_ITER", "2", "MODEL.UNROLLED.NUM_FEATURES", "4"]
    try:
        tiled.main(["--output", str(tmp_path / "runs"), "--page", str(page), "--seeds", "2", *opts])
    finally:
        monkeypatch.undo()
        register_datasets(datasets)
    study = json.loads((tmp_path / "results" / "tiled.json").read_text())
    assert study["iterations"] == 2 and study["seeds"] == [1, 2] and len(study["psnr"]) == 2
    for network, found in study["psnr"].items():
        differences = [b - a for a, b in zip(found["whole image"], found["tiles"])]
        assert max(map(abs, differences)) < 0.01  # rounding, of two iterations
        means = [f"{sum(found[image]) / 2:.2f}" for image in ("whole image", "tiles")]
        assert f"| {network} | {' | '.join(means)} |" in page.read_text()
    greedy = {
        name: load_config(str(tmp_path / "runs" / name / "config.yaml"), []).MISC.GREEDY
        for name in ("gradient-steps-tiles-1", "conjugate-gradients-whole-image-2")
    }
    found = [(g.META_ARCHITECTURE, list(g.TILE), g.CG_BACKWARD) for g in greedy.values()]
    assert found == [("CineUnrolledCNN", [24, 32], "unrolled"), ("CGCineUnrolledCNN", [0, 0], "implicit")]
