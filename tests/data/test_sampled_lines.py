"""The lines on which an example is computed."""

import numpy as np
import pytest
import torch

from meddlr_greedy.data.augment import Augmentation
from meddlr_greedy.data.sampled_lines import SampledLines
from meddlr_greedy.ops.cine_sense import CineSenseModel
from tests.helpers.examples import COILS, make_example
from tests.helpers.operators import SHAPES, assert_adjoint, make_mask, randn


def test_mask_has_no_holes_where_kspace_happens_to_be_zero():
    kspace = torch.ones(5, 4, 3, 2, dtype=torch.complex64)
    kspace[:, 0] = 0
    kspace[2, 1, 0] = 0
    sampled = torch.tensor([1.0, 1, 1, 0]).reshape(1, 4, 1, 1).expand(1, 4, 3, 1)
    lines = SampledLines.of(kspace, sampled, Augmentation.none(kspace.shape))
    assert torch.equal(lines.mask, torch.tensor([0.0, 1, 1, 0]).reshape(1, 4, 1, 1).expand(1, 4, 3, 1))
    assert torch.equal(lines.kspace(kspace.shape), kspace * lines.mask)


def test_time_average_of_a_still_object_is_the_object():
    """Where the frames together sample all lines, some of them several times."""
    kspace, maps, image = make_example(16, 12, 1)
    still = kspace.expand(-1, -1, 6, -1)
    mask = torch.zeros(1, 12, 6, 1)
    mask[0, range(12), np.arange(12) % 6] = 1
    mask[0, 5:7] = 1
    average = SampledLines.of(still, mask, Augmentation.none(still.shape)).time_average()
    torch.testing.assert_close(average.kspace((16, 12, 1, COILS)), kspace)


@pytest.mark.parametrize("kind", ["lines", "points"])
@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint_is_that_of_the_signal_model(shape, kind):
    _, *image_shape, coils, maps_sets = shape
    torch.manual_seed(0)
    height, width, frames = image_shape
    maps, mask = randn(height, width, 1, coils, maps_sets), make_mask(shape, kind)[:1]
    sampled = mask[0] if kind == "points" else mask[0, :1]
    A = CineSenseModel(maps[None], mask)

    def adjoint(kspace):
        return SampledLines.of(kspace, sampled, Augmentation.none(kspace.shape)).adjoint(maps)

    x, y = randn(height, width, frames, maps_sets), randn(height, width, frames, coils)
    assert_adjoint(lambda x: A(x[None])[0], adjoint, x, y)
    torch.testing.assert_close(adjoint(y), A(y[None], adjoint=True)[0], rtol=1e-4, atol=1e-5)
