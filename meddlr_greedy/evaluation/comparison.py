"""Evaluations of several runs side by side: a table with paired tests, and pictures. Reads files, needs no model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon
from tabulate import tabulate

from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.slices import KeptSlice, read_slices
from meddlr_greedy.evaluation.tables import DETAILS, HEADLINES, LABELS, RESULTS_FILE, RESULTS_FOLDER, draw_slice

__all__ = ["MIN_PAIRS", "UNITS", "Comparison", "Run", "compare_runs", "load_runs", "paired_test"]

#: With fewer pairs no two-sided Wilcoxon test can give a p-value below 0.05.
MIN_PAIRS = 6

#: What counts as one observation -> the columns that identify it.
UNITS = {"subject": ["subject"], "scan": ["scan"], "slice": ["scan", "slice"]}

_ZERO_FILLED = LABELS["zero_filled"]
_SAME = 1e-3  # relative: zero-filled scores of two runs on the same data differ by rounding only


class Run(NamedTuple):
    """An evaluated run.

    Attributes:
        label: What it is called in tables and pictures.
        folder: Where its ``results.json`` is.
        datasets: Name of a data set -> its part of ``results.json``.
    """

    label: str
    folder: Path
    datasets: Dict[str, Any]

    def file(self, dataset: str, kind: str) -> Optional[Path]:
        """A file that the evaluation wrote: "slices", "subjects" or "images"; ``None`` where it wrote none."""
        name = self.datasets[dataset]["files"].get(kind)
        return None if name is None else self.folder / name

    def slice_table(self, dataset: str) -> pd.DataFrame:
        """See :meth:`meddlr_greedy.evaluation.report.DatasetReport.slice_table`."""
        path = self.folder / self.datasets[dataset]["files"]["slices"]
        try:
            table = pd.read_csv(path, dtype={"scan": str, "slice": str, "subject": str}, keep_default_na=False)
            return table.astype({"slice": str}).assign(mean=pd.to_numeric(table["mean"]))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: cannot be read ({error}); evaluate the run again") from error


def load_runs(paths: Sequence[str], labels: Sequence[str] = ()) -> List[Run]:
    """Reads what ``python -m meddlr_greedy.eval_net`` wrote of several runs.

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
    labels = list(labels) or [_folder_of_run(path).name for path in paths]
    for label, path in zip(labels, paths):
        if labels.count(label) > 1 or label in ("target", _ZERO_FILLED):
            raise UserError(f"{path}: the name '{label}' is taken; give each run one of its own with --labels")
    return [_load_run(Path(path), label) for path, label in zip(paths, labels)]


def _folder_of_run(path: str) -> Path:
    folder = Path(path).resolve()
    return folder.parent if folder.name == RESULTS_FOLDER else folder


def _load_run(path: Path, label: str) -> Run:
    folders = [path / RESULTS_FOLDER, path]
    found = [folder for folder in folders if (folder / RESULTS_FILE).is_file()]
    if not found:
        raise UserError(
            f"{path}: no {RESULTS_FOLDER}/{RESULTS_FILE} in it; evaluate it first: python -m meddlr_greedy.eval_net"
        )
    file = found[0] / RESULTS_FILE
    try:
        datasets = json.loads(file.read_text())["datasets"]
        if not all("slices" in of_dataset["files"] for of_dataset in datasets.values()):
            raise KeyError("slices")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: damaged, or of an earlier version ({type(error).__name__}: {error}); evaluate the run again"
        ) from error
    return Run(label, found[0], datasets)


class PairedTest(NamedTuple):
    """A Wilcoxon signed-rank test, two-sided.

    Attributes:
        p_value: NaN where there is none.
        note: Why there is none; empty otherwise.
    """

    p_value: float
    note: str = ""


def paired_test(values: np.ndarray, of_reference: np.ndarray) -> PairedTest:
    """Whether paired values differ, by scipy's Wilcoxon signed-rank test.

    Args:
        values: Shape (n,), finite.
        of_reference: Shape (n,), of the same units in the same order.
    """
    differences = values - of_reference
    different = int(np.count_nonzero(differences))
    if len(differences) < MIN_PAIRS:
        return PairedTest(np.nan, f"n = {len(differences)}, too few (at least {MIN_PAIRS})")
    if different < MIN_PAIRS:  # the test drops pairs without a difference
        return PairedTest(np.nan, f"only {different} pairs differ, too few (at least {MIN_PAIRS})")
    return PairedTest(float(wilcoxon(differences).pvalue))


