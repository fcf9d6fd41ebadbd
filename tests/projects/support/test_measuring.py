"""Ratios and their order."""

import pytest

from projects.cine.support.measuring import ratio, run_in_turn


def test_ratio_is_taken_round_by_round():
    found = ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert found["ratio"] == 2 and found["rounds"] == 3
    assert found["low"] == 2 and found["high"] == 3


def test_all_sides_run_in_each_round():
    calls = []
    sides = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    found = run_in_turn(sides, 4)
    assert [sorted(calls[i : i + 3]) for i in range(0, 12, 3)] == [["a", "b", "c"]] * 4
    assert len({tuple(calls[i : i + 3]) for i in range(0, 12, 3)}) > 1
    assert sorted(value for values in found.values() for value in values) == list(range(1, 13))


def test_ratio_has_an_interval():
    found = ratio([1.0, 1.1, 0.9, 1.0, 1.2], [1.0] * 5)
    assert found["low"] <= found["ratio"] <= found["high"]
    assert found["ratio"] == pytest.approx(1.0)
