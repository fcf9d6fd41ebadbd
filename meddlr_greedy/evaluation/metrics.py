"""Image quality of a cine series, with one data range for the whole scan.

meddlr scores an image against its own maximum, and each map set by itself. In a cine series that would let
every frame be measured by another yardstick, so here the data range is an argument, and a pixel with M map
sets is one vector of M numbers: its magnitude is the root sum of squares over the sets. For one map set and
``data_range = |targets|.max()`` every function equals the one of the same name in
:mod:`meddlr.metrics.functional.image`.

Axes: N images, M map sets, then any number of axes of pixels (the last two in-plane for :func:`ssim`).
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import pandas as pd
import tabulate
import torch
import torch.nn.functional as F  # noqa: N812 (torch's habit)
from meddlr.metrics.build import build_metrics
from meddlr.metrics.collection import MetricCollection
from meddlr.metrics.image import SSIM
from meddlr.metrics.metric import Metric

from meddlr_greedy.evaluation.heart import HeartRegion

__all__ = [
    "CINE_METRICS",
    "CineMetric",
    "CineSlice",
    "ReconMetricCollection",
    "VolumeSSIM",
    "build_cine_metrics",
    "default_cine_metrics",
    "fold_frames",
    "higher_is_better",
    "magnitude",
    "nrmse",
    "nrmse_tstd",
    "psnr",
    "ssim",
]

SSIM_WINDOW = 11  # pixels along an axis: the Gaussian window of Wang et al. 2004 (sigma 1.5)
_SSIM_SIGMA, _SSIM_K1, _SSIM_K2 = 1.5, 0.01, 0.03
_SSIM_CHUNK = 32  # images at a time: bounds the filtered copies of each


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
    return series.movedim((-2, -1), (-4, -3)).flatten(0, -4)


def _as_one_image(frames: torch.Tensor) -> torch.Tensor:
    """Frames (N, M, H, W) as one image with N * H * W pixels, (1, M, N, H, W)."""
    return frames.movedim(0, 1).unsqueeze(0)


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


def ssim(
    preds: torch.Tensor, targets: torch.Tensor, data_range: torch.Tensor, im_type: Optional[str] = "magnitude"
) -> torch.Tensor:
    """Structural similarity, averaged over the frames of an image.

    Z Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP
    2004: Gaussian window of 11 x 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03; the 5 pixels along the edge
    have no full window and do not count.

    Of complex images (``im_type`` None) the real and imaginary parts of all map sets are the components of one
    vector per pixel: products in the formula become scalar products. A wrong phase lowers it, a phase that both
    images share does not.

    Args:
        preds: (N, M, ..., H, W), complex.
        targets: (N, M, ..., H, W), complex.
        data_range: Scalar, in the units of the images.
        im_type: "magnitude" or ``None`` (complex).

    Returns:
        torch.Tensor: (N,). NaN where the image is smaller than the window: SSIM is not defined there.
    """
    num_images = len(targets)
    if min(targets.shape[-2:]) < SSIM_WINDOW:
        return targets.new_full((num_images,), float("nan"), dtype=torch.float32)
    # Scaled to a range of one: the constants, fourth powers of the data, would underflow on raw data.
    preds, targets = (_as_vectors(images, im_type) / data_range for images in (preds, targets))
    chunks = zip(preds.split(_SSIM_CHUNK), targets.split(_SSIM_CHUNK))
    return torch.cat([_mean_ssim(pred, target) for pred, target in chunks]).reshape(num_images, -1).mean(1)


def _as_vectors(images: torch.Tensor, im_type: Optional[str]) -> torch.Tensor:
    """Images (N, M, ..., H, W) -> (N * ..., V, H, W): a real vector of V components per pixel."""
    images = _component(images, im_type)
    parts = torch.view_as_real(images) if torch.is_complex(images) else images.unsqueeze(-1)
    vectors = parts.movedim((1, -1), (-4, -3))  # (N, ..., M, parts, H, W)
    return vectors.flatten(-4, -3).flatten(0, -4)


def _mean_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean over the SSIM map of each pair of images (N, V, H, W), of range one: (N,)."""
    c1, c2 = _SSIM_K1**2, _SSIM_K2**2
    num = x.shape[1]
    products = torch.stack([(a * b).sum(1) for a, b in ((x, x), (y, y), (x, y))], dim=1)
    means = _gaussian_filter(torch.cat([x, y, products], dim=1))
    mean_x, mean_y, (xx, yy, xy) = means[:, :num], means[:, num : 2 * num], means[:, 2 * num :].unbind(1)
    mean_xx, mean_yy, mean_xy = ((a * b).sum(1) for a, b in ((mean_x, mean_x), (mean_y, mean_y), (mean_x, mean_y)))
    luminance = (2 * mean_xy + c1) / (mean_xx + mean_yy + c1)
    structure = (2 * (xy - mean_xy) + c2) / (xx - mean_xx + yy - mean_yy + c2)
    return (luminance * structure).flatten(1).mean(1)