@dataclass
class Comparison:
    """Runs on one data set.

    Attributes:
        dataset: Its name.
        unit: What counts as one observation, a key of :data:`UNITS`.
        is_cine: Whether the images are series.
        runs: The runs; the others are tested against the first.
        statistics: One row per metric and method; columns "metric", "method", "n", "mean", "std", and of the runs but
            the first "difference" (mean difference to the first), "p_value" and "note".
        notes: What a reader of the numbers has to know.
    """

    dataset: str
    unit: str
    is_cine: bool
    runs: List[Run]
    statistics: pd.DataFrame
    notes: List[str]

    def as_text(self, table_format: str = "simple") -> str:
        """The table: rows metrics; columns zero-filled and the runs as mean (standard deviation), and the tests.

        Args:
            table_format: A name of a format of ``tabulate``.
        """
        first, *others = (run.label for run in self.runs)
        headers = [self.dataset, "n", _ZERO_FILLED, first, *others]
        headers += [f"{other} - {first}" for other in others] + [f"p ({other})" for other in others]
        rows = []
        for label, metric in _printed_metrics(self.is_cine):
            of_metric = self.statistics[self.statistics["metric"] == metric].set_index("method")
            if of_metric.empty or not of_metric["n"].iloc[0]:
                continue
            digits = 2 if metric.startswith("psnr") else 4
            cells = [f"{m['mean']:.{digits}f} ({m['std']:.{digits}f})" for _, m in of_metric.iterrows()]
            tests = [of_metric.loc[other] for other in others]
            cells += [f"{test['difference']:+.{digits}f}" for test in tests]
            cells += [test["note"] or f"{test['p_value']:.2g}" for test in tests]
            rows.append([label, of_metric["n"].iloc[0], *cells])
        note = (
            f"mean (standard deviation) over the n {self.unit}s that all runs share; p: two-sided Wilcoxon signed-rank"
            f" test against {first}"
        )
        table = tabulate(rows, headers=headers, tablefmt=table_format, disable_numparse=True)
        return "\n\n".join([table, note, *(f"note: {text}" for text in self.notes)])

    def draw(self, folder: Path) -> List[Path]:
        """Draws every slice that all runs kept: target, zero-filled image (of the first run) and the runs."""
        kept = [_kept_slices(run, self.dataset) for run in self.runs]
        pictures: List[Path] = []
        for key, of_first in kept[0].items():
            if not all(key in of_run for of_run in kept):
                continue
            slices = [of_run[key] for of_run in kept]
            if len({s.images["target"].shape for s in slices}) > 1:
                raise UserError(
                    f"{self.dataset}, {key[0]}, slice {key[1]}: the images of the runs have different shapes"
                )
            recons = {_ZERO_FILLED: of_first.images["zero_filled"]}
            recons.update({run.label: s.images["reconstruction"] for run, s in zip(self.runs, slices)})
            title = f"{self.dataset}: {key[0]}, slice {key[1]}"
            if self.is_cine:
                title += " (PSNR and SSIM: mean over frames)"
            stem = folder / f"{self.dataset}-{key[0]}-slice{key[1]}"
            pictures += draw_slice(recons, of_first, stem, self._slice_scores(*key), title)
        return pictures

    def _slice_scores(self, scan: str, slice_id: int) -> Dict[str, Dict[str, float]]:
        """Method -> PSNR and SSIM of one slice."""
        tables = {(_ZERO_FILLED, "zero_filled"): self.runs[0]}
        tables.update({(run.label, "reconstruction"): run for run in self.runs})
        scores = {}
        for (label, method), run in tables.items():
            table = run.slice_table(self.dataset)
            rows = table[(table["scan"] == scan) & (table["slice"] == str(slice_id)) & (table["method"] == method)]
            of_metric = rows.groupby(_base_name(rows["metric"]))["mean"].mean()
            scores[label] = {name: float(of_metric[HEADLINES[name]]) for name in ("PSNR", "SSIM")}
        return scores


