"""The benchmark of a large slice, small and in this process."""

from meddlr_greedy import reconstruct
from projects.cine.benchmarks import large as module
from projects.cine.benchmarks.large import large
from projects.cine.benchmarks.options import Options


def test_all_ways_give_the_same_image(tmp_path, monkeypatch):
    def here(config, weights, output, scans):
        reconstruct.main(
            ["--config-file", f"{config}", "--weights", f"{weights}", "--output", f"{output}", f"{scans[0]}"]
        )
        return [10**6]

    monkeypatch.setattr(module, "peaks_of_reconstruct", here)
    rows = large(Options("cpu", 1, tmp_path, small=True))["rows"]
    assert len(rows) == 2 and rows[0]["difference"] == 0
    assert all(row["difference"] < 1e-5 and row["peak_mb"] == 1 for row in rows)
