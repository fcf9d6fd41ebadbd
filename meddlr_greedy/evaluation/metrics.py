"""Image quality of a cine series, with one data range for the whole scan.

meddlr scores an image against its own maximum, and each map set by itself. In a cine series that would let
every frame be measured by another yardstick, so here the data range is an argument, and a pixel with M map
sets is one vector of M numbers: its magnitude is the root sum of squares over the sets. For one map set and
``data_range = |targets|.max()`` every function equals the one of the same name in
:mod:`meddlr.metrics.functional.image`.

Axes: N images, M map sets, then any number of axes of pixels (the last two in-plane for :func:`ssim`).
"""

from typing import Callable, Dict, Optional, Sequence, Tuple

import meddlr.metrics.functional as mF
import pandas as pd
import tabulate
import torch
from meddlr.metrics.collection import MetricCollection
from meddlr.metrics.image import SSIM
from meddlr.metrics.metric import Metric

__all__ = [
    "CINE_METRICS",
    "CineMetric",
    "ReconMetricCollection",
    "VolumeSSIM",
    "build_cine_metrics",
    "fold_frames",
    "magnitude",
    "nrmse",
    "psnr",
    "ssim",
]

SSIM_WINDOW = 11  # pixels along an axis: the Gaussian window of Wang et al. 2004 (sigma 1.5)
_SSIM_CHUNK = 32  # images at a time: bounds the five filtered copies of each


