"""The metrics of a cine series by name: which function is computed, and of which part of a series.

Names are meddlr's, where it has the metric.
"""

from typing import Any, Callable, Dict, List, NamedTuple

import torch
from meddlr.metrics.build import build_metrics

from meddlr_greedy.evaluation.heart import HeartRegion
from meddlr_greedy.evaluation.metrics.functional import (
    SSIM_WINDOW,
    as_one_image,
    fold_frames,
    mae,
    mse,
    nrmse,
    nrmse_tstd,
    psnr,
    rmse,
    ssim,
)

__all__ = [
    "CINE_METRICS",
    "CineSlice",
    "Definition",
    "default_cine_metrics",
    "higher_is_better",
]


# ---- What of a slice a metric is computed on


class CineSlice(NamedTuple):
    """A slice to be scored.

    Attributes:
        name: Of scan and slice, "scan-slice".
        pred: The reconstruction, (H, W, T, M), complex.
        target: Of the same shape.
        heart: Where the heart is in the target.
    """

    name: str
    pred: torch.Tensor
    target: torch.Tensor
    heart: HeartRegion


def _frames(series: torch.Tensor, heart: HeartRegion) -> torch.Tensor:  # noqa: ARG001 (as the other views)
    return fold_frames(series)


def _heart_frames(series: torch.Tensor, heart: HeartRegion) -> torch.Tensor:
    return fold_frames(heart.crop(series))


def _heart_frames_with_margin(series: torch.Tensor, heart: HeartRegion) -> torch.Tensor:
    # Half a window more: so the windows that have their center in the region are all there, and no others.
    return fold_frames(heart.crop(series, margin=SSIM_WINDOW // 2))


def _heart_series(series: torch.Tensor, heart: HeartRegion) -> torch.Tensor:
    return as_one_image(fold_frames(heart.crop(series)))


def _xt_profile(series: torch.Tensor, heart: HeartRegion) -> torch.Tensor:
    return heart.profile(series).movedim(-1, 0).unsqueeze(0)


class Definition(NamedTuple):
    """A metric of cine.

    Attributes:
        function: One of :mod:`~meddlr_greedy.evaluation.metrics.functional`, ``(preds, targets, data_range, **kwargs)
            -> (N,)``.
        kwargs: Its further arguments.
        view: What of a series (H, W, T, M) it is computed on: (N, M, ...), N its frames, or 1 for what happens in time.
    """

    function: Callable[..., torch.Tensor]
    kwargs: Dict[str, Any]
    view: Callable[[torch.Tensor, HeartRegion], torch.Tensor] = _frames

    @property
    def in_heart(self) -> bool:
        """Whether it is computed in the heart region."""
        return self.view is not _frames

    @property
    def is_over_time(self) -> bool:
        """Whether it has one value per slice, not one per frame."""
        return self.view in (_heart_series, _xt_profile)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is the better one."""
        return self.function in (psnr, ssim)


# ---- Names

_HEART = "_heart"  # suffix of a metric that is computed in the heart region

#: Name in a config -> definition.
CINE_METRICS: Dict[str, Definition] = {
    f"{name}_{short}" if short else name: Definition(function, {"im_type": im_type})
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
CINE_METRICS["ssim (Wang)"] = Definition(ssim, {})
CINE_METRICS["ssim_complex (Wang)"] = Definition(ssim, {"im_type": None})
CINE_METRICS.update(
    {
        name + _HEART: metric._replace(view=_heart_frames_with_margin if metric.function is ssim else _heart_frames)
        for name, metric in CINE_METRICS.items()
    }
)
CINE_METRICS["nrmse_xt"] = Definition(nrmse, {"im_type": "magnitude"}, _xt_profile)
CINE_METRICS["nrmse_tstd"] = Definition(nrmse_tstd, {}, _heart_series)


def default_cine_metrics() -> List[str]:
    """The metrics that are computed where no names are given, each per image and per scan.

    PSNR, SSIM and NRMSE, complex and magnitude, of the image and of the heart; the errors over time.
    """
    image_metrics = ["psnr", "psnr_mag", "ssim_complex (Wang)", "ssim (Wang)", "nrmse", "nrmse_mag"]
    names = [*image_metrics, *(name + _HEART for name in image_metrics), "nrmse_xt", "nrmse_tstd"]
    return [*names, *(f"{name}_scan" for name in names)]


def higher_is_better(name: str) -> bool:
    """Whether a larger value of a metric is the better one.

    Args:
        name: A name in ``TEST.VAL_METRICS.RECON``, without "_scan".
    """
    if name in CINE_METRICS:
        return CINE_METRICS[name].higher_is_better
    return bool(next(iter(build_metrics([name]).values(copy_state=False))).higher_is_better)
