"""Runs a network over data sets: scores it and the images it starts from, and keeps a few slices to look at."""

import importlib.metadata
import os
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from meddlr.config import CfgNode
from meddlr.data.slice_dataset import SliceData
from meddlr.data.transforms.transform import build_normalizer
from meddlr.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from torch import nn

import meddlr_greedy
from meddlr_greedy.console import Followed
from meddlr_greedy.data.build import build_val_loader
from meddlr_greedy.data.scan_file import read_header
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.description import MaskReader, label_of, network_in_words
from meddlr_greedy.evaluation.evaluator import build_evaluator
from meddlr_greedy.evaluation.images import as_complex, in_file_units
from meddlr_greedy.evaluation.report import RESULTS_FILE, RESULTS_FOLDER, DatasetReport, write_results
from meddlr_greedy.evaluation.report_page import printed, report_or_note
from meddlr_greedy.evaluation.slices import KeptSlice
from meddlr_greedy.evaluation.tables import LABELS, not_finite_images, undefined_values
from meddlr_greedy.files import UniqueNames, writing
from meddlr_greedy.locks import lock_until_end
from meddlr_greedy.viewer.page import REPORT_FILE, Page
from meddlr_greedy.zoo import is_zoo_name, seen

__all__ = ["evaluate_dataset", "evaluate_test_sets", "make_results_folder", "run_info"]


def make_results_folder(output_dir: str) -> Path:
    """Makes the folder of results inside the folder of a run, and locks it until the command ends.

    The run itself is not locked: it may still be trained. Where nothing is written, both folders go again if they were
    made here.

    Raises:
        UserError: Another evaluation writes there.
        WriteError: It cannot be made.
    """
    folder = Path(output_dir) / RESULTS_FOLDER
    lock_until_end(folder, "OUTPUT_DIR")
    return folder


def evaluate_test_sets(
    cfg: CfgNode, model: nn.Module, info: Mapping[str, Any], folder: Path, num_figures: int, label: str = ""
) -> None:
    """Scores a network on ``DATASETS.TEST``, draws a few slices, and prints a short table of each data set.

    Args:
        cfg: meddlr's config.
        model: A network that returns ``pred``, ``target`` and ``zf_image``.
        info: What is evaluated, see :func:`run_info`; it goes into ``results.json``.
        folder: Where to write, see :mod:`meddlr_greedy.evaluation.report`.
        num_figures: Slices to draw per data set.
        label: The method's name in the printed table; by default that of the kind of training.

    Raises:
        UserError: A data set cannot be used.
    """
    reports: List[DatasetReport] = []
    names = UniqueNames()
    info = {"network": label or network_in_words(cfg), **info}
    page = Page("Evaluation", about=[_about(info)])
    if is_zoo_name(info["weights"] or ""):
        page.notes.append(f"{info['weights']}: {seen(info['weights'])} Not for clinical use.")
    for name in cfg.DATASETS.TEST:
        report = evaluate_dataset(cfg, model, build_val_loader(cfg, name), name, num_figures)
        report.label, report.names = label or report.label, names
        report.compared = _compared(cfg, info["network"])
        reports.append(report)
        with writing(folder, "OUTPUT_DIR"):
            report.write(folder)
            # After every data set, and before drawing: what is done is kept if a later step fails.
            write_results(folder / RESULTS_FILE, info, reports)
            report.draw(folder)
            write_results(folder / RESULTS_FILE, info, reports)
            with report_or_note(folder / REPORT_FILE):
                report.show(page)
                page.write(folder / REPORT_FILE)
        print(f"\n{report.as_text()}\n")
        print("\n".join(f"picture: {figure}" for figure in report.figures))
        print(f"per subject: {report.files['subjects']}")
    print("\n".join(filter(None, [printed(page, folder / REPORT_FILE), f"results: {folder / RESULTS_FILE}"])))


