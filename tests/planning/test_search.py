"""The largest value that fits, found by few plans."""

import numpy as np
import pytest

from meddlr_greedy.planning.search import Growth, largest
from meddlr_greedy.planning.step_memory import StepMemory
from meddlr_greedy.planning.work import Work


@pytest.fixture
def find():
    """find(need, budget, start, bound): what is found where a value needs ``need(value)`` bytes, and the plans made."""
    return finding(in_lines=False)


@pytest.fixture
def find_steps():
    """The same for what grows in lines."""
    return finding(in_lines=True)


def finding(in_lines):
    def found(need, budget, start, bound):
        planned = []

        def plan(value):
            planned.append(value)
            return StepMemory(value, 0, 0, 0, (), int(need(value)), 0, 0.0, Work())

        return largest(Growth(start, bound, plan, in_lines), budget), planned

    return found


def by_trying_all(need, budget, bound):
    return max([value for value in range(1, bound + 1) if int(need(value)) <= budget], default=0)


@pytest.mark.parametrize("start", [1, 5, 64, 300])
@pytest.mark.parametrize(
    ("need", "most"),
    [
        (lambda n: 1_000 + 70 * n, 4),  # steps
        (lambda n: 5_000 + 40 * n + 3 * n**2, 6),  # features
        (lambda n: -(-(5_000 + 40 * n + 3 * n**2) // 512) * 512, 16),  # rounded up by the allocator
        (lambda n: max(900 * n, 4 * n**2), 8),  # another moment becomes the peak
    ],
)
def test_few_plans_find_what_trying_all_finds(find, need, most, start):
    bound = 256
    for budget in [
        1,
        int(need(1)),
        int(need(1)) - 1,
        *(int(need(v)) + d for v in (2, 7, 100, 255) for d in (-1, 0, 1)),
    ]:
        result, planned = find(need, budget, start, bound)
        expected = by_trying_all(need, budget, bound)
        assert result.value == expected and result.is_bound == (expected == bound)
        assert (result.memory.parameters if result.memory else 0) == expected
        assert len(planned) == len(set(planned)) <= most, (budget, planned)
        assert all(1 <= value <= bound for value in planned)
    result, planned = find(need, 10**9, start, bound)
    assert result.value == bound and result.is_bound and len(planned) <= 3


@pytest.mark.parametrize("start", [1, 5, 64, 300])
def test_the_step_after_the_last_is_not_planned_where_it_cannot_fit(find_steps, start):
    """Memory in steps is the largest of several lines, whose sizes are rounded."""
    lines = [(9_000_000, 10), (1_000_000, 800_000), (0, 1_000_000)]

    def need(n):
        return max(-(-(a + b * n) // 512) * 512 for a, b in lines)

    for budget in (10, need(1), need(7), need(7) - 1, need(40) + 950_001, need(40) + 990_000, need(200)):
        result, planned = find_steps(need, budget, start, 256)
        assert (
            result.value == by_trying_all(need, budget, 256)
            and result.memory is None
            or result.memory.largest <= budget
        )
    line = 1_000_000 + 800_000 * np.arange(257)
    for spare, expected in ((500_000, {5, 2, 40}), (790_000, {5, 2, 40, 41})):  # the second is too near to tell
        result, planned = find_steps(lambda n: line[n], line[40] + spare, 5, 256)
        assert result.value == 40 and set(planned) == expected


def test_any_growing_need_is_searched_to_the_end(find):
    rng = np.random.default_rng(0)
    for _ in range(100):
        jumps = np.cumsum(rng.integers(1, 10 ** rng.integers(1, 8), 300))
        budget, start = int(rng.integers(0, jumps[-1] + 2)), int(rng.integers(1, 300))
        result, planned = find(lambda n, jumps=jumps: jumps[n - 1], budget, start, 300)
        assert result.value == by_trying_all(lambda n, jumps=jumps: jumps[n - 1], budget, 300)
        assert len(planned) <= 60
