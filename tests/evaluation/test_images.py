"""Images of the network become complex, and get the units of the file back."""

import numpy as np
import pytest
import torch
from meddlr.config import get_cfg
from meddlr.data.transforms.transform import build_normalizer

from meddlr_greedy.evaluation.images import as_complex, in_file_units


@pytest.mark.parametrize("shape", [(2, 5, 4, 1), (2, 5, 4, 2), (2, 5, 4, 3, 2)])
def test_real_views_become_complex(shape):
    images = torch.randn(shape, dtype=torch.complex64)
    assert torch.equal(as_complex(images), images)
    assert torch.equal(as_complex(torch.view_as_real(images)), images)
    magnitudes = images.abs()[..., :1]
    assert torch.equal(as_complex(magnitudes), magnitudes)


@pytest.mark.parametrize("shape", [(2, 5, 4, 1), (2, 5, 4, 3, 2)])
def test_the_scale_is_undone_for_each_example(shape):
    cfg = get_cfg()
    cfg.MODEL.NORMALIZER.NAME = "TopMagnitudeNormalizer"
    cfg.MODEL.NORMALIZER.KEYWORDS = ("image", "target")
    images = torch.randn(shape, dtype=torch.complex64, requires_grad=True)
    batch = {"mean": torch.zeros(2, 1), "std": torch.tensor([[2.0], [5.0]])}
    restored = in_file_units(build_normalizer(cfg), images, batch)
    assert isinstance(restored, np.ndarray) and restored.dtype == np.complex64
    scales = np.array([2.0, 5.0]).reshape(-1, *[1] * (len(shape) - 1))
    np.testing.assert_allclose(restored, images.detach().numpy() * scales, rtol=1e-6)
