"""Which process runs which modules."""

import json

import pytest
import torch

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.parallel.partition import balanced_partition, measure_modules
from tests.helpers.jobs import ended_well


@pytest.mark.parametrize(
    ("seconds", "num", "expected"),
    [
        ([1, 1, 1, 1], 2, [2, 2]),
        ([1, 1, 1, 1, 1], 2, [3, 2]),
        ([4, 1, 1, 1, 1], 2, [1, 4]),
        ([1, 1, 1, 3], 3, [2, 1, 1]),
        ([1, 2, 3], 3, [1, 1, 1]),
        ([2, 2, 2], 1, [3]),
    ],
)
def test_balanced_partition(seconds, num, expected):
    assert balanced_partition(seconds, num) == expected


def test_measured_modules(write_config, batch_of):
    cfg = load_config(str(write_config(modules=3)))
    step = TrainingStep.from_config(cfg)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    seconds = measure_modules(step, batch_of(cfg), repetitions=1)
    assert len(seconds) == 3 and min(seconds) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in step.model.parameters())


def test_automatic_partition_is_measured_once(write_config, tmp_path, start):
    config = write_config(modules=4)
    ended_well(start(3, config))
    stored = json.loads((tmp_path / "run" / "partition.json").read_text())
    assert sum(stored["partition"]) == 4 and len(stored["partition"]) == 3 and len(stored["seconds_of_modules"]) == 4
    stored["partition"] = [1, 1, 2]
    (tmp_path / "run" / "partition.json").write_text(json.dumps(stored))
    job = start(3, config, "--resume", "SOLVER.MAX_ITER", "7")
    ended_well(job)
    assert "runs modules 3 to 4" in (tmp_path / "run" / "log.txt").read_text()
