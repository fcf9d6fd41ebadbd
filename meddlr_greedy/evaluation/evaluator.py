"""Scores reconstructions of 2D scans and of cine series, by meddlr's metrics and names."""

import logging
from collections import defaultdict
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import pandas as pd
import silx.io.dictdump as sio
import torch
from meddlr.config.config import CfgNode, configurable
from meddlr.evaluation import ReconEvaluator, recon_evaluation, scan_evaluator
from meddlr.metrics.build import _BUILTIN_METRICS
from meddlr.metrics.collection import MetricCollection

from meddlr_greedy.console import without_bars
from meddlr_greedy.data.catalog import is_cine
from meddlr_greedy.errors import UserError, did_you_mean
from meddlr_greedy.evaluation.heart import heart_region
from meddlr_greedy.evaluation.images import as_complex
from meddlr_greedy.evaluation.metrics.collection import ReconMetricCollection, VolumeSSIM, build_cine_metrics
from meddlr_greedy.evaluation.metrics.definitions import CINE_METRICS, CineSlice, default_cine_metrics
from meddlr_greedy.evaluation.metrics.functional import magnitude
from meddlr_greedy.evaluation.tables import LABELS, not_finite_images, undefined_values

__all__ = ["CineEvaluator", "ImageEvaluator", "ReconstructionEvaluator", "build_evaluator"]

logger = logging.getLogger(__name__)

_CONFIG_KEY = "TEST.VAL_METRICS.RECON"
_SCAN = "_scan"  # suffix of a metric that is computed over the whole scan


def build_evaluator(
    cfg: CfgNode, dataset_name: str, metrics: Union[Sequence[str], bool, None] = None, **kwargs: Any
) -> "ReconstructionEvaluator":
    """Builds the evaluator for a data set: one for 2D scans, one for cine series.

    Args:
        cfg: meddlr's config.
        dataset_name: The data set; its first scan that can be used tells which of the two it holds.
        metrics: See :class:`ReconstructionEvaluator`.
        **kwargs: Further arguments of :class:`ReconstructionEvaluator`.

    Raises:
        UserError: The data set or a metric is unknown, or no scan can be used.
    """
    evaluator = CineEvaluator if is_cine(dataset_name, dict(cfg.DATALOADER.DATA_KEYS) or None) else ImageEvaluator
    return evaluator(cfg, dataset_name=dataset_name, metrics=metrics, **kwargs)


