"""Evaluates a trained network on a data set: metrics of it and of the zero-filled images, a table, pictures."""

import importlib.metadata
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import h5py
import pandas as pd
import torch
from meddlr.config import CfgNode
from meddlr.data.slice_dataset import SliceData
from meddlr.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from meddlr.utils import env
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

import meddlr_greedy
from meddlr_greedy.engine.checkpoint import BEST_CHECKPOINT, GreedyCheckpointer
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.evaluator import GreedyReconEvaluator, ZeroFilledEvaluator, as_complex
from meddlr_greedy.evaluation.figures import draw_cine_gif, draw_recon_figure
from meddlr_greedy.files import written_atomically

__all__ = ["DatasetReport", "evaluate_dataset", "find_weights", "run_info", "write_results"]

RESULTS_FILE = "results.json"

# Column of the printed table -> metric. Complex PSNR and NRMSE, as meddlr's own headline numbers.
_HEADLINES = {"PSNR": "psnr", "SSIM": "ssim (Wang)", "NRMSE": "nrmse"}
_LABELS = {"zero_filled": "zero-filled", "reconstruction": "reconstruction"}


@dataclass
class DatasetReport:
    """What the evaluation of one data set gave.

    Attributes:
        name: Name of the data set.
        label: What the network is called in the printed table.
        is_cine: Whether the images are series.
        tables: "zero_filled" and "reconstruction" -> every value, see :meth:`GreedyReconEvaluator.table`.
        slices: (scan id, slice id) -> file and images of the slices to draw.
        figures: The pictures that :meth:`draw` wrote.
    """

    name: str
    label: str
    is_cine: bool
    tables: Dict[str, pd.DataFrame]
    slices: Dict[Tuple[str, int], Tuple[str, Dict[str, torch.Tensor]]]
    figures: List[Path] = field(default_factory=list)

    def draw(self, folder: Path) -> None:
        """Draws the slices that were kept for it."""
        for (scan_id, slice_id), (file_name, images) in self.slices.items():
            metrics = {_LABELS[method]: _slice_means(table, scan_id, slice_id) for method, table in self.tables.items()}
            title = f"{self.name}: {scan_id}, slice {slice_id}"
            if self.is_cine:
                title += " (PSNR and SSIM: mean over frames)"
            self.figures += _draw(images, folder / f"{self.name}-{scan_id}-slice{slice_id}", metrics, title, file_name)

    def as_dict(self, folder: Path) -> Dict[str, Any]:
        """The report as it stands in ``results.json``, figures relative to ``folder``."""
        return {
            **{method: _summary(table) for method, table in self.tables.items()},
            "scans": _per_scan(self.tables),
            "figures": [figure.relative_to(folder).as_posix() for figure in self.figures],
        }

    def as_text(self) -> str:
        """A short table: rows zero-filled and the network, columns mean (standard deviation) of the metrics."""
        headers = [self.name]
        rows = [[_LABELS["zero_filled"]], [self.label]]
        for label, metric in _HEADLINES.items():
            for suffix, over in (("", "frame" if self.is_cine else "image"), ("_scan", "scan")):
                headers.append(f"{label}\nper {over}")
                for row, table in zip(rows, self.tables.values()):
                    values = _values_of(table, metric + suffix)
                    digits = 2 if label == "PSNR" else 4
                    spread = f" ({values.std():.{digits}f})" if len(values) > 1 else ""
                    row.append(f"{values.mean():.{digits}f}{spread}")
        return tabulate(rows, headers=headers, disable_numparse=True)


