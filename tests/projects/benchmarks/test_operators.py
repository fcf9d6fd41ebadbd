"""The benchmark of data consistency, small."""

import pytest
import torch

from meddlr_greedy.ops.cine_sense import CineSenseModel
from projects.cine.benchmarks import operators as benchmark
from projects.cine.benchmarks.options import Options
from projects.cine.support.measuring import make_batch


def test_every_operator_is_measured(tmp_path):
    rows = benchmark.operators(Options("cpu", 1, tmp_path, small=True))["rows"]
    assert len(rows) == 5 and all(float(row["ratio"].split()[0]) > 0 for row in rows)


@pytest.mark.parametrize("name", ["forward", "implicit", "unrolled"])
def test_each_is_over_as_many_normal_operators_as_it_has(name, monkeypatch):
    batch = make_batch("cpu", (10, 8, 3), num_coils=2)
    model = CineSenseModel(batch["maps"], batch["mask"])
    image = model(batch["kspace"], adjoint=True)
    counted = []
    original = CineSenseModel._normal
    monkeypatch.setattr(CineSenseModel, "_normal", lambda self, x: counted.append(1) or original(self, x))
    comparisons = benchmark._comparisons(model, image, torch.ones_like(image))
    side, least, _ = next(value for key, value in comparisons.items() if f"iterations, {name}" in key)
    counts = []
    for run in (side, least):
        counted.clear()
        run()
        counts.append(len(counted))
    assert counts[0] == counts[1] > 10
