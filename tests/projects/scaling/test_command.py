"""The command of the scaling model."""

import json
from argparse import Namespace
from dataclasses import asdict

import pytest

from meddlr_greedy.jobs.local import LocalJob
from projects.cine.scaling import __main__ as scaling
from projects.cine.scaling.figure import DEVICES, MODULES
from projects.cine.scaling.model import GREEDY
from tests.helpers.scaling import MEASURED, SMALL, measure_small, predictions_by_way


@pytest.fixture
def earlier(tmp_path):
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps({"measured": asdict(MEASURED), "versions": {"torch": "x"}}))
    return path


def test_predicts_and_checks(earlier, tmp_path, capsys, monkeypatch):
    rounds = iter([3.0, 9.0, 2.0])
    monkeypatch.setattr(scaling, "chain_throughput", lambda num, device, threads: next(rounds))
    monkeypatch.setattr(scaling, "_measure_in_processes", lambda args, argv, path: scaling._read(earlier))
    page = tmp_path / "page.md"
    page.write_text("<!-- scaling -->\n<!-- /scaling -->\n")
    out = tmp_path / "out"
    scaling.main(["--output", str(out), "--check", "3", "--page", str(page)])
    result = json.loads((out / "scaling.json").read_text())
    assert {(p["modules"], p["devices"]) for p in result["predictions"]} == {(k, d) for k in MODULES for d in DEVICES}
    predicted = predictions_by_way(MEASURED, 4, 2)[GREEDY].examples_per_s
    assert result["check"]["ratio"] == pytest.approx(predicted / 3)
    assert [check["measured"] for check in result["check"]["rounds"]] == [3.0, 9.0, 2.0]
    assert "busy" in " ".join(result["assumptions"])
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "data parallel" in printed and "measured 3.000" in printed
    assert "|" in page.read_text()
    scaling.main(["--output", str(tmp_path / "again"), "--from", str(earlier)])
    again = json.loads((tmp_path / "again" / "scaling.json").read_text())
    assert again["predictions"] == result["predictions"] and "check" not in again


def test_a_file_without_times_is_refused(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(SystemExit) as end:
        scaling.main(["--output", str(tmp_path / "out"), "--from", str(path)])
    assert end.value.code == 2 and "other.json" in capsys.readouterr().err


def test_two_processes_measure(tmp_path):
    args, path = Namespace(threads=1, device="cpu", seconds=0.0), tmp_path / "scaling.json"
    job = LocalJob(2, measure_small, (args, path), tmp_path / "job.txt")
    assert job.wait(600) == [0, 0], job.text()[-3000:]
    measured = json.loads(path.read_text())["measured"]
    assert all(value > 0 for value in measured.values())
    height, width, num_frames = SMALL["shape"]
    example = height * width * num_frames
    assert measured["image_bytes"] == 8 * example
    # Image, zero-filled image and target; the mask, one for all coils; maps without frames; mean and deviation.
    maps = 8 * height * width * SMALL["num_coils"]
    assert measured["message_bytes"] == 3 * 8 * example + 4 * example + maps + 2 * 4