class _SliceKeeper(DatasetEvaluator):
    """Keeps the images of the slices that will be drawn, on the CPU, and of no others."""

    def __init__(self, wanted: Iterable[Tuple[str, int]]):
        self._wanted = frozenset(wanted)
        self.images: Dict[Tuple[str, int], Dict[str, torch.Tensor]] = {}

    def process(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        for i, metadata in enumerate(inputs["metadata"]):
            key = (metadata["scan_id"], int(metadata["slice_id"]))
            if key in self._wanted:
                # A copy: a slice of the batch would keep the batch.
                self.images[key] = {
                    name: as_complex(outputs[name])[i].detach().cpu().clone() for name in ("zf_image", "pred", "target")
                }


def evaluate_dataset(cfg: CfgNode, model: nn.Module, loader, dataset_name: str, num_figures: int = 2) -> DatasetReport:
    """Runs the model once over a data set; scores it and the zero-filled images, and keeps a few slices to draw.

    Args:
        cfg: meddlr's config.
        model: A network that returns ``pred``, ``target`` and ``zf_image``.
        loader: Batches with ``metadata``, the slices of a scan one after the other.
        dataset_name: Its name in the results.
        num_figures: Slices to draw: the middle ones of the first scans.
    """
    if len(loader) == 0:
        raise UserError(f"DATASETS.TEST: data set '{dataset_name}' holds no examples")
    evaluators = {
        "zero_filled": ZeroFilledEvaluator(cfg, dataset_name=dataset_name, prefix=None),
        "reconstruction": GreedyReconEvaluator(cfg, dataset_name=dataset_name, prefix=None),
    }
    for evaluator in evaluators.values():
        # By default meddlr keeps all 2D images until the end; -1: until the scan is complete.
        evaluator.flush_period = evaluator.flush_period or -1
    to_draw = _middle_slices(_slice_data(loader.dataset).examples, num_figures)
    keeper = _SliceKeeper(to_draw)
    inference_on_dataset(
        model,
        tqdm(loader, desc=dataset_name, unit="batch", dynamic_ncols=True),
        DatasetEvaluators([*evaluators.values(), keeper], as_list=True),
    )
    return DatasetReport(
        name=dataset_name,
        label="greedy" if cfg.MODEL.META_ARCHITECTURE == "GreedyUnrolled" else _LABELS["reconstruction"],
        is_cine=evaluators["reconstruction"].is_cine,
        tables={method: evaluator.table() for method, evaluator in evaluators.items()},
        slices={key: (to_draw[key], images) for key, images in keeper.images.items()},
    )


def find_weights(output_dir: str, given: str = "", fallback: str = "", last: bool = False) -> str:
    """Chooses the weights to evaluate.

    Args:
        output_dir: Folder of the training run.
        given: Path that the user asked for; it is taken.
        fallback: Path from the config file (where training started), taken if the run left no checkpoint.
        last: Take the last checkpoint even if there is a best one.

    Returns:
        str: ``given``, else the best checkpoint, else the last one, else ``fallback``.

    Raises:
        UserError: There are no such weights.
    """
    best = os.path.join(output_dir, BEST_CHECKPOINT)
    checkpointer = GreedyCheckpointer(nn.Module(), output_dir)  # only asked for names of files
    if given:
        weights = given
    elif os.path.isfile(best) and not last:
        weights = best
    elif checkpointer.has_checkpoint():
        weights = checkpointer.get_checkpoint_file()
    else:
        weights = fallback
    if not weights:
        raise UserError(
            f"OUTPUT_DIR: no {BEST_CHECKPOINT} and no last checkpoint in '{output_dir}'; train first "
            "(python -m meddlr_greedy.train_net), or name the weights with --weights FILE"
        )
    if not env.get_path_manager().isfile(weights):
        raise UserError(f"MODEL.WEIGHTS: no file '{weights}'")
    return weights


def run_info(cfg: CfgNode, model: nn.Module, weights: str, iteration: Optional[int]) -> Dict[str, Any]:
    """What is evaluated: weights (relative to ``OUTPUT_DIR``) and their iteration, parameters, seed, versions."""
    return {
        "weights": os.path.relpath(weights, cfg.OUTPUT_DIR),
        "iteration": iteration,
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": cfg.SEED,
        "versions": {
            "torch": torch.__version__,
            "meddlr": importlib.metadata.version("meddlr"),
            "meddlr_greedy": meddlr_greedy.__version__,
        },
    }


def write_results(path: Path, info: Mapping[str, Any], reports: Sequence[DatasetReport]) -> None:
    """Writes ``results.json``: ``info``, and per data set the metrics and figures. Other pictures are removed."""
    results = {**info, "datasets": {report.name: report.as_dict(path.parent) for report in reports}}
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    current = {figure for report in reports for figure in report.figures}
    for picture in {*path.parent.glob("*-slice*.png"), *path.parent.glob("*-slice*.gif")} - current:
        picture.unlink()


def _slice_data(dataset: Any) -> SliceData:
    """meddlr's data set, inside those that are wrapped around it."""
    while not isinstance(dataset, SliceData):
        dataset = dataset.dataset
    return dataset


def _middle_slices(examples: Sequence[Mapping[str, Any]], num_scans: int) -> Dict[Tuple[str, int], str]:
    """(scan id, slice id) -> file, of the middle slice of each of the first scans."""
    slices_of_file: Dict[str, List[int]] = {}
    for example in examples:
        slices_of_file.setdefault(str(example["file_name"]), []).append(int(example["slice_id"]))
    return {
        (Path(file_name).stem, sorted(slices)[len(slices) // 2]): file_name
        for file_name, slices in list(slices_of_file.items())[:num_scans]
    }


def _draw(
    images: Mapping[str, torch.Tensor],
    stem: Path,
    title_metrics: Mapping[str, Mapping[str, float]],
    title: str,
    file_name: str,
) -> List[Path]:
    with h5py.File(file_name, "r") as scan:
        spacing, frame_time = scan.attrs.get("pixel_spacing_mm"), scan.attrs.get("frame_time_ms")
    series = (images["zf_image"], images["pred"], images["target"])
    png, gif = Path(f"{stem}.png"), Path(f"{stem}.gif")
    geometry = {"pixel_spacing_mm": spacing, "frame_time_ms": None if frame_time is None else float(frame_time)}
    draw_recon_figure(*series, png, title_metrics, title=title, **geometry)
    if images["target"].ndim < 4:
        return [png]
    draw_cine_gif(*series, gif, title_metrics, title=title, **geometry)
    return [png, gif]


def _values_of(table: pd.DataFrame, metric: str) -> pd.Series:
    """The values of a metric; of all its channels, where meddlr counts map sets as channels."""
    return table.loc[table["metric"].str.split("/").str[0] == metric, "value"]


def _slice_means(table: pd.DataFrame, scan_id: str, slice_id: int) -> Dict[str, float]:
    """PSNR and SSIM of a slice, averaged over its frames."""
    image = f"{scan_id}-{slice_id}"
    rows = table[(table["scan"] == scan_id) & ((table["image"] + "-").str.startswith(image + "-"))]
    return {label: float(_values_of(rows, _HEADLINES[label]).mean()) for label in ("PSNR", "SSIM")}


def _summary(table: pd.DataFrame) -> Dict[str, Dict[str, Optional[float]]]:
    return {
        str(metric): {
            "mean": _number(values.mean()),
            "std": _number(values.std()),
            "count": len(values),
        }
        for metric, values in table.groupby("metric", sort=False)["value"]
    }


def _per_scan(tables: Mapping[str, pd.DataFrame]) -> Dict[str, Dict[str, Dict[str, Optional[float]]]]:
    """Scan -> method -> metric -> mean over the scan's images."""
    scans: Dict[str, Dict[str, Dict[str, Optional[float]]]] = {}
    for method, table in tables.items():
        for (scan, metric), values in table.groupby(["scan", "metric"], sort=False)["value"]:
            scans.setdefault(scan, {}).setdefault(method, {})[metric] = _number(values.mean())
    return scans


def _number(value: float) -> Optional[float]:
    """JSON knows no NaN and no infinity: null."""
    return float(value) if math.isfinite(value) else None
