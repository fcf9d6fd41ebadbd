"""The loader's benchmark runs and writes its tables."""

import json

import torch

from meddlr_greedy.data.catalog import register_datasets
from projects.cine.benchmarks import __main__ as benchmarks
from projects.cine.benchmarks import loader


def test_loader_benchmark_runs(datasets, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(loader.LOADER_CASES, "without the readout crop")
    threads = torch.get_num_threads()
    try:
        benchmarks.main(["loader", "--small", "--output", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
        register_datasets(str(datasets))
    result = json.loads((tmp_path / "loader.json").read_text())
    assert [row["example"] for row in result["rows"]] == list(loader.LOADER_CASES)
    for row in result["rows"]:
        assert all(row[f"examples/s, {workers} workers"] > 0 for workers in loader.WORKERS)
        assert all(row[f"{part} (ms)"] > 0 for part in ("read", "check", "make", "copy"))
    assert [row["workers"] for row in result["more_rows"]] == ["0", "1", "2"]
    for times_by_round in result["iterations"].values():
        assert len(times_by_round) == 1
        assert all(0 < times["waiting_s"] < times["all_s"] for times in times_by_round)
    text = capsys.readouterr().out
    assert "waiting (%)" in text and f"This machine has {result['cores']} cores" in text