def _gaussian_filter(images: torch.Tensor) -> torch.Tensor:
    """The means in Wang's window around every pixel that has a full one: (N, V, H, W) -> (N, V, H - 10, W - 10)."""
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype, device=images.device) - SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    window = (window / window.sum()).reshape(1, 1, 1, -1)
    flat = images.reshape(-1, 1, *images.shape[-2:])
    flat = F.conv2d(F.conv2d(flat, window), window.transpose(2, 3))
    return flat.reshape(*images.shape[:2], *flat.shape[-2:])


def nrmse_tstd(preds, targets, data_range=None) -> torch.Tensor:
    """Error of the temporal standard deviation of the magnitude, per series.

    The map of standard deviations over the frames says where and how much a pixel changes: averaging over time, the
    usual mistake of an accelerated series, makes it too small where the heart moves; residual aliasing too large.

    Args:
        preds: (N, M, T, ...), complex: frames in the third place, then pixels.
        targets: As ``preds``.
        data_range: Not used.

    Returns:
        torch.Tensor: (N,): the root mean squared difference of the two maps over the root mean square of the target's.
    """
    deviations = (m - m.mean(1, keepdim=True) for m in (magnitude(preds), magnitude(targets)))
    maps, of_target = (deviation.square().mean(1).sqrt().flatten(1) for deviation in deviations)
    return torch.linalg.vector_norm(maps - of_target, dim=1) / torch.linalg.vector_norm(of_target, dim=1)


# ---- What of a slice a metric is computed on, and the names of metrics


class CineSlice(NamedTuple):
    """A slice to be scored: series (H, W, T, M), complex, and the heart in the target."""

    name: str
    pred: torch.Tensor
    target: torch.Tensor
    heart: HeartRegion


def _frames(series: torch.Tensor, heart: HeartRegion) -> torch.Tensor:
    return fold_frames(series)


def _heart_frames(series: torch.Tensor, heart: HeartRegion) -> torch.Tensor:
    return fold_frames(heart.crop(series))


