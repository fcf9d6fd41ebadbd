"""The loader's benchmark runs and writes its table."""

import json

import torch

from meddlr_greedy.data.catalog import register_datasets
from projects.cine.benchmarks import __main__ as benchmarks
from projects.cine.benchmarks import loader


def test_loader_benchmark_runs(datasets, tmp_path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    monkeypatch.setattr(loader, "LOADER_SHAPE", (66, 48, 4, 2))
    try:
        benchmarks.main(["loader", "--rounds", "1", "--output", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
        register_datasets(str(datasets))
    rows = json.loads((tmp_path / "loader.json").read_text())["rows"]
    assert [row["example"] for row in rows] == list(loader.LOADER_CASES)
    assert all(row[f"examples/s, {workers} workers"] > 0 for row in rows for workers in (0, 1, 2))
    assert "ratio to reading" in capsys.readouterr().out
