"""meddlr's wrappers around a greedy network, against meddlr's own wrappers and the definition, bit for bit."""

import pytest
import torch

from tests.helpers.wrappers import (
    WRAPPERS,
    train_by_definition,
    train_stock_wrapper,
    train_wrapped,
    wrapped_batches,
    wrapped_config,
)

SOLVER = ["SOLVER.BASE_LR", 1e-2, "SOLVER.WARMUP_ITERS", 0]


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def assert_moved(start, end):
    assert all(not torch.equal(start[name], end[name]) for name in start)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("name", WRAPPERS)
def test_one_module_is_meddlrs_wrapper(name, share):
    cfg = wrapped_config(name, overrides=[*SOLVER, "MODEL.UNROLLED.SHARE_WEIGHTS", share], NUM_MODULES=1)
    batches = wrapped_batches(5)
    start, end, _ = train_wrapped(cfg, batches)
    assert_moved(start, end)
    assert_same_bits(end, train_stock_wrapper(cfg, batches, start))


@pytest.mark.parametrize("target", ["network", "module"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_modules_by_definition(name, target):
    if target == "module" and name in ("SSDU", "Denoising"):
        pytest.skip("has no consistency")
    cfg = wrapped_config(name, overrides=SOLVER, NUM_MODULES=4, CONSISTENCY_TARGET=target)
    batches = wrapped_batches(3)
    start, end, _ = train_wrapped(cfg, batches)
    assert_moved(start, end)
    assert_same_bits(end, train_by_definition(cfg, batches, start))
