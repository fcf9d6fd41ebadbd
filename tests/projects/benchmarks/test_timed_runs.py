"""Timed trainings, really run."""

import pytest

from projects.cine.benchmarks import timed_runs
from projects.cine.benchmarks.sides import Side
from projects.cine.benchmarks.timed_runs import TimingCase, run_side
from tests.helpers.scaling import SMALL


@pytest.mark.parametrize("side", [Side(2, 2), Side(copies=2)], ids=["two processes", "two copies"])
def test_clocks_of_a_run(tmp_path, monkeypatch, side):
    monkeypatch.setattr(timed_runs, "NETWORK", SMALL)
    side = Side(side.processes, side.modules, copies=side.copies, steps=2, features=4)
    times = run_side(TimingCase(warmup=2, iterations=3), side, tmp_path)
    assert sorted(times) == ["backward_s", "batches_per_s", "forward_s", "step_s"]
    assert times["step_s"] == pytest.approx(side.copies / times["batches_per_s"])
    assert times["forward_s"] > 0
    runs = sorted(path.parent.name for path in tmp_path.glob("runs/*/clock-*.json"))
    assert runs == (["run0"] * side.processes if side.copies == 1 else ["run0", "run1"])


def test_summary_counts_the_time_in_which_all_copies_run():
    """Two copies, the first twice as fast; from 2 s, when both have warmed up, to 5 s, when the first is done."""
    clocks = [
        [{"done": [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0], "forward": [9.0, 9.0, *[0.1] * 8]}],
        [{"done": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "forward": [9.0, 9.0, *[0.2] * 4]}],
    ]
    times = timed_runs._summary(TimingCase(warmup=2, iterations=8), clocks)
    assert times["batches_per_s"] == pytest.approx(3)
    assert times["step_s"] == pytest.approx(2 / 3)
    assert times["forward_s"] == pytest.approx(0.2) and times["backward_s"] == pytest.approx(2 / 3 - 0.2)
