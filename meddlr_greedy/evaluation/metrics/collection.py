"""Metrics that remember the slices of a scan, and collections of them."""

from typing import Dict, Sequence, Tuple

import pandas as pd
import tabulate
import torch
from meddlr.metrics.collection import MetricCollection
from meddlr.metrics.image import SSIM
from meddlr.metrics.metric import Metric

from meddlr_greedy.evaluation.metrics.definitions import CINE_METRICS, CineSlice, Definition
from meddlr_greedy.evaluation.metrics.functional import SSIM_WINDOW, as_one_image, magnitude, ssim

__all__ = ["CineMetric", "ReconMetricCollection", "VolumeSSIM", "build_cine_metrics", "finite_or_nan"]


class CineMetric(Metric):
    """One metric of cine images, in the form that meddlr collects.

    Attributes:
        definition: What is computed, and on which part of a series.
    """

    def __init__(self, definition: Definition):
        super().__init__()
        self.definition = definition

    def func(self, preds, targets, data_range) -> torch.Tensor:
        """Images (N, M, ...) -> values (N, 1): the map sets count as one channel."""
        return self.definition.function(preds, targets, data_range, **self.definition.kwargs).unsqueeze(1)

    # meddlr passes on only the arguments that this signature names.
    def update(self, preds, targets, data_range, ids=None):
        """Adds a value per image; the arguments are those of :meth:`func`."""
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
            pred, target = (as_one_image(torch.cat(frames)) for frames in zip(*views))
            self.update(pred, target, data_range, ids=[name])
            return
        if not self.definition.is_over_time:
            views = [(as_one_image(pred), as_one_image(target)) for pred, target in views]
        values = finite_or_nan(torch.cat([self.func(pred, target, data_range) for pred, target in views]))
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

    Where a metric is not defined (the NRMSE of an empty target, the PSNR of two equal images), its value is NaN or
    infinite. Such an image does not decide a mean: it is left out.

    One process scores a data set, also where several train: by default nothing is gathered from the others.
    """

    def to_pandas(self, sync_dist: bool = False) -> pd.DataFrame:
        """Returns one row per metric and image: columns "id", "Metric" and one per channel."""
        if not len(self):
            return pd.DataFrame({"id": [], "Metric": []})
        table = super().to_pandas(sync_dist=sync_dist)
        return table.replace([float("inf"), -float("inf")], float("nan"))

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


def finite_or_nan(values: torch.Tensor) -> torch.Tensor:
    """The values, with NaN in the place of infinity."""
    return torch.where(torch.isfinite(values), values, torch.full_like(values, float("nan")))


def build_cine_metrics(names: Sequence[str], fmt: str = "{}") -> ReconMetricCollection:
    """Builds metrics of cine images.

    Args:
        names: Keys of ``CINE_METRICS``.
        fmt: How a metric is called in the results, with ``{}`` for its name.

    Returns:
        ReconMetricCollection: To be called with ``preds``, ``targets``, ``data_range`` and ``ids``.
    """
    return ReconMetricCollection({fmt.format(name): CineMetric(CINE_METRICS[name]) for name in names})
