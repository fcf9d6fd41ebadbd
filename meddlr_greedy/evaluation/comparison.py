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
from meddlr_greedy.evaluation.report import RESULTS_FILE, RESULTS_FOLDER
from meddlr_greedy.evaluation.slices import KeptSlice, draw_slice, read_slices
from meddlr_greedy.evaluation.tables import DETAILS, HEADLINES, LABELS, base_name
from meddlr_greedy.files import UniqueNames, inside, written_atomically

__all__ = [
    "MIN_PAIRS",
    "STATISTICS_FILE",
    "TABLE_FILE",
    "UNITS",
    "Comparison",
    "Run",
    "compare_runs",
    "load_runs",
    "paired_test",
    "shared_datasets",
    "write_comparisons",
]

STATISTICS_FILE = "comparison.csv"  #: Every metric of every method.
TABLE_FILE = "comparison.md"  #: The printed table.

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
        return None if name is None else inside(self.folder, name, self.folder / RESULTS_FILE)

    def slice_table(self, dataset: str) -> pd.DataFrame:
        """See :func:`meddlr_greedy.evaluation.tables.slice_table`."""
        path = inside(self.folder, self.datasets[dataset]["files"]["slices"], self.folder / RESULTS_FILE)
        try:
            table = pd.read_csv(path, dtype={"scan": str, "slice": str, "subject": str}, keep_default_na=False)
            return table.astype({"slice": str}).assign(mean=pd.to_numeric(table["mean"]))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: cannot be read ({error}); evaluate the run again") from error


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
        if labels.count(label) > 1 or label in ("target", _ZERO_FILLED):
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
    folder = Path(path).resolve()
    return folder.parent if folder.name == RESULTS_FOLDER else folder


def _load_run(path: Path, label: str) -> Run:
    folders = [path / RESULTS_FOLDER, path]
    found = [folder for folder in folders if (folder / RESULTS_FILE).is_file()]
    if not found:
        raise UserError(f"{path}: no {RESULTS_FOLDER}/{RESULTS_FILE} in it; evaluate it first: meddlr-greedy eval")
    file = found[0] / RESULTS_FILE
    try:
        datasets = json.loads(file.read_text())["datasets"]
        if not all("slices" in results["files"] for results in datasets.values()):
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


