"""The study of meddlr's wrappers in 2D."""

import json

from meddlr_greedy.data.catalog import register_datasets
from projects.cine.studies import wrapped
from projects.cine.support import trials
from tests.helpers.commands import start_trial


def test_study_writes_its_table(tmp_path, monkeypatch, datasets):
    monkeypatch.setattr(trials, "_start", start_trial)
    monkeypatch.setenv("MEDDLR_GREEDY_DATASETS", str(tmp_path / "data"))
    prepare = wrapped.prepare.main
    sizes = ["--subjects", "6", "--slices", "1", "--frames", "9", "--matrix", "32", "24", "--coils", "3"]

    def prepare_small(argv):
        options = (
            [*sizes, "--split", "4", "1", "1"] if argv[0] == "phantom" else ["--split", "4", "1", "1", "--calib", "12"]
        )
        prepare([*argv, *options])

    monkeypatch.setattr(wrapped.prepare, "main", prepare_small)
    page = tmp_path / "page.md"
    page.write_text("<!-- wrapped -->\n<!-- /wrapped -->\n")
    opts = ["SOLVER.MAX_ITER", "2", "MODEL.UNROLLED.NUM_FEATURES", "4", "TEST.EVAL_PERIOD", "0"]
    try:
        wrapped.main(["--output", str(tmp_path / "runs"), "--page", str(page), "--seeds", "2", "--modules", "2", *opts])
    finally:
        monkeypatch.undo()
        register_datasets(datasets)
    study = json.loads((tmp_path / "results" / "wrapped.json").read_text())
    assert list(study["runs"]) == ["targets", "N2R", "SSDU"] and study["iterations"] == 2
    for kind, runs in study["runs"].items():
        psnr = [[run[modules]["psnr"] for run in runs] for modules in ("1", "2")]
        differences = [greedy - by for by, greedy in zip(*psnr)]
        assert f"{sum(differences) / 2:+.2f} ({', '.join(f'{d:+.2f}' for d in differences)})" in page.read_text()
        assert f"| {kind} | {sum(psnr[0]) / 2:.2f} | {sum(psnr[1]) / 2:.2f} |" in page.read_text()
        assert all(run["2"]["peak"] < run["1"]["peak"] for run in runs)
    trained = [(tmp_path / "runs" / name / "config.yaml").read_text() for name in ("n2r-2-1", "ssdu-2-1")]
    assert ["N2RModel" in trained[0], "SSDUModel" in trained[1]] == [True, True]