def compare_runs(runs: Sequence[Run], dataset: str, unit: str = "subject") -> Comparison:
    """Compares runs on what they share of a data set.

    Args:
        runs: Evaluated runs that all have the data set.
        dataset: Its name.
        unit: "subject", "scan" or "slice". Slices of a scan and scans of a subject are alike: to treat them as
            independent makes a p-value too small.

    Raises:
        UserError: The runs share nothing, or a file cannot be read.
    """
    tables = {run.label: run.slice_table(dataset) for run in runs}
    first = runs[0].label
    values = {_ZERO_FILLED: _of_units(tables[first], "zero_filled", unit)}
    values.update({label: _of_units(table, "reconstruction", unit) for label, table in tables.items()})
    shared = pd.DataFrame(values).dropna()
    if shared.empty:
        raise UserError(f"{dataset}: the runs {', '.join(tables)} have no {unit} and metric in common")

    rows = []
    for metric, of_metric in shared.groupby(level="metric", sort=False):
        for method in of_metric:
            row = {"metric": metric, "method": method, "n": len(of_metric)}
            row.update(mean=of_metric[method].mean(), std=of_metric[method].std(), note="")
            if method not in (_ZERO_FILLED, first):
                test = paired_test(of_metric[method].to_numpy(), of_metric[first].to_numpy())
                row.update(difference=(of_metric[method] - of_metric[first]).mean(), **test._asdict())
            rows.append(row)
    columns = ["metric", "method", "n", "mean", "std", "difference", "p_value", "note"]
    return Comparison(
        dataset=dataset,
        unit=unit,
        is_cine=runs[0].datasets[dataset]["is_cine"],
        runs=list(runs),
        statistics=pd.DataFrame(rows, columns=columns),
        notes=_notes(tables, unit),
    )


def _of_units(table: pd.DataFrame, method: str, unit: str) -> pd.Series:
    """Mean over the slices of each unit: index (metric, unit)."""
    of_method = table[table["method"] == method]
    if unit == "slice":
        of_method = of_method[of_method["slice"] != ""]  # without the metrics of scans
    keys = [of_method[column] for column in UNITS[unit]]
    return of_method.groupby([_base_name(of_method["metric"]), *keys], sort=False)["mean"].mean()


def _base_name(metrics: pd.Series) -> pd.Series:
    """meddlr counts map sets of 2D images as channels, "psnr/channel_0"; here they are averaged."""
    return metrics.str.split("/").str[0].rename("metric")


def _notes(tables: Mapping[str, pd.DataFrame], unit: str) -> List[str]:
    notes = []
    first, *others = tables
    zero_filled = {label: _of_units(table, "zero_filled", "scan") for label, table in tables.items()}
    for other in others:
        both = pd.DataFrame({"first": zero_filled[first], "other": zero_filled[other]}).dropna()
        if not np.allclose(both["first"], both["other"], rtol=_SAME):
            notes.append(
                f"the zero-filled images of {first} and {other} differ: they did not reconstruct the same data (SEED,"
                " AUG_TRAIN.UNDERSAMPLE), so a difference is not that of the methods alone"
            )
    units = {
        label: set(_of_units(table, "reconstruction", unit).index.droplevel("metric"))
        for label, table in tables.items()
    }
    common = set.intersection(*units.values())
    for label, of_run in units.items():
        if of_run - common:
            notes.append(
                f"{len(of_run - common)} of the {len(of_run)} {unit}s of {label} are not in every run, and left out"
            )
    return notes


def _printed_metrics(is_cine: bool) -> List[Tuple[str, str]]:
    """(row of the table, metric)."""
    if not is_cine:
        return list(HEADLINES.items())
    return [(f"{label}, {group}", metric) for group, metrics in DETAILS.items() for label, metric in metrics.items()]


def _kept_slices(run: Run, dataset: str) -> Dict[Tuple[str, int], KeptSlice]:
    path = run.file(dataset, "images")
    return {} if path is None else {(kept.scan, kept.slice_id): kept for kept in read_slices(path)}
