"""The benchmarks run and write their tables."""

import json

import torch

from meddlr_greedy.data.catalog import register_datasets
from projects.cine.benchmarks import __main__ as benchmark
from projects.cine.benchmarks.data import LOADER_CASES


def test_loader_benchmark_runs(datasets, tmp_path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    monkeypatch.setattr(benchmark, "LOADER_SHAPE", (66, 48, 4, 2))
    try:
        benchmark.main(["loader", "--rounds", "1", "--output", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
        register_datasets(str(datasets))
    rows = json.loads((tmp_path / "loader.json").read_text())["rows"]
    assert [row["example"] for row in rows] == list(LOADER_CASES)
    assert all(row[f"examples/s, {workers} workers"] > 0 for row in rows for workers in (0, 1, 2))
    assert "ratio to reading" in capsys.readouterr().out
