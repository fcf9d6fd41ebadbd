"""What ``meddlr-greedy eval`` wrote of a run, read back. Whoever wrote the files: they are checked. Needs no model."""

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import pandas as pd

from meddlr_greedy.errors import UserError, shortened
from meddlr_greedy.evaluation.report import RESULTS_FILE, RESULTS_FOLDER
from meddlr_greedy.evaluation.tables import LABELS
from meddlr_greedy.files import reading

__all__ = ["ZERO_FILLED", "Run", "load_runs", "shared_datasets"]

#: What the images before reconstruction are called.
ZERO_FILLED = LABELS["zero_filled"]

_COLUMNS = ("scan", "slice", "subject", "method", "metric")  # texts, which tell the values of a table apart
_LARGEST_JSON, _LARGEST_TABLE = 2**25, 2**28  # bytes; of a thousand scans they have a tenth
_LONGEST_TEXT = 5000  # letters; the weights are a path
_LARGEST_VALUE = 1e100  # of a metric: squares of differences stay finite


class Run(NamedTuple):
    """An evaluated run.

    Attributes:
        label: What it is called in tables and pictures.
        folder: Where its ``results.json`` is.
        datasets: Name of a data set -> its part of ``results.json``.
        network: What was evaluated, in words; empty where the file does not say.
    """

    label: str
    folder: Path
    datasets: Dict[str, Any]
    network: str = ""

    def sampled(self, dataset: str) -> str:
        """How k-space of a data set was sampled, in words; empty where the file does not say."""
        return self.datasets[dataset].get("sampled", "")

    def file(self, dataset: str, kind: str) -> Optional[Path]:
        """A file that the evaluation wrote: "slices", "subjects" or "images"; ``None`` where it wrote none."""
        name = self.datasets[dataset]["files"].get(kind)
        return None if name is None else self.folder / name

    def slice_table(self, dataset: str) -> pd.DataFrame:
        """See :func:`meddlr_greedy.evaluation.tables.slice_table`; values that are not finite are NaN.

        Raises:
            UserError: The file is missing or damaged, or holds another table.
        """
        path = self.folder / self.datasets[dataset]["files"]["slices"]
        with reading(path, "a table that meddlr-greedy eval wrote; evaluate the run again"):
            _check_file(path, _LARGEST_TABLE)
            table = pd.read_csv(path, dtype=dict.fromkeys(_COLUMNS, str), keep_default_na=False)
            missing = [name for name in (*_COLUMNS, "mean") if name not in table]
            if missing:
                raise ValueError(f"no column {', '.join(missing)}")
            values = pd.to_numeric(table["mean"]).astype(float)
            table = table.assign(mean=values.where(np.isfinite(values)))
            _check_table(table)
        return table


def _check_table(table: pd.DataFrame) -> None:
    if table.empty:
        raise ValueError("no rows")
    repeated = table.duplicated([*_COLUMNS])
    if repeated.any():
        row = table[repeated].iloc[0]
        raise ValueError(f"two rows of one value: {', '.join(f'{name} {row[name]!r}' for name in _COLUMNS)}")
    if (table["mean"].abs() > _LARGEST_VALUE).any():
        raise ValueError(f"a value beyond {_LARGEST_VALUE:g}")


def load_runs(paths: Sequence[str], labels: Sequence[str] = ()) -> List[Run]:
    """Reads what ``meddlr-greedy eval`` wrote of several runs.

    Args:
        paths: Output folders of runs, or the folders of their results.
        labels: What to call them; by default the names of the folders.

    Raises:
        UserError: A run has not been evaluated, or two have the same label.
    """
    if len(paths) < 2:
        raise UserError(f"found {len(paths)} run, at least 2 are needed to compare")
    if labels and len(labels) != len(paths):
        raise UserError(f"--labels: found {len(labels)}, needed are {len(paths)}, one for each run")
    labels = list(labels) or [_run_folder(path).name for path in paths]
    for label, path in zip(labels, paths):
        if labels.count(label) > 1 or label in ("target", ZERO_FILLED):
            raise UserError(f"{path}: the name '{label}' is taken; give each run one of its own with --labels")
    return [_load_run(Path(path), label) for path, label in zip(paths, labels)]


def shared_datasets(runs: Sequence[Run]) -> List[str]:
    """The names of the data sets that all runs have been evaluated on.

    Raises:
        UserError: There is none.
    """
    names = [name for name in runs[0].datasets if all(name in run.datasets for run in runs)]
    if not names:
        found = "; ".join(f"{run.label}: {', '.join(run.datasets) or 'none'}" for run in runs)
        raise UserError(f"the runs share no data set ({found}); evaluate them with the same DATASETS.TEST")
    return names


def _run_folder(path: str) -> Path:
    with reading(path, "the folder of a run"):
        folder = Path(path).resolve()
    return folder.parent if folder.name == RESULTS_FOLDER else folder


def _load_run(path: Path, label: str) -> Run:
    folders = [path / RESULTS_FOLDER, path]
    found = [folder for folder in folders if (folder / RESULTS_FILE).is_file()]
    if not found:
        raise UserError(f"{path}: no {RESULTS_FOLDER}/{RESULTS_FILE} in it; evaluate it first: meddlr-greedy eval")
    file = found[0] / RESULTS_FILE
    with reading(file, "what this version of meddlr-greedy eval writes; evaluate the run again"):
        _check_file(file, _LARGEST_JSON)
        results = json.loads(file.read_text(encoding="utf-8"))
        datasets, told = results["datasets"], [results.get(name) for name in ("network", "weights")]
        network = ", weights ".join(_text(text) for text in told if text is not None)
        for name, of_dataset in datasets.items():
            _check_results(name, of_dataset)
    return Run(label, found[0], datasets, network)


def _check_results(name: str, results: Any) -> None:
    if not isinstance(results["is_cine"], bool):
        raise ValueError(f"{shortened(name)}: is_cine is {shortened(results['is_cine'])}")
    _text(results.get("sampled", ""))
    files = results["files"]
    for kind in {"slices", *files}:
        file = files[kind]
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise ValueError(f"{shortened(name)}: {kind} is {shortened(file)}, allowed is the name of a file beside it")


def _text(value: Any) -> str:
    """A line of words, which is shown on a page."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError(f"found {shortened(value)}, allowed is a text of at most {_LONGEST_TEXT} letters")
    return value


def _check_file(path: Path, largest: int) -> None:
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")
    if path.stat().st_size > largest:
        raise ValueError(f"{path.stat().st_size} bytes, allowed are {largest}")
