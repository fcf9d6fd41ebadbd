"""What is there at a time in a training step by tiles: so many images, whatever their size and the network's depth."""

import pytest

from meddlr_greedy.modeling.greedy import wrapper
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import plan_step
from projects.cine.benchmarks.bounded import _NETWORKS, _SMALL, _config, deep
from projects.cine.benchmarks.options import Options


@pytest.fixture(params=list(_NETWORKS))
def arch(request):
    return request.param


@pytest.fixture
def needed(monkeypatch, tmp_path, arch):
    """Bytes of an image and of the step besides weights, batch and the maps, which the signal model orders."""
    monkeypatch.setattr(wrapper, "_bytes_of_coil_images", lambda config: 4_000)  # less than MB, which are whole numbers
    size = _SMALL._replace(features=2, tile=(32, 32))  # so small that large images need more

    def find(width, steps):
        cfg = _config(Options("cpu", 0, tmp_path), arch, size, steps)
        plan = plan_step(cfg, Example.from_shape(cfg, (width, width, 12, size.coils)))
        maps = width**2 * size.coils * 8
        rest = plan.peak - plan.parameters - plan.gradients - plan.optimizer - plan.batch - maps
        return width**2 * 12 * 8, rest

    return find


def test_images_at_a_time(needed, arch):
    (image, before), (larger_image, after) = needed(96, 2), needed(128, 2)
    assert (after - before) / (larger_image - image) <= _NETWORKS[arch].images + 0.1


def test_depth_needs_nothing_but_weights(needed):
    image, shallow = needed(32, 3)
    _, deeper = needed(32, 9)
    assert abs(deeper - shallow) < 0.01 * image


def test_the_deep_network_small(tmp_path):
    (row,) = deep(Options("cpu", 0, tmp_path, small=True))["rows"]
    assert 0 < row["held_mb"] < row["planned_peak_mb"]
