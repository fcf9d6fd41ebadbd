"""What a run needs to continue bit for bit."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.run_state import RunState

pytestmark = pytest.mark.short

NO_SCANS = SimpleNamespace(scan_names={}, example_shapes={}, contents={}, examples=[])


def draw():
    """A few numbers of every generator; of normal ones, Python and numpy keep the second of two."""
    return (
        [random.random(), random.gauss(0, 1), random.gauss(0, 1)],
        np.random.standard_normal(3).tolist() + np.random.permutation(20).tolist(),
        torch.randn(5).tolist(),
    )


@pytest.fixture
def put_back():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])


def test_all_generators_continue_where_they_were(write_config, tmp_path, put_back):
    run = RunState(load_config(str(write_config())), NO_SCANS)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    random.gauss(0, 1), np.random.standard_normal()
    torch.save(run.state_dict(), tmp_path / "state.pth")
    expected = draw()
    random.seed(4), np.random.seed(5), torch.manual_seed(6)
    resumed = RunState(load_config(str(write_config())), NO_SCANS)
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    between = draw()
    resumed.restore_generators()
    for kind, found, wanted, other in zip(("python", "numpy", "torch"), draw(), expected, between):
        assert found == wanted != other, kind


def test_nothing_is_restored_where_nothing_was_loaded(write_config, put_back):
    run = RunState(load_config(str(write_config())), NO_SCANS)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = draw()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    run.restore_generators()
    assert draw() == expected
