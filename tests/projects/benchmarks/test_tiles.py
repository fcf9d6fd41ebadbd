"""The benchmark of tiles, small."""

from projects.cine.benchmarks.options import Options
from projects.cine.benchmarks.tiles import tiles


def test_every_method_is_measured(tmp_path):
    found = tiles(Options("cpu", 2, tmp_path, small=True))
    rows = {row["method"]: row for row in found["rows"]}
    assert rows["backpropagation"]["times_fewer"] == 1
    held = [rows[name]["held_mb"] for name in ("greedy", "greedy, tiles of 24 rows", "greedy, tiles of 12 rows")]
    assert held == sorted(held, reverse=True) and held[0] < rows["backpropagation"]["held_mb"]
    assert all(row["peak_mb"] > row["held_mb"] and row["processor_s"] > 0 for row in rows.values())
