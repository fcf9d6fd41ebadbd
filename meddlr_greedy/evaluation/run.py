"""Scores a network on a data set, and keeps a few slices for pictures."""

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import h5py
import numpy as np
import torch
from meddlr.config import CfgNode
from meddlr.data.slice_dataset import SliceData
from meddlr.data.transforms.transform import build_normalizer
from meddlr.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from torch import nn
from tqdm import tqdm

import meddlr_greedy
from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.evaluator import GreedyReconEvaluator, ZeroFilledEvaluator, as_complex
from meddlr_greedy.evaluation.report import DatasetReport
from meddlr_greedy.evaluation.slices import KeptSlice
from meddlr_greedy.evaluation.tables import LABELS
from meddlr_greedy.files import written_atomically

__all__ = ["evaluate_dataset", "run_info", "write_results"]


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
