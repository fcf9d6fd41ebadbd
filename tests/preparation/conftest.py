"""A heart, and its images, for the tests of several modules."""

import numpy as np
import pytest

from tests.helpers.heart import make_heart


@pytest.fixture(scope="session")
def heart():
    return make_heart(0)


@pytest.fixture(scope="session")
def magnitude(heart):
    return np.round(1000 * np.abs(heart.image)).astype(np.uint16)
