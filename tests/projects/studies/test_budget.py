"""The networks that fill a budget of memory."""

from dataclasses import replace

import pytest

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError
from meddlr_greedy.planning.search import FEATURES, STEPS, with_value
from meddlr_greedy.planning.step_memory import plan_step
from projects.cine.studies.budget import FULL, SMALL, Budget, Candidate


@pytest.mark.parametrize("size", [SMALL, FULL])
def test_configs_of_the_pair_differ_in_depth_and_training_alone(size):
    backprop, greedy = (load_config(str(config)) for config in (size.backprop, size.greedy))
    for section in ("SOLVER", "DATASETS", "AUG_TRAIN", "DATALOADER"):
        assert backprop[section] == greedy[section]
    assert greedy.MISC.GREEDY.META_ARCHITECTURE == backprop.MODEL.META_ARCHITECTURE
    steps = backprop.MODEL.UNROLLED.NUM_UNROLLED_STEPS
    assert steps == 5 and backprop.MODEL.UNROLLED.NUM_FEATURES >= 16
    assert greedy.MODEL.UNROLLED.NUM_UNROLLED_STEPS == 3 * steps


@pytest.mark.stress
def test_candidates_fill_the_budget(example):
    """A minute of plans."""
    steps = 3
    reference = plan_step(load_config(str(SMALL.backprop), [STEPS, str(steps)]), example)
    budget = Budget.from_steps(SMALL, example, steps)
    assert budget.bytes == reference.peak
    backprop, greedy = budget.backprop(), budget.greedy(4 * reference.operations)
    assert (steps, budget.features) in [(c.steps, c.features) for c in backprop]
    for candidate in (*backprop, *greedy):
        assert 0.95 <= candidate.memory.peak / reference.peak <= 1
        cfg = load_config(str(candidate.config), candidate.opts)
        assert plan_step(cfg, example).peak == candidate.memory.peak
    for candidate in greedy:
        assert candidate.modules >= 2 and candidate.memory.operations <= 4 * reference.operations
    assert max(c.memory.parameters for c in greedy) > 2 * reference.parameters


def test_a_budget_that_nothing_fills(example):
    budget = Budget(SMALL, example, 1, 1, 1000, plan_step(load_config(str(SMALL.backprop)), example))
    with pytest.raises(UserError, match="no network fills 95% to 100 % of 0 MB, planned"):
        budget.backprop()


def test_a_budget_of_bytes_is_filled_by_the_widest(example):
    memory = plan_step(load_config(str(SMALL.backprop), [STEPS, "1", FEATURES, "10"]), example).peak
    budget = Budget.from_steps(replace(SMALL, memory=memory), example, 1)
    cfg = load_config(str(SMALL.backprop), [STEPS, "1", FEATURES, str(budget.features)])
    wider = with_value(cfg, FEATURES, budget.features + 1)
    assert plan_step(cfg, example).peak <= budget.bytes == memory < plan_step(wider, example).peak
    narrow = Candidate(SMALL.backprop, 1, 4, 1, plan_step(cfg, example))
    with pytest.raises(UserError, match="MB, measured .steps1-features4-modules1: "):
        budget.measured([narrow])
    whole = Candidate(SMALL.backprop, 1, budget.features, 1, plan_step(cfg, example))
    assert list(budget.measured([narrow, whole])) == [whole]
    with pytest.raises(UserError, match="--times"):
        budget.greedy(1.0)
