"""What tests of tiles share."""

import pytest

from meddlr_greedy.modeling.greedy.local_gradients import _Run


@pytest.fixture
def passes(monkeypatch):
    """Of each module that has run, whether nothing of it but a tile had a graph."""
    counted = []
    tiled_step = _Run.tiled_step

    def counting(self, k):
        found = tiled_step(self, k)
        counted.append(found is not None)
        return found

    monkeypatch.setattr(_Run, "tiled_step", counting)
    return counted
