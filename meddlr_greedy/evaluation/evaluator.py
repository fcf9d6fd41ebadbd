"""Scores reconstructions of 2D scans and of cine series, by meddlr's metrics and names."""

from collections import defaultdict
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import pandas as pd
import silx.io.dictdump as sio
import torch
from meddlr.config.config import CfgNode, configurable
from meddlr.evaluation import ReconEvaluator
from meddlr.metrics.build import _BUILTIN_METRICS
from meddlr.metrics.collection import MetricCollection

from meddlr_greedy.errors import UserError, did_you_mean
from meddlr_greedy.evaluation.heart import heart_region
from meddlr_greedy.evaluation.metrics.collection import ReconMetricCollection, VolumeSSIM, build_cine_metrics
from meddlr_greedy.evaluation.metrics.definitions import CINE_METRICS, CineSlice, default_cine_metrics
from meddlr_greedy.evaluation.metrics.functional import magnitude

__all__ = ["GreedyReconEvaluator", "ZeroFilledEvaluator", "as_complex"]

_CONFIG_KEY = "TEST.VAL_METRICS.RECON"
_SCAN = "_scan"  # suffix of a metric that is computed over the whole scan


class GreedyReconEvaluator(ReconEvaluator):
    """meddlr's evaluator, for 2D scans and for cine series.

    2D (``pred`` (B, H, W, M)): meddlr's own metrics under meddlr's own names. Two of its faults are repaired: metrics
    that are all per slice or all per scan, and the SSIM of a scan with few slices (:class:`VolumeSSIM`).

    Cine (``pred`` (B, H, W, T, M)): the same names, but

    - what meddlr computes per slice is computed per frame, with image ids "scan-slice-frame";
    - the data range of PSNR and SSIM is the target's largest magnitude in the whole scan, for frames too;
    - M map sets are combined, see :mod:`meddlr_greedy.evaluation.metrics.definitions`;
    - "psnr_scan", "nrmse_scan" and the like are taken over all pixels of the scan, "ssim (Wang)_scan" is the mean
      over its frames;
    - "ssim_complex (Wang)" compares complex images, "ssim (Wang)" magnitudes, as in meddlr;
    - with "_heart" ("psnr_mag_heart", "ssim (Wang)_heart") a metric is that of the heart region of each slice
      (:func:`~meddlr_greedy.evaluation.heart.heart_region`), with the largest magnitude in there as data range. With
      "_scan" behind, it is the mean over the slices that have a heart; NaN where none has;
    - "nrmse_xt" is the NRMSE of the magnitude of the x-t profile through the middle of the heart region, "nrmse_tstd"
      that of the temporal standard deviation of its pixels (``nrmse_tstd``): one
      value per slice, with image id "scan-slice".

    The last three kinds exist for cine only. Without names given, a cine series is scored by all that
    ``default_cine_metrics`` lists, 2D by meddlr's default.

    A cine scan is scored, and forgotten, when the first slice of the next one arrives: about one scan is in memory,
    whatever ``TEST.FLUSH_PERIOD``. Its slices must therefore follow one another, as in meddlr's validation loader.

    Constructed as ``GreedyReconEvaluator(cfg, dataset_name=..., ...)`` with the arguments of
    :class:`meddlr.evaluation.ReconEvaluator`.
    """

    is_cine: bool  # whether the images seen since reset are series
    _predictions: List[Dict[str, Any]]  # one per slice: "pred", "target", "metadata"

    @configurable
    def __init__(
        self,
        dataset_name: str,
        *,
        metrics: Union[Sequence[str], bool, None] = None,
        **kwargs: Any,
    ):
        """
        Args:
            dataset_name: Name of the data set that is evaluated.
            metrics: Names of metrics, meddlr's and those above; with the suffix "_scan" computed over the scan.
                ``None``: the default ones; ``False``: none.
            kwargs: Further arguments of :class:`meddlr.evaluation.ReconEvaluator`.

        Raises:
            UserError: A metric is unknown.
        """
        super().__init__(dataset_name, metrics=metrics, **kwargs)
        self._cine_metric_names = default_cine_metrics() if metrics in (None, True) else self._metric_names
        _check_metric_names(self._metric_names, {**_BUILTIN_METRICS, **CINE_METRICS})
        self.is_cine = False
        self._scan_of_image: Dict[str, str] = {}
        self._scored_scans: List[str] = []

    def reset(self):
        names = self._metric_names
        # What is for cine only is unknown to meddlr, and refused where images turn out to be 2D.
        self._metric_names = [name for name in names if _without_scan(name) in _BUILTIN_METRICS]
        super().reset()
        self._metric_names = names
        self.is_cine = False
        self._scan_of_image = {}
        self._scored_scans = []
        for name, metric in self.scan_metrics.items():
            if name.endswith(f"ssim (Wang){_SCAN}"):
                self.scan_metrics[name] = VolumeSSIM(channel_names=metric.channel_names)
        self._adopt(
            ReconMetricCollection(dict(self.slice_metrics.items())),
            ReconMetricCollection(dict(self.scan_metrics.items())),
        )

    def _adopt(self, slice_metrics: MetricCollection, scan_metrics: MetricCollection) -> None:
        self.slice_metrics = slice_metrics.to(self.device).eval()
        self.scan_metrics = scan_metrics.to(self.device).eval()

    def _start_cine(self) -> None:
        """From here on the images are series: frame by frame, and scored scan by scan."""
        names = self._cine_metric_names
        _check_metric_names(names, CINE_METRICS, " of a cine series")
        prefix = f"{self._prefix}_" if self._prefix else ""
        slice_names = [name for name in names if not name.endswith(_SCAN)]
        scan_names = [_without_scan(name) for name in names if name.endswith(_SCAN)]
        self._adopt(
            build_cine_metrics(slice_names, fmt=prefix + "{}"),
            build_cine_metrics(scan_names, fmt=prefix + "{}" + _SCAN),
        )
        self.is_cine = True
        # meddlr's own flushing and its scoring of single slices know nothing of frames.
        self.flush_period = 0
        self.eval_in_process = False

    @torch.no_grad()
    def process(self, inputs: Dict[str, Any], outputs: Dict[str, Any]) -> None:
        """Takes one batch.

        Args:
            inputs: ``mean`` (B, 1), ``std`` (B, 1) and ``metadata``, a list of {"scan_id", "slice_id"}.
            outputs: ``pred`` and ``target`` (B, H, W, M) or (B, H, W, T, M), complex.

        Raises:
            UserError: There is no target, or a metric is not one of these images.
        """
        if outputs.get("target") is None:
            raise UserError(
                f"scan '{inputs['metadata'][0]['scan_id']}' has no target to compare with; for such scans there is"
                " python -m meddlr_greedy.reconstruct"
            )
        images = {key: as_complex(outputs[key]) for key in ("pred", "target")}
        is_cine = torch.is_complex(images["pred"]) and images["pred"].ndim == 5
        if not is_cine:
            _check_metric_names(self._metric_names, _BUILTIN_METRICS, " of 2D images")
        elif not self.is_cine:
            self._start_cine()
        super().process(inputs, images)
        if "hard_dc" in self._postprocess:
            outputs["pred"] = images["pred"]  # as meddlr does: who comes next sees what was scored
        if is_cine:
            last_scan = self._predictions[-1]["metadata"]["scan_id"]
            self._score_scans(except_for=last_scan)

    def evaluate(self):
        """Returns the mean of every metric, or, with ``group_by_scan``, scan -> metric -> value."""
        if not self.is_cine:
            return super().evaluate()
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
        of_images = torch.stack([magnitude(s.target, dim=-1).max() for s in slices]).max()
        in_hearts = [magnitude(s.heart.crop(s.target), dim=-1).max() for s in slices if not s.heart.is_empty]
        of_hearts = torch.stack(in_hearts).max() if in_hearts else torch.full_like(of_images, float("nan"))
        data_range = {False: of_images, True: of_hearts}
        # Not by calling the collection: torchmetrics would compute everything twice, and its own update merges
        # metrics whose first values happen to agree.
        for metric in self.slice_metrics.values():
            for s in slices:
                metric.add_slice(s, data_range[metric.definition.in_heart])
        names = [s.name for s in slices] + [f"{s.name}-{t}" for s in slices for t in range(s.target.shape[-2])]
        self._scan_of_image.update(dict.fromkeys(names, scan_id))
        if not self._aggregate_scans:
            return
        for metric in self.scan_metrics.values():
            metric.add_scan(slices, data_range[metric.definition.in_heart], scan_id)
        if self._save_scans:
            preds = torch.stack([s.pred for s in slices])
            sio.dicttoh5({"pred": preds.cpu()}, f"{self._save_scan_dir}/{scan_id}.h5")

    def _group_results_by_scan(self):
        if not self.is_cine:
            return super()._group_results_by_scan()
        results: Dict[str, Dict[str, float]] = defaultdict(dict)
        means = self.table().groupby(["scan", "metric"], sort=False)["value"].mean()
        for (scan_id, metric), value in means.items():
            results[scan_id][metric] = float(value)
        return results

    def table(self) -> pd.DataFrame:
        """Every value that was computed.

        Returns:
            DataFrame: Columns "metric", "scan", "image" (the id of a slice or frame; of the scan, for metrics of scans)
            and "value".
        """
        rows = [
            (metric, self._scan_of_image.get(image, image.rsplit("-", 1)[0]), image, value)
            for metric, image, value in _values(self.slice_metrics)
        ]
        rows += [(metric, scan, scan, value) for metric, scan, value in _values(self.scan_metrics)]
        return pd.DataFrame(rows, columns=["metric", "scan", "image", "value"])