class ReconstructionEvaluator(ReconEvaluator):
    """meddlr's evaluator; refuses unknown metrics and scans without a target.

    Constructed with a config, ``CineEvaluator(cfg, dataset_name=..., ...)``; the config gives the normalizer, the
    postprocessor, the device and ``TEST.FLUSH_PERIOD``.

    Attributes:
        is_cine: Whether the images are series.
        metrics: Names of the metrics, as in ``TEST.VAL_METRICS.RECON``.
        not_finite: Names of the slices whose image holds NaN or infinity. They have no metrics; where there are any, no
            mean stands for the data set, and all are NaN.
    """

    is_cine: ClassVar[bool]
    allowed_metrics: ClassVar[Mapping[str, Any]]  #: By their names without "_scan".
    kind_of_images: ClassVar[str]  #: For messages.

    # meddlr's
    _predictions: List[Dict[str, Any]]  # one per slice: "pred", "target", "metadata"
    slice_metrics: MetricCollection
    scan_metrics: MetricCollection

    @configurable
    def __init__(
        self,
        dataset_name: str,
        *,
        metrics: Union[Sequence[str], bool, None] = None,
        scored_output: str = "pred",
        **kwargs: Any,
    ):
        """Checks the names of the metrics.

        Args:
            dataset_name: Name of the data set that is evaluated.
            metrics: Names of metrics; with the suffix "_scan" computed over the scan. ``None``: the default ones;
                ``False``: none.
            scored_output: Which output of the network is scored: "pred", or "zf_image", the image it starts from.
            **kwargs: Further arguments of :class:`meddlr.evaluation.ReconEvaluator`.

        Raises:
            UserError: A metric is unknown.
        """
        names = self.default_metrics() if metrics is None or metrics is True else metrics
        self.metrics: List[str] = list(names or [])
        self._check_metrics()
        self._scored_output = scored_output
        self._method = LABELS["zero_filled" if scored_output == "zf_image" else "reconstruction"]
        self.not_finite: List[str] = []
        super().__init__(dataset_name, metrics=self._metrics_for_meddlr(), **kwargs)

    def _check_metrics(self) -> None:
        for name in self.metrics:
            base = _without_scan(name)
            if base not in self.allowed_metrics:
                raise UserError(
                    f"{_CONFIG_KEY}: no metric '{name}' of {self.kind_of_images}"
                    f"{did_you_mean(base, self.allowed_metrics)} (allowed: {', '.join(self.allowed_metrics)}, and each"
                    f" with the suffix {_SCAN})"
                )

    def _metrics_for_meddlr(self) -> Union[Sequence[str], bool]:
        """The metrics that meddlr's own ``reset`` builds."""
        return self.metrics

    @property
    def metric_names(self) -> List[str]:
        """The metrics as they are called in the results: with the prefix."""
        return [self._prefixed.format(name) for name in self.metrics]

    @property
    def _prefixed(self) -> str:
        return f"{self._prefix}_{{}}" if self._prefix else "{}"

    @torch.no_grad()
    def process(self, inputs: Dict[str, Any], outputs: Dict[str, Any]) -> None:
        """Takes one batch.

        Args:
            inputs: ``mean`` (B, 1), ``std`` (B, 1) and ``metadata``, a list of {"scan_id", "slice_id"}.
            outputs: ``target`` and the output that is scored, (B, H, W, M) or (B, H, W, T, M), complex.

        Raises:
            UserError: There is no target.
        """
        if outputs.get("target") is None:
            raise UserError(
                f"scan '{inputs['metadata'][0]['scan_id']}' has no target to compare with; for such scans there is"
                " meddlr-greedy reconstruct"
            )
        images = {"pred": as_complex(outputs[self._scored_output]), "target": as_complex(outputs["target"])}
        for metadata, image in zip(inputs["metadata"], images["pred"]):
            if not torch.isfinite(image).all():
                self.not_finite.append(f"{metadata['scan_id']}, slice {metadata['slice_id']}")
        super().process(inputs, images)
        if "hard_dc" in self._postprocess:
            outputs[self._scored_output] = images["pred"]  # as meddlr does: who comes next sees what was scored

    def reset(self) -> None:
        """Forgets all images and values."""
        super().reset()
        self.not_finite = []

    def evaluate(self) -> Dict[str, Any]:
        """Returns the mean of every metric over the images for which it is defined, and logs where it is not."""
        results = self._means()
        undefined = undefined_values(self.table(), self._method)
        if undefined:
            logger.warning("%s: %s", self._dataset_name, undefined)
        if not self.not_finite:
            return results
        logger.warning("%s: %s", self._dataset_name, not_finite_images(self.not_finite, self._method))
        nan = float("nan")
        return {name: dict.fromkeys(value, nan) if isinstance(value, dict) else nan for name, value in results.items()}

    def _means(self) -> Dict[str, Any]:
        with without_bars(recon_evaluation, scan_evaluator):
            return super().evaluate()

    def table(self) -> pd.DataFrame:
        """Every value that was computed; NaN where the metric is not defined.

        Returns:
            DataFrame: Columns "metric", "scan", "image" (the id of a slice or frame; of the scan, for metrics of scans)
            and "value".
        """
        rows = [(metric, self._scan_id(image), image, value) for metric, image, value in _values(self.slice_metrics)]
        rows += [(metric, scan, scan, value) for metric, scan, value in _values(self.scan_metrics)]
        table = pd.DataFrame(rows, columns=["metric", "scan", "image", "value"])
        return table.assign(value=table["value"].astype(float).where(np.isfinite(table["value"].astype(float))))

    def _scan_id(self, image_id: str) -> str:
        """The scan that an image belongs to."""
        return image_id.rsplit("-", 1)[0]