def evaluate_dataset(
    cfg: CfgNode, model: nn.Module, loader: Any, dataset_name: str, num_figures: int = 2
) -> DatasetReport:
    """Runs a network once over a data set; scores it and the zero-filled images, and keeps a few slices to draw.

    Args:
        cfg: meddlr's config.
        model: A network that returns ``pred``, ``target`` and ``zf_image``.
        loader: Batches of the data set with ``metadata``, the slices of a scan one after the other.
        dataset_name: The data set.
        num_figures: Slices to draw: the middle ones of the first scans.

    Raises:
        UserError: The data set holds no examples, or a scan without target.
    """
    if len(loader) == 0:
        raise UserError(f"DATASETS.TEST: data set '{dataset_name}' holds no examples")
    # By default meddlr keeps all 2D images until the end; -1: until the scan is complete.
    options: Dict[str, Any] = {"prefix": None, "flush_period": cfg.TEST.FLUSH_PERIOD or -1}
    evaluators = {
        "zero_filled": build_evaluator(cfg, dataset_name, scored_output="zf_image", postprocess="", **options),
        "reconstruction": build_evaluator(cfg, dataset_name, **options),
    }
    examples = _slice_data(loader.dataset).examples
    paths = dict.fromkeys(str(example["file_name"]) for example in examples)
    headers = {Path(path).stem: read_header(path, dict(cfg.DATALOADER.DATA_KEYS) or None) for path in paths}
    keeper = _SliceKeeper(cfg, _middle_slices(examples, num_figures))
    masks = MaskReader(cfg, sum(h.is_cine and "mask" in h.contents for h in headers.values()), len(headers))
    inference_on_dataset(
        model,
        Followed(loader, dataset_name, "batches"),
        DatasetEvaluators([*evaluators.values(), keeper, masks], as_list=True),
    )
    tables = {method: evaluator.table() for method, evaluator in evaluators.items()}
    return DatasetReport(
        name=dataset_name,
        label=label_of(cfg),
        is_cine=evaluators["reconstruction"].is_cine,
        tables=tables,
        sampled=str(masks),
        notes=[
            text
            for method, evaluator in evaluators.items()
            for text in (
                undefined_values(tables[method], LABELS[method]),
                not_finite_images(evaluator.not_finite, LABELS[method]) if evaluator.not_finite else "",
            )
            if text
        ],
        slices=[
            KeptSlice(scan, slice_id, images, headers[scan].geometry)
            for (scan, slice_id), images in keeper.images.items()
        ],
        subjects={scan: _subject(scan, header.attributes) for scan, header in headers.items()},
    )


def run_info(cfg: CfgNode, model: nn.Module, weights: str, iteration: Optional[int]) -> Dict[str, Any]:
    """What is evaluated: weights (relative to ``OUTPUT_DIR``, or in the zoo), iteration, parameters, seed, versions."""
    return {
        "weights": weights if is_zoo_name(weights) else os.path.relpath(weights, cfg.OUTPUT_DIR),
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


def _about(info: Mapping[str, Any]) -> str:
    """What is evaluated, in one line."""
    parts = [info["network"], f"{info['parameters']} parameters"]
    if info["weights"]:
        parts.append(f"weights {info['weights']}")
    if info["iteration"] is not None:
        parts.append(f"iteration {info['iteration']}")
    return ", ".join([*parts, f"meddlr-greedy {info['versions']['meddlr_greedy']}"])


def _compared(cfg: CfgNode, method: str) -> str:
    """What the printed table compares, and which images these are."""
    filled = {
        "": "as the network gives them (no k-space is filled in)",
        "hard_dc_edge": "with the edges of k-space that are never acquired filled in (TEST.POSTPROCESSOR hard_dc_edge)",
        "hard_dc_all": "with all acquired k-space filled in (TEST.POSTPROCESSOR hard_dc_all)",
    }[cfg.TEST.POSTPROCESSOR.NAME]
    return f"Images of {method}, {filled}, and zero-filled images, against the target."


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
            images = in_file_units(self._normalizer, as_complex(outputs[output]), inputs)
            for key, i in kept.items():
                # A copy: a slice of the batch would keep the batch.
                self.images.setdefault(key, {})[name] = images[i].copy()


def _slice_data(dataset: Any) -> SliceData:
    """The data set of meddlr inside those that are wrapped around it."""
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


def _subject(scan: str, attributes: Mapping[str, Any]) -> str:
    """Whom a scan is of: its attribute ``subject_id``, else each scan is a subject of its own."""
    subject = attributes.get("subject_id", scan)
    return subject.decode() if isinstance(subject, bytes) else str(subject)