def _heart_frames_with_margin(series: torch.Tensor, heart: HeartRegion) -> torch.Tensor:
    # Half a window more: so the windows that have their centre in the region are all there, and no others.
    return fold_frames(heart.crop(series, margin=SSIM_WINDOW // 2))


def _heart_series(series: torch.Tensor, heart: HeartRegion) -> torch.Tensor:
    return _as_one_image(fold_frames(heart.crop(series)))


def _xt_profile(series: torch.Tensor, heart: HeartRegion) -> torch.Tensor:
    return heart.profile(series).movedim(-1, 0).unsqueeze(0)


class _Definition(NamedTuple):
    """A metric of cine.

    Attributes:
        function: One of this module's functions ``(preds, targets, data_range, **kwargs) -> (N,)``.
        kwargs: Its further arguments.
        view: What of a series (H, W, T, M) it is computed on: (N, M, ...), N its frames, or 1 for what happens in time.
    """

    function: Callable[..., torch.Tensor]
    kwargs: Dict[str, Any]
    view: Callable[[torch.Tensor, HeartRegion], torch.Tensor] = _frames

    @property
    def in_heart(self) -> bool:
        return self.view is not _frames

    @property
    def is_over_time(self) -> bool:
        return self.view in (_heart_series, _xt_profile)

    @property
    def higher_is_better(self) -> bool:
        return self.function in (psnr, ssim)


_HEART = "_heart"  # suffix of a metric that is computed in the heart region

# Name in a config -> definition; the names are meddlr's, where it has the metric.
CINE_METRICS: Dict[str, _Definition] = {
    f"{name}_{short}" if short else name: _Definition(function, {"im_type": im_type})
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
CINE_METRICS["ssim (Wang)"] = _Definition(ssim, {})
CINE_METRICS["ssim_complex (Wang)"] = _Definition(ssim, {"im_type": None})
CINE_METRICS.update(
    {
        name + _HEART: metric._replace(view=_heart_frames_with_margin if metric.function is ssim else _heart_frames)
        for name, metric in CINE_METRICS.items()
    }
)
CINE_METRICS["nrmse_xt"] = _Definition(nrmse, {"im_type": "magnitude"}, _xt_profile)
CINE_METRICS["nrmse_tstd"] = _Definition(nrmse_tstd, {}, _heart_series)


def default_cine_metrics() -> List[str]:
    """PSNR, SSIM and NRMSE, complex and magnitude, of the image and of the heart; the errors over time; each also of
    the scan."""
    of_image = ["psnr", "psnr_mag", "ssim_complex (Wang)", "ssim (Wang)", "nrmse", "nrmse_mag"]
    names = [*of_image, *(name + _HEART for name in of_image), "nrmse_xt", "nrmse_tstd"]
    return [*names, *(f"{name}_scan" for name in names)]


def higher_is_better(name: str) -> bool:
    """Whether a larger value of a metric is the better one.

    Args:
        name: A name in ``TEST.VAL_METRICS.RECON``, without "_scan".
    """
    if name in CINE_METRICS:
        return CINE_METRICS[name].higher_is_better
    return bool(next(iter(build_metrics([name]).values(copy_state=False))).higher_is_better)


class CineMetric(Metric):
    """One metric of cine images, in the form that meddlr collects.

    Attributes:
        definition: What is computed, and on which part of a series.
    """

    def __init__(self, definition: _Definition):
        super().__init__()
        self.definition = definition

    def func(self, preds, targets, data_range) -> torch.Tensor:
        """Images (N, M, ...) -> values (N, 1): the map sets count as one channel."""
        return self.definition.function(preds, targets, data_range, **self.definition.kwargs).unsqueeze(1)

    # meddlr passes on only the arguments that this signature names.
    def update(self, preds, targets, data_range, ids=None):
        super().update(preds, targets, data_range, ids=ids)

    def add_slice(self, image: CineSlice, data_range: torch.Tensor) -> None:
        """Adds a value per frame, under "<name of the slice>-<frame>"; of what happens in time one, under its name."""
        pred, target = self._views(image)
        frames = [f"{image.name}-{frame}" for frame in range(image.target.shape[-2])]
        self.update(pred, target, data_range, ids=[image.name] if self.definition.is_over_time else frames)

    def add_scan(self, slices: Sequence[CineSlice], data_range: torch.Tensor, name: str) -> None:
        """Adds one value under the name of the scan.

        Of whole images it is that of all pixels of all frames; in the heart it is the mean over the slices that have
        one, each taken as a whole.
        """
        views = [self._views(image) for image in slices]
        if not self.definition.in_heart:
            pred, target = (_as_one_image(torch.cat(frames)) for frames in zip(*views))
            self.update(pred, target, data_range, ids=[name])
            return
        if not self.definition.is_over_time:
            views = [(_as_one_image(pred), _as_one_image(target)) for pred, target in views]
        values = torch.cat([self.func(pred, target, data_range) for pred, target in views])
        self.values.append(values.nanmean(dim=0, keepdim=True))
        self._add_ids([name], 1)

    def _views(self, image: CineSlice) -> Tuple[torch.Tensor, torch.Tensor]:
        return self.definition.view(image.pred, image.heart), self.definition.view(image.target, image.heart)


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
    return ReconMetricCollection({fmt.format(name): CineMetric(CINE_METRICS[name]) for name in names})
