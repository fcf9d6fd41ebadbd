"""Evaluates a trained network on a data set: metrics of it and of the zero-filled images, tables, pictures.

What stays, in one folder: ``results.json``, and per data set ``<name>_slices.csv`` (every metric of every slice),
``<name>_subjects.csv`` (of every subject), ``<name>_images.h5`` (the slices that were drawn) and pictures. The JSON
names the other files, and :mod:`meddlr_greedy.evaluation.comparison` reads them.
"""

import importlib.metadata
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import h5py
import numpy as np
import pandas as pd
import torch
from meddlr.config import CfgNode
from meddlr.data.slice_dataset import SliceData
from meddlr.data.transforms.transform import build_normalizer
from meddlr.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from meddlr.utils import env
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

import meddlr_greedy
from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.engine.checkpoint import BEST_CHECKPOINT, GreedyCheckpointer
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.evaluator import GreedyReconEvaluator, ZeroFilledEvaluator, as_complex
from meddlr_greedy.evaluation.figures import draw_cine_gif, draw_recon_figure
from meddlr_greedy.evaluation.slices import KeptSlice, write_slices
from meddlr_greedy.files import written_atomically

__all__ = [
    "ALL_SUBJECTS",
    "DETAILS",
    "HEADLINES",
    "LABELS",
    "RESULTS_FILE",
    "RESULTS_FOLDER",
    "DatasetReport",
    "draw_slice",
    "evaluate_dataset",
    "find_weights",
    "run_info",
    "write_results",
]

RESULTS_FOLDER = "test_results"  # in the folder of a run
RESULTS_FILE = "results.json"

#: Column of the printed table -> metric. Complex PSNR and NRMSE, as meddlr's own headline numbers.
HEADLINES = {"PSNR": "psnr", "SSIM": "ssim (Wang)", "NRMSE": "nrmse"}
#: Methods by their names in files and in print.
LABELS = {"zero_filled": "zero-filled", "reconstruction": "reconstruction"}

#: In the table of subjects: mean and standard deviation over the subjects' means.
ALL_SUBJECTS = "(all subjects)"

#: Row of the second table, of cine -> metrics of its columns.
DETAILS = {
    "image, complex": {"PSNR": "psnr", "SSIM": "ssim_complex (Wang)", "NRMSE": "nrmse"},
    "image, magnitude": {"PSNR": "psnr_mag", "SSIM": "ssim (Wang)", "NRMSE": "nrmse_mag"},
    "heart, complex": {"PSNR": "psnr_heart", "SSIM": "ssim_complex (Wang)_heart", "NRMSE": "nrmse_heart"},
    "heart, magnitude": {"PSNR": "psnr_mag_heart", "SSIM": "ssim (Wang)_heart", "NRMSE": "nrmse_mag_heart"},
    "heart, x-t profile": {"NRMSE": "nrmse_xt"},
    "heart, temporal std": {"NRMSE": "nrmse_tstd"},
}