def paired_test(values: np.ndarray, reference: np.ndarray) -> PairedTest:
    """Whether paired values differ, by scipy's Wilcoxon signed-rank test.

    Args:
        values: Shape (n,), finite.
        reference: Shape (n,), of the same units in the same order.
    """
    differences = values - reference
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
            methods = self.statistics[self.statistics["metric"] == metric].set_index("method")
            if methods.empty or not methods["n"].iloc[0]:
                continue
            digits = 2 if metric.startswith("psnr") else 4
            cells = [f"{m['mean']:.{digits}f} ({m['std']:.{digits}f})" for _, m in methods.iterrows()]
            tests = [methods.loc[other] for other in others]
            cells += [f"{test['difference']:+.{digits}f}" for test in tests]
            cells += [test["note"] or f"{test['p_value']:.2g}" for test in tests]
            rows.append([label, methods["n"].iloc[0], *cells])
        note = (
            f"mean (standard deviation) over the n {self.unit}s that all runs share; p: two-sided Wilcoxon signed-rank"
            f" test against {first}"
        )
        table = tabulate(rows, headers=headers, tablefmt=table_format, disable_numparse=True)
        return "\n\n".join([table, note, *(f"note: {text}" for text in self.notes)])

    def draw(self, folder: Path, names: UniqueNames) -> List[Path]:
        """Draws every slice that all runs kept: target, zero-filled image (of the first run) and the runs.

        Args:
            folder: Where to draw.
            names: Gives names of files; comparisons in one folder share it.

        Returns:
            List[Path]: The pictures.
        """
        kept = [_kept_slices(run, self.dataset) for run in self.runs]
        pictures: List[Path] = []
        for key, first in kept[0].items():
            if not all(key in slices_by_key for slices_by_key in kept):
                continue
            slices = [slices_by_key[key] for slices_by_key in kept]
            if len({s.images["target"].shape for s in slices}) > 1:
                raise UserError(
                    f"{self.dataset}, {key[0]}, slice {key[1]}: the images of the runs have different shapes"
                )
            recons = {_ZERO_FILLED: first.images["zero_filled"]}
            recons.update({run.label: s.images["reconstruction"] for run, s in zip(self.runs, slices)})
            pictures += draw_slice(recons, first, self.dataset, self._slice_scores(*key), folder, names)
        return pictures

    def _slice_scores(self, scan: str, slice_id: int) -> Dict[str, Dict[str, float]]:
        """Method -> PSNR and SSIM of one slice."""
        tables = {(_ZERO_FILLED, "zero_filled"): self.runs[0]}
        tables.update({(run.label, "reconstruction"): run for run in self.runs})
        scores = {}
        for (label, method), run in tables.items():
            table = run.slice_table(self.dataset)
            rows = table[(table["scan"] == scan) & (table["slice"] == str(slice_id)) & (table["method"] == method)]
            means = rows.groupby(base_name(rows["metric"]))["mean"].mean()
            scores[label] = {name: float(means[HEADLINES[name]]) for name in ("PSNR", "SSIM")}
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
    values = {_ZERO_FILLED: _unit_means(tables[first], "zero_filled", unit)}
    values.update({label: _unit_means(table, "reconstruction", unit) for label, table in tables.items()})
    shared = pd.DataFrame(values).dropna()
    if shared.empty:
        raise UserError(f"{dataset}: the runs {', '.join(tables)} have no {unit} and metric in common")

    rows = []
    for metric, paired in shared.groupby(level="metric", sort=False):
        for method in paired:
            row = {"metric": metric, "method": method, "n": len(paired)}
            row.update(mean=paired[method].mean(), std=paired[method].std(), note="")
            if method not in (_ZERO_FILLED, first):
                test = paired_test(paired[method].to_numpy(), paired[first].to_numpy())
                row.update(difference=(paired[method] - paired[first]).mean(), **test._asdict())
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


def write_comparisons(folder: Path, comparisons: Sequence[Comparison]) -> None:
    """Writes :data:`STATISTICS_FILE` and :data:`TABLE_FILE` of comparisons on several data sets."""
    with written_atomically(folder / STATISTICS_FILE) as partial:
        tables = [c.statistics.assign(dataset=c.dataset, unit=c.unit) for c in comparisons]
        pd.concat(tables, ignore_index=True).to_csv(partial, index=False, errors="surrogateescape")
    with written_atomically(folder / TABLE_FILE) as partial:
        partial.write_text("\n\n".join(c.as_text("github") for c in comparisons) + "\n", errors="backslashreplace")


def _unit_means(table: pd.DataFrame, method: str, unit: str) -> pd.Series:
    """Mean over the slices of each unit, and over the channels of a metric: index (metric, unit)."""
    rows = table[table["method"] == method]
    if unit == "slice":
        rows = rows[rows["slice"] != ""]  # without the metrics of scans
    keys = [rows[column] for column in UNITS[unit]]
    return rows.groupby([base_name(rows["metric"]), *keys], sort=False)["mean"].mean()


def _notes(tables: Mapping[str, pd.DataFrame], unit: str) -> List[str]:
    notes = []
    first, *others = tables
    zero_filled = {label: _unit_means(table, "zero_filled", "scan") for label, table in tables.items()}
    for other in others:
        both = pd.DataFrame({"first": zero_filled[first], "other": zero_filled[other]}).dropna()
        if not np.allclose(both["first"], both["other"], rtol=_SAME):
            notes.append(
                f"the zero-filled images of {first} and {other} differ: they did not reconstruct the same data (SEED,"
                " AUG_TRAIN.UNDERSAMPLE), so a difference is not that of the methods alone"
            )
    units = {
        label: set(_unit_means(table, "reconstruction", unit).index.droplevel("metric"))
        for label, table in tables.items()
    }
    common = set.intersection(*units.values())
    for label, found in units.items():
        if found - common:
            notes.append(
                f"{len(found - common)} of the {len(found)} {unit}s of {label} are not in every run, and left out"
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