class ZeroFilledEvaluator(GreedyReconEvaluator):
    """Scores the image that the network starts from, ``zf_image``, not postprocessed."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {**super().from_config(cfg), "postprocess": ""}

    def process(self, inputs: Dict[str, Any], outputs: Dict[str, Any]) -> None:
        super().process(inputs, {"pred": outputs["zf_image"], "target": outputs.get("target")})


def _check_metric_names(names: Sequence[str], allowed: Iterable[str], images: str = "") -> None:
    """Raises a UserError at the first name that, without "_scan", is not allowed."""
    allowed = list(allowed)
    for name in names:
        base = _without_scan(name)
        if base not in allowed:
            raise UserError(
                f"{_CONFIG_KEY}: no metric '{name}'{images}{did_you_mean(base, allowed)} "
                f"(allowed: {', '.join(allowed)}, and each with the suffix {_SCAN})"
            )


def _without_scan(name: str) -> str:
    return name[: -len(_SCAN)] if name.endswith(_SCAN) else name


def as_complex(images: torch.Tensor) -> torch.Tensor:
    """Images that some of meddlr's networks return as (B, H, W, ..., M, 2) become complex (B, H, W, ..., M)."""
    is_real_view = not torch.is_complex(images) and images.ndim > 4 and images.shape[-1] == 2
    return torch.view_as_complex(images.contiguous()) if is_real_view else images


def _values(metrics: MetricCollection) -> Iterator[Tuple[str, str, float]]:
    """Yields (metric, image id, value); a metric with several channels is called "metric/channel"."""
    for name, metric in metrics.items():
        channels = metric.to_dict(sync_dist=False, device="cpu")
        ids = channels.pop("id")
        for channel, values in channels.items():
            label = name if len(channels) == 1 else f"{name}/{channel}"
            yield from ((label, image, float(value)) for image, value in zip(ids, values))