@dataclass
class DatasetReport:
    """What the evaluation of one data set gave.

    Attributes:
        name: Name of the data set.
        label: What the network is called in the printed table.
        is_cine: Whether the images are series.
        tables: "zero_filled" and "reconstruction" -> every value, see :meth:`GreedyReconEvaluator.table`.
        slices: The slices to draw.
        subjects: Scan -> subject.
        figures: The pictures that :meth:`draw` wrote.
        files: The files that :meth:`write` wrote: "slices", "subjects" and "images".
    """

    name: str
    label: str
    is_cine: bool
    tables: Dict[str, pd.DataFrame]
    slices: List[KeptSlice] = field(default_factory=list)
    subjects: Dict[str, str] = field(default_factory=dict)
    figures: List[Path] = field(default_factory=list)
    files: Dict[str, Path] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes the tables of slices and subjects, and the images of the slices to draw."""
        for name, table in (("slices", self.slice_table()), ("subjects", self.subject_table())):
            self.files[name] = folder / f"{self.name}_{name}.csv"
            with written_atomically(self.files[name]) as partial:
                table.to_csv(partial, index=False)
        if self.slices:
            self.files["images"] = folder / f"{self.name}_images.h5"
            write_slices(self.files["images"], self.slices)

    def draw(self, folder: Path) -> None:
        """Draws the slices that were kept for it."""
        for kept in self.slices:
            metrics = {
                LABELS[method]: _slice_means(table, kept.scan, kept.slice_id) for method, table in self.tables.items()
            }
            title = f"{self.name}: {kept.scan}, slice {kept.slice_id}"
            if self.is_cine:
                title += " (PSNR and SSIM: mean over frames)"
            recons = {label: kept.images[method] for method, label in LABELS.items()}
            stem = folder / f"{self.name}-{kept.scan}-slice{kept.slice_id}"
            self.figures += draw_slice(recons, kept, stem, metrics, title)

    def as_dict(self, folder: Path) -> Dict[str, Any]:
        """The report as it stands in ``results.json``, files relative to ``folder``."""
        return {
            "is_cine": self.is_cine,
            **{method: _summary(table) for method, table in self.tables.items()},
            "scans": _per_scan(self.tables),
            "files": {name: path.relative_to(folder).as_posix() for name, path in self.files.items()},
            "figures": [figure.relative_to(folder).as_posix() for figure in self.figures],
        }

    def slice_table(self) -> pd.DataFrame:
        """Every metric of every slice.

        Returns:
            DataFrame: Columns "scan", "slice" (empty for a metric of the scan), "subject", "method", "metric", "mean",
            "std" and "count": over the frames of the slice.
        """
        return _grouped(self._values(), ["scan", "slice", "subject", "method", "metric"])

    def subject_table(self) -> pd.DataFrame:
        """Every metric of every subject.

        Returns:
            DataFrame: Columns "subject", "method", "metric", "mean", "std" and "count": over the frames of the subject
            (over its slices or scans, for a metric of slices or scans). The last rows, of the subject
            :data:`ALL_SUBJECTS`, are over the subjects: each counts once, however many slices it has.
        """
        of_subjects = _grouped(self._values(), ["subject", "method", "metric"])
        means = of_subjects.rename(columns={"mean": "value"}).assign(subject=ALL_SUBJECTS)
        return pd.concat([of_subjects, _grouped(means, ["subject", "method", "metric"])], ignore_index=True)

    def _values(self) -> pd.DataFrame:
        """The tables of all methods, with slice and subject of each value."""
        values = pd.concat([table.assign(method=method) for method, table in self.tables.items()], ignore_index=True)
        names = zip(values["scan"], values["image"])
        values["slice"] = [image[len(scan) + 1 :].split("-")[0] for scan, image in names]
        values["subject"] = [self.subjects.get(scan, scan) for scan in values["scan"]]
        return values

    def as_text(self) -> str:
        """A short table: rows zero-filled and the network, columns mean (standard deviation) of the metrics.

        Of a cine series a second one follows: image and heart, complex and magnitude, and what happens in time.
        """
        headers = [self.name]
        rows = [[LABELS["zero_filled"]], [self.label]]
        for label, metric in HEADLINES.items():
            for suffix, over in (("", "frame" if self.is_cine else "image"), ("_scan", "scan")):
                headers.append(f"{label}\nper {over}")
                for row, table in zip(rows, self.tables.values()):
                    row.append(_cell(label, _values_of(table, metric + suffix)))
        text = tabulate(rows, headers=headers, disable_numparse=True)
        details = self._details() if self.is_cine else ""
        return f"{text}\n\n{details}" if details else text

    def _details(self) -> str:
        """The second table; empty where the metrics in it were not asked for."""
        methods = dict(zip((LABELS["zero_filled"], self.label), self.tables.values()))
        headers = ["per frame or slice", *(f"{label}\n{method}" for label in HEADLINES for method in methods)]
        known = set(self.tables["reconstruction"]["metric"])
        rows = []
        for name, metrics in DETAILS.items():
            names = [(label, metrics.get(label, "")) for label in HEADLINES]
            if known.issuperset(metrics.values()):
                cells = [_cell(label, _values_of(table, n)) for label, n in names for table in methods.values()]
                rows.append([name, *cells])
        return tabulate(rows, headers=headers, disable_numparse=True) if rows else ""


class _SliceKeeper(DatasetEvaluator):
    """Keeps the images of the slices that will be drawn, on the CPU, in the units of the file, and no others."""

    def __init__(self, cfg: CfgNode, wanted: Iterable[Tuple[str, int]]):
        self._normalizer = build_normalizer(cfg)
        self._wanted = frozenset(wanted)
        self.images: Dict[Tuple[str, int], Dict[str, np.ndarray]] = {}

    def process(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        kept = {(metadata["scan_id"], int(metadata["slice_id"])): i for i, metadata in enumerate(inputs["metadata"])}
        kept = {key: i for key, i in kept.items() if key in self._wanted}
        if not kept:
            return
        names = {"zero_filled": "zf_image", "reconstruction": "pred", "target": "target"}
        for name, output in names.items():
            images = as_complex(outputs[output]).detach()
            scale = {"mean": inputs["mean"], "std": inputs["std"], "channels_last": True}
            images = self._normalizer.undo(image=images, target=images, **scale)["image"].cpu().numpy()
            for key, i in kept.items():
                # A copy: a slice of the batch would keep the batch.
                self.images.setdefault(key, {})[name] = images[i].astype(np.complex64)


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
    examples = _slice_data(loader.dataset).examples
    scans = {Path(example["file_name"]).stem: str(example["file_name"]) for example in examples}
    keeper = _SliceKeeper(cfg, _middle_slices(examples, num_figures))
    inference_on_dataset(
        model,
        tqdm(loader, desc=dataset_name, unit="batch", dynamic_ncols=True),
        DatasetEvaluators([*evaluators.values(), keeper], as_list=True),
    )
    return DatasetReport(
        name=dataset_name,
        label="greedy" if cfg.MODEL.META_ARCHITECTURE == "GreedyUnrolled" else LABELS["reconstruction"],
        is_cine=evaluators["reconstruction"].is_cine,
        tables={method: evaluator.table() for method, evaluator in evaluators.items()},
        slices=[
            KeptSlice(scan, slice_id, images, Geometry.of(_attributes(scans[scan])))
            for (scan, slice_id), images in keeper.images.items()
        ],
        subjects={scan: _subject(scan, _attributes(path)) for scan, path in scans.items()},
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
    """Writes ``results.json``: ``info``, and per data set metrics and files; other files of eval_net are removed."""
    results = {**info, "datasets": {report.name: report.as_dict(path.parent) for report in reports}}
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    current = {file for report in reports for file in (*report.figures, *report.files.values())}
    own = ("*-slice*.png", "*-slice*.gif", "*_slices.csv", "*_subjects.csv", "*_images.h5")
    for stale in {file for pattern in own for file in path.parent.glob(pattern)} - current:
        stale.unlink()


def draw_slice(
    recons: Mapping[str, np.ndarray],
    kept: KeptSlice,
    stem: Path,
    title_metrics: Mapping[str, Mapping[str, float]],
    title: str,
) -> List[Path]:
    """Draws reconstructions of one slice beside its target, as ``<stem>.png`` and, of a series, ``<stem>.gif``."""
    png, gif = Path(f"{stem}.png"), Path(f"{stem}.gif")
    target = kept.images["target"]
    draw_recon_figure(recons, png, title_metrics, target=target, title=title, **kept.geometry._asdict())
    if target.ndim < 4:
        return [png]
    draw_cine_gif(recons, gif, title_metrics, target=target, title=title, **kept.geometry._asdict())
    return [png, gif]


def _slice_data(dataset: Any) -> SliceData:
    """meddlr's data set, inside those that are wrapped around it."""
    while not isinstance(dataset, SliceData):
        dataset = dataset.dataset
    return dataset


