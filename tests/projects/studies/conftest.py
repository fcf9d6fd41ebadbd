"""What the tests of the studies share."""

import pytest

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.planning.example import Example
from projects.cine.studies.budget import SMALL


@pytest.fixture
def example():
    return Example.from_shape(load_config(str(SMALL.backprop)), (16, 128, 20, 8))
