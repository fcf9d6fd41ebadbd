"""Evaluations of several runs side by side: a table with paired tests, and pictures. Reads files, needs no model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon
from tabulate import tabulate

from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.evaluated_run import ZERO_FILLED, Run
from meddlr_greedy.evaluation.report_page import add_row, add_slice, all_of, legend
from meddlr_greedy.evaluation.slices import KeptSlice, draw_slice, read_slices
from meddlr_greedy.evaluation.tables import (
    DETAILS,
    HEADLINES,
    SCORES,
    SPREAD,
    base_name,
    mean_and_spread,
    num_slices,
    undefined_values,
)
from meddlr_greedy.evaluation.units import UNITS
from meddlr_greedy.files import UniqueNames, reading, written_atomically
from meddlr_greedy.viewer.page import Page

__all__ = [
    "MIN_PAIRS",
    "STATISTICS_FILE",
    "TABLE_FILE",
    "Comparison",
    "compare_runs",
    "paired_test",
    "write_comparisons",
]

STATISTICS_FILE = "comparison.csv"  #: Every metric of every method.
TABLE_FILE = "comparison.md"  #: The printed table.

#: With fewer pairs no two-sided Wilcoxon test can give a p-value below 0.05.
MIN_PAIRS = 6

_SAME = 1e-3  # relative: zero-filled scores of two runs on the same data differ by rounding only


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
        return PairedTest(np.nan, f"{different} pairs differ, too few (at least {MIN_PAIRS})")
    return PairedTest(float(wilcoxon(differences).pvalue))


@dataclass
class Comparison:
    """Runs on one data set.

    Attributes:
        dataset: Its name.
        unit: What counts as one observation, a key of :data:`~meddlr_greedy.evaluation.units.UNITS`.
        is_cine: Whether the images are series.
        runs: The runs; the others are tested against the first.
        values: Means of the units, one row per metric and unit, one column per method.
        statistics: One row per metric and method; columns "metric", "method", "n", "mean", "std", and of the runs but
            the first "difference" (mean difference to the first), "p_value" and "note".
        notes: What a reader of the numbers has to know.
    """

    dataset: str
    unit: str
    is_cine: bool
    runs: List[Run]
    values: pd.DataFrame
    statistics: pd.DataFrame
    notes: List[str]

    def as_text(self, table_format: str = "simple") -> str:
        """The table: rows metrics; columns zero-filled and the runs as mean (standard deviation), and the tests.

        Args:
            table_format: A name of a format of ``tabulate``.
        """
        first, *others = (run.label for run in self.runs)
        has_p = self._printed()[np.isfinite(self._printed()["p_value"])]
        tested = [other for other in others if other in set(has_p["method"])]
        headers = [self.dataset, "n", ZERO_FILLED, first, *others]
        headers += [f"{other} - {first}" for other in others] + [f"p ({other})" for other in tested]
        rows = []
        for label, metric in _printed_metrics(self.is_cine):
            methods = self.statistics[self.statistics["metric"] == metric].set_index("method")
            if methods.empty or not methods["n"].iloc[0]:
                continue
            digits = 2 if label.startswith("PSNR") else 4
            cells = [mean_and_spread(label, m["mean"], m["std"]) for _, m in methods.iterrows()]
            cells += [f"{methods.loc[other, 'difference']:+.{digits}f}" for other in others]
            p_values = methods.loc[tested, "p_value"]
            cells += [f"{p_value:.2g}" if np.isfinite(p_value) else "" for p_value in p_values]
            rows.append([label, methods["n"].iloc[0], *cells])
        table = tabulate(rows, headers=headers, tablefmt=table_format, disable_numparse=True)
        over = f"Cells: {SPREAD.format(f'the n {self.unit}s that all runs share')}.{self._test()}"
        return "\n\n".join([table, over, *(f"note: {text}" for text in self._notes())])

    def _printed(self) -> pd.DataFrame:
        """The statistics of the metrics that are printed."""
        return self.statistics[self.statistics["metric"].isin([name for _, name in _printed_metrics(self.is_cine)])]

    def _test(self) -> str:
        """What p is, where there is any."""
        if not np.isfinite(self._printed()["p_value"]).any():
            return ""
        return f" p: two-sided Wilcoxon signed-rank test against {self.runs[0].label}."

    def _notes(self) -> List[str]:
        """The notes; before them, once for all metrics, why some have no p."""
        reasons = [reason for reason in self._printed()["note"].unique() if reason]
        return [*(f"There is no p-value (paired test) where {reason}." for reason in reasons), *self.notes]

    def draw(self, folder: Path, names: UniqueNames, page: Page) -> List[Path]:
        """Draws every slice that all runs kept: target, zero-filled image (of the first run) and the runs.

        Args:
            folder: Where to draw.
            names: Gives names of files; comparisons in one folder share it.
            page: The report, to which the slices are added; comparisons in one folder share it.

        Returns:
            List[Path]: The pictures.
        """
        kept = [_kept_slices(run, self.dataset) for run in self.runs]
        tables = {run.label: run.slice_table(self.dataset) for run in self.runs}
        pictures: List[Path] = []
        shared = {key: kept[0][key] for key in kept[0] if all(key in slices_by_key for slices_by_key in kept)}
        page.selection += self._selected(len(shared), tables[self.runs[0].label])
        for key, first in shared.items():
            slices = [slices_by_key[key] for slices_by_key in kept]
            recons = {ZERO_FILLED: first.images["zero_filled"]}
            recons.update({run.label: s.images["reconstruction"] for run, s in zip(self.runs, slices)})
            scores = _slice_scores(tables, *key)
            pictures += draw_slice(recons, first, self.dataset, scores, folder, names)
            add_slice(page, (self.dataset, *key), recons, first.images["target"], first.geometry, scores)
        return pictures

    def _selected(self, num_shown: int, table: pd.DataFrame) -> List[str]:
        """A sentence on how many slices are shown, where not all are; ``table`` is that of the slices of a run."""
        total = num_slices(table)
        if num_shown == total:
            return []
        return [f"{num_shown} of {total} slices of {self.dataset} are shown, which all runs kept; the table has all."]

    def show_values(self, page: Page) -> None:
        """Adds the values of all methods, how k-space was sampled, and the notes to a report."""
        sampled = {run.label: run.sampled(self.dataset) for run in self.runs}
        if len(set(sampled.values())) == 1:
            page.about += [f"{self.dataset}: {text}" for text in set(sampled.values()) if text]
        else:
            page.about += [f"{self.dataset}, {label}: {text}" for label, text in sampled.items() if text]
        page.unit = self.unit
        if not page.legend or self._test():  # comparisons share the page
            page.legend = legend(self.unit) + self._test()
        levels = self.values.index.names[1:]
        over_all = all_of(len(self.values.index.droplevel("metric").unique()), self.unit)
        for method, rows in self.statistics.groupby("method", sort=False):
            row = rows.set_index("metric")
            tests = row["p_value"].map(lambda p: f"p = {p:.2g}" if np.isfinite(p) else "")
            add_row(page, self.dataset, over_all, method, row["mean"], row["std"], tests)
        for unit, values in self.values.groupby(level=levels if len(levels) > 1 else levels[0], sort=False):
            name = ", slice ".join(unit) if isinstance(unit, tuple) else unit
            for method, means in values.droplevel(levels).items():
                add_row(page, self.dataset, name, method, means)
        page.notes += [f"{self.dataset}: {note}" for note in self._notes()]


def _slice_scores(tables: Mapping[str, pd.DataFrame], scan: str, slice_id: int) -> Dict[str, Dict[str, float]]:
    """Method -> scores of one slice; ``tables`` are those of the runs, by label."""
    first = next(iter(tables.values()))
    scores = {}
    for label, method, table in (
        (ZERO_FILLED, "zero_filled", first),
        *((label, "reconstruction", table) for label, table in tables.items()),
    ):
        rows = table[(table["scan"] == scan) & (table["slice"] == str(slice_id)) & (table["method"] == method)]
        means = rows.groupby(base_name(rows["metric"]))["mean"].mean()
        scores[label] = {name: float(means.get(HEADLINES[name], np.nan)) for name in SCORES}
    return scores


def compare_runs(runs: Sequence[Run], dataset: str, unit: str = "subject") -> Comparison:
    """Compares runs on what they share of a data set.

    Args:
        runs: Evaluated runs that all have the data set.
        dataset: Its name.
        unit: "subject", "scan" or "slice". Slices of a scan and scans of a subject are alike: to treat them as
            independent makes a p-value too small.

    Raises:
        UserError: The runs share nothing, or are of different kinds of data, or a file cannot be read.
    """
    tables = {run.label: run.slice_table(dataset) for run in runs}
    with reading(f"{dataset}: tables of {', '.join(tables)}", "what meddlr-greedy eval wrote; evaluate the runs again"):
        return _compared(runs, tables, dataset, unit)


def _compared(runs: Sequence[Run], tables: Mapping[str, pd.DataFrame], dataset: str, unit: str) -> Comparison:
    if len({run.datasets[dataset]["is_cine"] for run in runs}) > 1:
        raise UserError(f"{dataset}: cine in one run and 2D in another, allowed runs on the same data")
    first = runs[0].label
    values = {ZERO_FILLED: _unit_means(tables[first], "zero_filled", unit)}
    values.update({label: _unit_means(table, "reconstruction", unit) for label, table in tables.items()})
    shared = pd.DataFrame(values).dropna()
    if shared.empty:
        raise UserError(f"{dataset}: the runs {', '.join(tables)} have no {unit} and metric in common")

    rows = []
    for metric, paired in shared.groupby(level="metric", sort=False):
        for method in paired:
            row = {"metric": metric, "method": method, "n": len(paired)}
            row.update(mean=paired[method].mean(), std=paired[method].std(), note="")
            if method not in (ZERO_FILLED, first):
                test = paired_test(paired[method].to_numpy(), paired[first].to_numpy())
                row.update(difference=(paired[method] - paired[first]).mean(), **test._asdict())
            rows.append(row)
    columns = ["metric", "method", "n", "mean", "std", "difference", "p_value", "note"]
    return Comparison(
        dataset=dataset,
        unit=unit,
        is_cine=runs[0].datasets[dataset]["is_cine"],
        runs=list(runs),
        values=shared,
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
                f"The zero-filled images of {first} and {other} differ: they did not reconstruct the same data (SEED,"
                " AUG_TRAIN.UNDERSAMPLE), so a difference is not that of the methods alone."
            )
    units = {
        label: set(_unit_means(table, "reconstruction", unit).index.droplevel("metric"))
        for label, table in tables.items()
    }
    common = set.intersection(*units.values())
    for label, found in units.items():
        if found - common:
            notes.append(
                f"{len(found - common)} of the {len(found)} {unit}s of {label} are not in every run, and left out."
            )
    notes += _undefined(tables, unit)
    return notes


def _undefined(tables: Mapping[str, pd.DataFrame], unit: str) -> List[str]:
    """Notes about metrics that are not defined for some of the units."""
    notes = []
    for label, table in tables.items():
        means = _unit_means(table, "reconstruction", unit)
        values = pd.DataFrame({"metric": means.index.get_level_values("metric"), "value": means.to_numpy()})
        text = undefined_values(values, label, what=f"{unit}s")
        notes += [text] if text else []
    return notes


def _printed_metrics(is_cine: bool) -> List[Tuple[str, str]]:
    """(row of the table, metric)."""
    if not is_cine:
        return list(HEADLINES.items())
    return [(f"{label}, {group}", metric) for group, metrics in DETAILS.items() for label, metric in metrics.items()]


def _kept_slices(run: Run, dataset: str) -> Dict[Tuple[str, int], KeptSlice]:
    path = run.file(dataset, "images")
    return {} if path is None else {(kept.scan, kept.slice_id): kept for kept in read_slices(path)}
