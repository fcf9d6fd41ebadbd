"""Which slices of reconstructed scans are in their report."""

import pytest

from meddlr_greedy.reconstruction.report import Stack, slices_with_room


@pytest.mark.parametrize(
    "stacks, room, expected",
    [
        ([Stack(3, 10), Stack(4, 10)], 70, [{0, 1, 2}, {0, 1, 2, 3}]),
        ([Stack(3, 10), Stack(4, 10)], 69, [{0, 1, 2}, {1, 2, 3}]),
        ([Stack(3, 10), Stack(4, 10)], 20, [{1}, {2}]),  # the middle ones first
        ([Stack(5, 10), Stack(1, 10)], 40, [{1, 2, 3}, {0}]),
        ([Stack(2, 100), Stack(2, 10)], 30, [set(), {0, 1}]),
        ([Stack(1, 10)], 0, [set()]),
        ([], 10, []),
    ],
)
def test_slices_with_room(stacks, room, expected):
    assert slices_with_room(stacks, room) == expected
