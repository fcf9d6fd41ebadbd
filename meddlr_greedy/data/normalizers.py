"""Scaling of an example before it enters the network."""

from meddlr.data.transforms.transform import NORMALIZER_REGISTRY, TopMagnitudeNormalizer

__all__ = ["TimeAverageNormalizer"]


@NORMALIZER_REGISTRY.register()
class TimeAverageNormalizer(TopMagnitudeNormalizer):
    """Scales by the 95th percentile of the magnitude of the time-averaged adjoint image (DL-ESPIRiT).

    The time average, each line's sum over the frames that sampled it divided by their number, is close to a fully
    sampled image, so that the scale depends little on the acceleration. For cine the transform gives it as ``image``;
    in 2D, where there is no time, this is meddlr's ``TopMagnitudeNormalizer``.
    """

    #: The image to give to :meth:`normalize` is that of the time average.
    of_time_average = True
