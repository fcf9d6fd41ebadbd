"""The study of meddlr's wrappers in 2D."""

import json

import pytest

from meddlr_greedy.data.catalog import register_datasets
from projects.cine.studies import wrapped
from projects.cine.support import trials
from tests.helpers.commands import start_trial

PREPARE = wrapped.prepare.main
SIZES = ["--slices", "1", "--frames", "9", "--matrix", "32", "24", "--coils", "3"]


@pytest.fixture
def prepare_small(tmp_path, monkeypatch, datasets):
    """Lets the study prepare so many subjects, all but two of them for training."""
    monkeypatch.setenv("MEDDLR_GREEDY_DATASETS", str(tmp_path / "data"))

    def subjects(number):
        def prepare(argv):
            of_kind = ["--subjects", str(number), *SIZES] if argv[0] == "phantom" else ["--calib", "12"]
            PREPARE([*argv, *of_kind, "--split", str(number - 2), "1", "1"])

        monkeypatch.setattr(wrapped.prepare, "main", prepare)

    yield subjects
    monkeypatch.undo()
    register_datasets(datasets)


def test_fewer_subjects_than_before(prepare_small, tmp_path):
    for number in (4, 3):
        prepare_small(number)
        wrapped.prepare_data()
        annotations = (tmp_path / "data" / "phantom_2d" / "annotations").glob("*.json")
        scans = [image["file_name"] for path in annotations for image in json.loads(path.read_text())["images"]]
        assert len(scans) == number


def test_study_writes_its_table(prepare_small, tmp_path, monkeypatch):
    prepare_small(6)
    monkeypatch.setattr(trials, "_start", start_trial)
    page = tmp_path / "page.md"
    page.write_text("<!-- wrapped -->\n<!-- /wrapped -->\n")
    opts = ["SOLVER.MAX_ITER", "2", "MODEL.UNROLLED.NUM_FEATURES", "4", "TEST.EVAL_PERIOD", "0"]
    wrapped.main(["--output", str(tmp_path / "runs"), "--page", str(page), "--seeds", "2", "--modules", "2", *opts])
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
