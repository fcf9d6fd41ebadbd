"""A config for evaluators."""

import pytest
from meddlr.config import get_cfg


@pytest.fixture(scope="module")
def cfg():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    return cfg.freeze()