def _middle_slices(examples: Sequence[Mapping[str, Any]], num_scans: int) -> List[Tuple[str, int]]:
    """(scan id, slice id) of the middle slice of each of the first scans."""
    slices_of_file: Dict[str, List[int]] = {}
    for example in examples:
        slices_of_file.setdefault(str(example["file_name"]), []).append(int(example["slice_id"]))
    return [
        (Path(file_name).stem, sorted(slices)[len(slices) // 2])
        for file_name, slices in list(slices_of_file.items())[:num_scans]
    ]


def _attributes(file_name: str) -> Dict[str, Any]:
    with h5py.File(file_name, "r") as scan:
        return dict(scan.attrs)


def _subject(scan: str, attributes: Mapping[str, Any]) -> str:
    """Whom a scan is of: its attribute ``subject_id``, else each scan is a subject of its own."""
    subject = attributes.get("subject_id", scan)
    return subject.decode() if isinstance(subject, bytes) else str(subject)


def _grouped(values: pd.DataFrame, keys: List[str]) -> pd.DataFrame:
    """Mean, standard deviation and count of "value" per group; NaN (no heart, too small for SSIM) does not count."""
    return values.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()


def _cell(label: str, values: pd.Series) -> str:
    if values.empty:
        return ""
    digits = 2 if label == "PSNR" else 4
    spread = f" ({values.std():.{digits}f})" if values.count() > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def _values_of(table: pd.DataFrame, metric: str) -> pd.Series:
    """The values of a metric; of all its channels, where meddlr counts map sets as channels."""
    return table.loc[table["metric"].str.split("/").str[0] == metric, "value"]


def _slice_means(table: pd.DataFrame, scan_id: str, slice_id: int) -> Dict[str, float]:
    """PSNR and SSIM of a slice, averaged over its frames."""
    image = f"{scan_id}-{slice_id}"
    rows = table[(table["scan"] == scan_id) & ((table["image"] + "-").str.startswith(image + "-"))]
    return {label: float(_values_of(rows, HEADLINES[label]).mean()) for label in ("PSNR", "SSIM")}


def _summary(table: pd.DataFrame) -> Dict[str, Dict[str, Optional[float]]]:
    return {
        str(metric): {
            "mean": _number(values.mean()),
            "std": _number(values.std()),
            "count": int(values.count()),
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