class ImageEvaluator(ReconstructionEvaluator):
    """Scores 2D scans, ``pred`` (B, H, W, M), by meddlr's own metrics under meddlr's own names.

    Two faults of meddlr are repaired: metrics that are all per slice or all per scan, and the SSIM of a scan with few
    slices (:class:`~meddlr_greedy.evaluation.metrics.collection.VolumeSSIM`).
    """

    is_cine = False
    allowed_metrics = _BUILTIN_METRICS
    kind_of_images = "2D images"

    def reset(self) -> None:
        """Forgets all images and values."""
        super().reset()
        scan_metrics = dict(self.scan_metrics.items())
        for name, metric in scan_metrics.items():
            if name.endswith(f"ssim (Wang){_SCAN}"):
                scan_metrics[name] = VolumeSSIM(channel_names=metric.channel_names)
        self.slice_metrics = ReconMetricCollection(dict(self.slice_metrics.items())).to(self.device).eval()
        self.scan_metrics = ReconMetricCollection(scan_metrics).to(self.device).eval()


class CineEvaluator(ReconstructionEvaluator):
    """Scores cine series, ``pred`` (B, H, W, T, M), by metrics with meddlr's names.

    - What meddlr computes per slice is computed per frame, with image ids "scan-slice-frame".
    - The data range of PSNR and SSIM is the target's largest magnitude in the whole scan, for frames too.
    - M map sets are combined, see :mod:`meddlr_greedy.evaluation.metrics.functional`.
    - "psnr_scan", "nrmse_scan" and the like are taken over all pixels of the scan; "ssim (Wang)_scan" is the mean over
      its frames.
    - "ssim_complex (Wang)" compares complex images, "ssim (Wang)" magnitudes, as in meddlr.
    - With "_heart" ("psnr_mag_heart", "ssim (Wang)_heart") a metric is that of the heart region of each slice
      (:func:`~meddlr_greedy.evaluation.heart.heart_region`), with the largest magnitude in there as data range. With
      "_scan" behind, it is the mean over the slices that have a heart; NaN where none has.
    - "nrmse_xt" is the NRMSE of the magnitude of the x-t profile through the middle of the heart region, "nrmse_tstd"
      that of the temporal standard deviation of its pixels: one value per slice, with image id "scan-slice".

    The last three kinds exist for cine only. The default metrics are those of
    :func:`~meddlr_greedy.evaluation.metrics.definitions.default_cine_metrics`.

    A scan is scored, and forgotten, when the first slice of the next one arrives: about one scan is in memory, whatever
    ``TEST.FLUSH_PERIOD``. Its slices must therefore follow one another, as in meddlr's validation loader.
    """

    is_cine = True
    allowed_metrics = CINE_METRICS
    kind_of_images = "a cine series"

    @configurable
    def __init__(self, dataset_name: str, **kwargs: Any):
        """Takes the arguments of :class:`ReconstructionEvaluator`."""
        super().__init__(dataset_name, **kwargs)
        self.eval_in_process = False  # meddlr would score single slices, and knows nothing of frames
        self._scan_of_image: Dict[str, str] = {}
        self._scored_scans: List[str] = []

    @classmethod
    def default_metrics(cls) -> List[str]:
        """The metrics that are computed where no names are given."""
        return default_cine_metrics()

    def _metrics_for_meddlr(self) -> bool:
        return False

    def reset(self) -> None:
        """Forgets all images and values."""
        super().reset()
        self._scan_of_image = {}
        self._scored_scans = []
        slice_names = [name for name in self.metrics if not name.endswith(_SCAN)]
        scan_names = [_without_scan(name) for name in self.metrics if name.endswith(_SCAN)]
        self.slice_metrics = build_cine_metrics(slice_names, fmt=self._prefixed).to(self.device).eval()
        self.scan_metrics = build_cine_metrics(scan_names, fmt=self._prefixed + _SCAN).to(self.device).eval()

    def process(self, inputs: Dict[str, Any], outputs: Dict[str, Any]) -> None:
        """Takes one batch, and scores the scans that are complete; see :meth:`ReconstructionEvaluator.process`."""
        super().process(inputs, outputs)
        self._score_scans(except_for=self._predictions[-1]["metadata"]["scan_id"])

    def flush(self, enter_prediction_scope: bool = True, skip_last_scan: bool = True) -> None:
        """Does nothing: what is complete has been scored already."""

    def _means(self) -> Dict[str, Any]:
        """The mean of every metric, or, with ``group_by_scan``, scan -> metric -> value."""
        self._score_scans()
        if self._group_by_scan:
            self._results = self._group_results_by_scan()
        else:
            self._results = {**self.slice_metrics.to_dict(), **self.scan_metrics.to_dict()}
        self.log_summary()
        return {key: dict(value) if isinstance(value, dict) else float(value) for key, value in self._results.items()}

    def _score_scans(self, except_for: Optional[str] = None) -> None:
        """Computes the metrics of the collected scans and lets go of their images."""
        slices_of_scan: Dict[str, List[Dict[str, Any]]] = defaultdict(list)
        for prediction in self._predictions:
            slices_of_scan[prediction["metadata"]["scan_id"]].append(prediction)
        self._predictions = slices_of_scan.pop(except_for, []) if except_for else []
        for scan_id, slices in slices_of_scan.items():
            if scan_id in self._scored_scans:
                raise ValueError(
                    f"slices of scan '{scan_id}' came after those of another scan; a cine scan is scored as one, "
                    "so the loader must deliver its slices one after the other"
                )
            self._scored_scans.append(scan_id)
            self._score_scan(scan_id, sorted(slices, key=lambda s: s["metadata"]["slice_id"]))

    @torch.no_grad()
    def _score_scan(self, scan_id: str, predictions: List[Dict[str, Any]]) -> None:
        slices = [
            CineSlice(
                f"{scan_id}-{p['metadata']['slice_id']}",
                p["pred"],
                p["target"],
                heart_region(magnitude(p["target"], dim=-1).cpu()),
            )
            for p in predictions
        ]
        image_range = torch.stack([magnitude(s.target, dim=-1).max() for s in slices]).max()
        heart_ranges = [magnitude(s.heart.crop(s.target), dim=-1).max() for s in slices if not s.heart.is_empty]
        heart_range = torch.stack(heart_ranges).max() if heart_ranges else torch.full_like(image_range, float("nan"))
        # Not by calling the collection: torchmetrics would compute everything twice, and its own update merges
        # metrics whose first values happen to agree.
        for metric in self.slice_metrics.values():
            for s in slices:
                metric.add_slice(s, heart_range if metric.definition.in_heart else image_range)
        names = [s.name for s in slices] + [f"{s.name}-{t}" for s in slices for t in range(s.target.shape[-2])]
        self._scan_of_image.update(dict.fromkeys(names, scan_id))
        if not self._aggregate_scans:
            return
        for metric in self.scan_metrics.values():
            metric.add_scan(slices, heart_range if metric.definition.in_heart else image_range, scan_id)
        if self._save_scans:
            preds = torch.stack([s.pred for s in slices])
            sio.dicttoh5({"pred": preds.cpu()}, f"{self._save_scan_dir}/{scan_id}.h5")

    def _group_results_by_scan(self) -> Dict[str, Dict[str, float]]:
        results: Dict[str, Dict[str, float]] = defaultdict(dict)
        means = self.table().groupby(["scan", "metric"], sort=False)["value"].mean()
        for (scan_id, metric), value in means.items():
            results[scan_id][metric] = float(value)
        return results

    def _scan_id(self, image_id: str) -> str:
        return self._scan_of_image[image_id]


def _without_scan(name: str) -> str:
    return name[: -len(_SCAN)] if name.endswith(_SCAN) else name


def _values(metrics: MetricCollection) -> Iterator[Tuple[str, str, float]]:
    """Yields (metric, image id, value); a metric with several channels is called "metric/channel"."""
    for name, metric in metrics.items():
        channels = metric.to_dict(sync_dist=False, device="cpu")
        ids = channels.pop("id")
        for channel, values in channels.items():
            label = name if len(channels) == 1 else f"{name}/{channel}"
            yield from ((label, image, float(value)) for image, value in zip(ids, values))
