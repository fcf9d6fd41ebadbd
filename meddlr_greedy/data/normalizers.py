"""Scaling of an example before it enters the network."""

from typing import Any, Dict

import numpy as np
import torch
from meddlr.data.transforms.transform import NORMALIZER_REGISTRY, Normalizer, TopMagnitudeNormalizer

__all__ = ["LeanTopMagnitudeNormalizer", "TimeAverageNormalizer", "lean"]

# Every so many values, one is in the sample that tells what is large.
_STRIDE = 64


class LeanTopMagnitudeNormalizer(TopMagnitudeNormalizer):
    """meddlr's ``TopMagnitudeNormalizer``: its values up to rounding, in a fraction of its time.

    The percentile is selected, not sorted out; a division by a real number is one, not a complex division; and the
    image, which tells the scale and is not used any further, is not scaled.
    """

    def normalize(self, masked_kspace: torch.Tensor, image: torch.Tensor, **kwargs: Any) -> Dict[str, Any]:
        """Scales k-space and, if it is one of the keywords, the target.

        Args:
            masked_kspace: Complex, any shape.
            image: Complex, any shape.
            **kwargs: "target", complex or real, any shape; whatever else is returned as it is.

        Returns:
            Dict[str, Any]: What was given, k-space and target scaled; "mean", zero, and "std", the scale: (1,).
        """
        magnitudes = np.abs(image.numpy()).ravel()  # several times faster than torch.abs of complex numbers
        scale = _kth_largest(magnitudes, int(round((1 - self._percentile) * magnitudes.size)))
        outputs = {**kwargs, "image": image, "masked_kspace": _divided(masked_kspace, scale)}
        if "target" in self._keywords:
            outputs["target"] = _divided(kwargs["target"], scale)
        return {**outputs, "mean": torch.zeros(1), "std": torch.tensor([scale])}


@NORMALIZER_REGISTRY.register()
class TimeAverageNormalizer(LeanTopMagnitudeNormalizer):
    """Scales by the 95th percentile of the magnitude of the time-averaged adjoint image (DL-ESPIRiT).

    The time average, each line's sum over the frames that sampled it divided by their number, is close to a fully
    sampled image, so that the scale depends little on the acceleration. For cine the transform gives it as ``image``;
    in 2D, where there is no time, this is meddlr's ``TopMagnitudeNormalizer``.
    """


def lean(normalizer: Normalizer) -> Normalizer:
    """Returns the lean form of meddlr's ``TopMagnitudeNormalizer``; any other normalizer as it is."""
    if type(normalizer) is not TopMagnitudeNormalizer:
        return normalizer
    return LeanTopMagnitudeNormalizer(normalizer._keywords, normalizer._percentile, normalizer._use_mean)


def _kth_largest(values: np.ndarray, k: int) -> float:
    """The k-th largest of some real values, (N,)."""
    # Twice as many as asked for are above a bound taken from a sample; the others need not be looked at. Where the
    # sample misleads, all are: the result is the same.
    sample, count = values[::_STRIDE], 2 * k // _STRIDE
    large = values
    if 0 < count <= len(sample):
        above = values[values >= np.partition(sample, -count)[-count]]
        large = above if len(above) >= k else values
    return float(np.partition(large, -k)[-k])


def _divided(x: torch.Tensor, scale: float) -> torch.Tensor:
    if not x.is_complex():
        return x / scale
    return torch.view_as_complex(torch.view_as_real(x) / scale)
