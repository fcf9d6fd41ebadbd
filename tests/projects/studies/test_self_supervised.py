"""The study of training without targets."""

import json

from meddlr_greedy.data.catalog import register_datasets
from projects.cine.studies import self_supervised


def test_study_writes_its_table(tmp_path, monkeypatch, datasets):
    monkeypatch.setenv("MEDDLR_GREEDY_DATASETS", str(tmp_path / "data"))
    small = self_supervised.prepare.main
    sizes = ["--subjects", "3", "--split", "1", "1", "1", "--slices", "1", "--frames", "4", "--matrix", "32", "24"]
    monkeypatch.setattr(self_supervised.prepare, "main", lambda argv: small([*argv, *sizes, "--coils", "3"]))
    page = tmp_path / "page.md"
    page.write_text("<!-- self-supervised -->\n<!-- /self-supervised -->\n")
    folders = ["--output", str(tmp_path / "runs"), "--page", str(page)]
    try:
        self_supervised.main([*folders, "SOLVER.MAX_ITER", "2", "MODEL.UNROLLED.NUM_FEATURES", "4"])
    finally:
        monkeypatch.undo()
        register_datasets(datasets)
    study = json.loads((tmp_path / "results" / "self_supervised.json").read_text())
    assert list(study["runs"]) == ["with targets", "without targets"]
    psnr = {label: run["reconstruction"]["psnr_scan"]["mean"] for label, run in study["runs"].items()}
    assert f"| without targets | {psnr['without targets']:.2f} |" in page.read_text()
    assert "minutes" not in page.read_text()
    assert study["runs"]["with targets"]["zero_filled"] == study["runs"]["without targets"]["zero_filled"]
