"""Scaling of examples."""

import pytest
import torch
from meddlr.data.transforms.transform import NoOpNormalizer, TopMagnitudeNormalizer

from meddlr_greedy.data.normalizers import LeanTopMagnitudeNormalizer, TimeAverageNormalizer, lean


def where_a_sample_misleads(size, sampled):
    """Magnitudes that are large on one point in 64, which a regular sample sees alone, or on all others."""
    large = (torch.arange(size) % 64 == 0) == sampled
    return torch.where(large, 100.0, 1.0) * torch.rand(size)


@pytest.mark.parametrize("keywords", [None, ("image", "target"), ("image",)])
@pytest.mark.parametrize(
    "magnitude",
    [torch.rand(80), torch.rand(64 * 90), where_a_sample_misleads(6400, True), where_a_sample_misleads(6400, False)],
    ids=["small", "large", "large ones in the sample", "no large ones in the sample"],
)
def test_lean_normalizer_is_that_of_meddlr(magnitude, keywords):
    image = torch.polar(magnitude, 6 * torch.rand(len(magnitude)))
    kspace, target = torch.randn(2, 7, 5, dtype=torch.complex64)
    stock = TopMagnitudeNormalizer(keywords)
    for normalizer in (lean(stock), TimeAverageNormalizer(keywords)):
        assert isinstance(normalizer, LeanTopMagnitudeNormalizer)
        out, expected = (n.normalize(masked_kspace=kspace, image=image, target=target) for n in (normalizer, stock))
        assert out.keys() == expected.keys()
        for key in ("masked_kspace", "target", "mean", "std"):
            torch.testing.assert_close(out[key], expected[key])


def test_lean_normalizer_takes_the_place_of_that_of_meddlr_alone():
    for normalizer in (NoOpNormalizer(), TimeAverageNormalizer()):
        assert lean(normalizer) is normalizer
