"""The sides of the comparisons: each is a network that can be built and trained."""

import pytest
from meddlr.modeling import build_model

from projects.cine.benchmarks.sides import METHODS, SIDES
from projects.cine.benchmarks.steps import side_config


@pytest.mark.parametrize("side", {**SIDES, **METHODS}.values(), ids={**SIDES, **METHODS}.keys())
def test_every_side_is_a_network(side):
    cfg = side_config(side, "cpu")
    model = build_model(cfg)
    assert getattr(model, "num_modules", 0) == side.modules
    assert cfg.MODEL.UNROLLED.NUM_UNROLLED_STEPS == side.steps
    assert cfg.MODEL.UNROLLED.NUM_FEATURES == side.features