def magnitude(images: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Root sum of squares over the map sets.

    Args:
        images: (N, M, ...), complex or real.
        dim: Axis of the map sets.

    Returns:
        torch.Tensor: (N, ...), real.
    """
    return torch.linalg.vector_norm(images, dim=dim)


def fold_frames(series: torch.Tensor) -> torch.Tensor:
    """Lays the frames of a series out as a batch of images.

    Args:
        series: (..., H, W, T, M): readout, phase encode, cardiac phases, map sets.

    Returns:
        torch.Tensor: (N, M, H, W) with N = ... * T, the frame running fastest.
    """
    # The axes are permuted before they are merged: merging them in place (a view) would mix pixels with frames.
    frames = series.movedim((-2, -1), (-4, -3))
    return frames.reshape(-1, *frames.shape[-3:])


def _component(images: torch.Tensor, im_type: Optional[str]) -> torch.Tensor:
    """The part of complex images (N, M, ...) that is compared: (N, M or 1, ...)."""
    if im_type is None:
        return images
    if im_type == "magnitude":
        return magnitude(images).unsqueeze(1)
    part: Callable[[torch.Tensor], torch.Tensor] = {
        "real": torch.real,
        "imag": torch.imag,
        "phase": torch.angle,
    }[im_type]
    return part(images)


def _error(preds: torch.Tensor, targets: torch.Tensor, im_type: Optional[str]) -> torch.Tensor:
    """Error per pixel (N, pixels): the length of the vector over the map sets."""
    return magnitude(_component(preds, im_type) - _component(targets, im_type)).flatten(1)


def mae(preds, targets, data_range=None, im_type=None) -> torch.Tensor:
    """Mean absolute error, per image. See :func:`psnr` for the arguments."""
    return _error(preds, targets, im_type).mean(1)


def mse(preds, targets, data_range=None, im_type=None) -> torch.Tensor:
    """Mean squared error, per image. See :func:`psnr` for the arguments."""
    return _error(preds, targets, im_type).square().mean(1)


def rmse(preds, targets, data_range=None, im_type=None) -> torch.Tensor:
    """Root mean squared error, per image. See :func:`psnr` for the arguments."""
    return mse(preds, targets, im_type=im_type).sqrt()


def nrmse(preds, targets, data_range=None, im_type=None) -> torch.Tensor:
    """Root mean squared error over that of the target's magnitude, per image. See :func:`psnr`."""
    return rmse(preds, targets, im_type=im_type) / magnitude(targets).flatten(1).square().mean(1).sqrt()


def psnr(
    preds: torch.Tensor,
    targets: torch.Tensor,
    data_range: torch.Tensor,
    im_type: Optional[str] = None,
) -> torch.Tensor:
    """Peak signal-to-noise ratio, per image.

    Args:
        preds: (N, M, ...), complex.
        targets: (N, M, ...), complex.
        data_range: Scalar: the peak, in the units of the images.
        im_type: What is compared: ``None`` (complex), "magnitude", "real", "imag" or "phase".

    Returns:
        torch.Tensor: (N,), in dB.
    """
    return 20 * torch.log10(data_range / rmse(preds, targets, im_type=im_type))


def ssim(preds: torch.Tensor, targets: torch.Tensor, data_range: torch.Tensor) -> torch.Tensor:
    """Structural similarity of the magnitude images, averaged over the frames of an image.

    Z Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP
    2004: Gaussian window of 11 x 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03; the 5 pixels along the edge
    have no full window and do not count.

    Args:
        preds: (N, M, ..., H, W), complex.
        targets: (N, M, ..., H, W), complex.
        data_range: Scalar, in the units of the images.

    Returns:
        torch.Tensor: (N,). NaN where the image is smaller than the window: SSIM is not defined there.
    """
    num_images = len(targets)
    # Scaled to a range of one: the constants, fourth powers of the data, would underflow on raw data.
    preds, targets = ((magnitude(images) / data_range).flatten(0, -3).unsqueeze(1) for images in (preds, targets))
    if min(targets.shape[-2:]) < SSIM_WINDOW:
        return targets.new_full((num_images,), float("nan"))
    values = [
        mF.ssim(pred, target, data_range=1.0, im_type=None)
        for pred, target in zip(preds.split(_SSIM_CHUNK), targets.split(_SSIM_CHUNK))
    ]
    return torch.cat(values).reshape(num_images, -1).mean(1)


# Name in a config -> function and its arguments; the names are meddlr's.
CINE_METRICS: Dict[str, Tuple[Callable[..., torch.Tensor], Dict[str, Optional[str]]]] = {
    f"{name}_{short}" if short else name: (function, {"im_type": im_type})
    for name, function in (
        ("psnr", psnr),
        ("nrmse", nrmse),
        ("mse", mse),
        ("rmse", rmse),
        ("mae", mae),
    )
    for short, im_type in (
        ("", None),
        ("mag", "magnitude"),
        ("real", "real"),
        ("imag", "imag"),
        ("phase", "phase"),
    )
}
CINE_METRICS["ssim (Wang)"] = (ssim, {})


class CineMetric(Metric):
    """One metric of cine images, in the form that meddlr collects.

    Attributes:
        function: One of this module's functions ``(preds, targets, data_range, **kwargs) -> (N,)``.
        kwargs: Its further arguments.
    """

    def __init__(self, function: Callable[..., torch.Tensor], **kwargs):
        super().__init__()
        self.function = function
        self.kwargs = kwargs

    def func(self, preds, targets, data_range) -> torch.Tensor:
        """Images (N, M, ...) -> values (N, 1): the map sets count as one channel."""
        return self.function(preds, targets, data_range, **self.kwargs).unsqueeze(1)

    # meddlr passes on only the arguments that this signature names.
    def update(self, preds, targets, data_range, ids=None):
        super().update(preds, targets, data_range, ids=ids)


class VolumeSSIM(SSIM):
    """meddlr's SSIM of a 2D scan's volume, defined for any number of slices.

    meddlr's window has 11 pixels along the slices too. With fewer slices no window fits, and meddlr gives NaN or
    fails; then the value is the mean over the slices, with the volume's maximum as data range.
    """

    def func(self, preds, targets) -> torch.Tensor:
        """Volumes (1, C, S, H, W) -> values (1, C)."""
        if targets.shape[2] >= SSIM_WINDOW:
            return super().func(preds, targets)
        channels = [
            ssim(preds[:, c : c + 1], targets[:, c : c + 1], magnitude(targets[:, c : c + 1]).max())
            for c in range(targets.shape[1])
        ]
        return torch.stack(channels, dim=1)


class ReconMetricCollection(MetricCollection):
    """meddlr's collection of metrics, which may also be empty or not have seen an image yet.

    One process scores a data set, also where several train: by default nothing is gathered from the others.
    """

    def to_pandas(self, sync_dist: bool = False) -> pd.DataFrame:
        """Returns one row per metric and image: columns "id", "Metric" and one per channel."""
        if not len(self):
            return pd.DataFrame({"id": [], "Metric": []})
        return super().to_pandas(sync_dist=sync_dist)

    def to_dict(self, group_by="Metric", sync_dist: bool = False) -> Dict:
        """Returns the mean value per metric, or per group."""
        if self._has_no_values(sync_dist):
            return {}
        return super().to_dict(group_by=group_by, sync_dist=sync_dist)

    def summary(self, sync_dist: bool = False) -> str:
        """Returns a table: mean (standard deviation) per metric and channel."""
        if self._has_no_values(sync_dist):
            return "(none)\n"
        values = self.to_pandas(sync_dist=sync_dist).drop(columns="id").groupby("Metric")
        mean, std = (
            frame.apply(lambda column: column.map("{:0.3f}".format)) for frame in (values.mean(), values.std())
        )
        table = mean + " (" + std + ")"
        return tabulate.tabulate(table, headers=table.columns) + "\n"

    def _has_no_values(self, sync_dist: bool) -> bool:
        return self.to_pandas(sync_dist=sync_dist).empty


def build_cine_metrics(names: Sequence[str], fmt: str = "{}") -> ReconMetricCollection:
    """Builds metrics of cine images.

    Args:
        names: Keys of ``CINE_METRICS``.
        fmt: How a metric is called in the results, with ``{}`` for its name.

    Returns:
        ReconMetricCollection: To be called with ``preds``, ``targets``, ``data_range`` and ``ids``.
    """
    return ReconMetricCollection(
        {
            fmt.format(name): CineMetric(function, **kwargs)
            for name, (function, kwargs) in ((name, CINE_METRICS[name]) for name in names)
        }
    )
