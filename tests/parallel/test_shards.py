"""The state of a whole network, and the parts of it that processes hold."""

import pytest
import torch

from meddlr_greedy.engine.accumulation import ResumableGradAccumOptimizer
from meddlr_greedy.parallel.shards import merge_optimizers, merge_schedulers, select_optimizer, select_scheduler
from tests.helpers.runs import assert_equal

POSITIONS = [[0, 2], [1, 4], [3]]


def trained(accumulate):
    """An optimizer with a parameter group for each of five parameters, as meddlr's, and its scheduler."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(2, 3)) for _ in range(5)]
    groups = [{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(parameters)]
    adam = torch.optim.Adam(groups)
    optimizer = ResumableGradAccumOptimizer(adam, accumulate) if accumulate else adam
    scheduler = torch.optim.lr_scheduler.StepLR(adam, 2)
    for _ in range(5):
        optimizer.zero_grad()
        sum(p.square().sum() for p in parameters).backward()
        optimizer.step()
        scheduler.step()
    return optimizer.state_dict(), scheduler.state_dict()


@pytest.mark.parametrize("accumulate", [0, 3])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_selected_parts_merge_to_the_whole(accumulate):
    optimizer, scheduler = trained(accumulate)
    parts = [select_optimizer(optimizer, positions) for positions in POSITIONS]
    assert_equal(merge_optimizers(parts, POSITIONS), optimizer)
    parts = [select_scheduler(scheduler, positions) for positions in POSITIONS]
    assert [len(part["base_lrs"]) for part in parts] == [2, 2, 1]
    assert_equal(merge_schedulers(parts, POSITIONS), scheduler)


def test_a_selected_part_is_that_of_its_parameters():
    optimizer, _ = trained(0)
    part = select_optimizer(optimizer, [1, 4])
    assert [group["params"] for group in part["param_groups"]] == [[0], [1]]
    assert [group["lr"] for group in part["param_groups"]] == [optimizer["param_groups"][i]["lr"] for i in (1, 4)]
    assert_equal(part["state"], {0: optimizer["state"][1], 1: optimizer["state"][4]})
