"""Evaluates a trained network on a data set: metrics of it and of the zero-filled images, tables, pictures.

What stays, in one folder: ``results.json``, and per data set ``<name>_slices.csv`` (every metric of every slice),
``<name>_subjects.csv`` (of every subject), ``<name>_images.h5`` (the slices that were drawn) and pictures. The JSON
names the other files, and :mod:`meddlr_greedy.evaluation.comparison` reads them.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import pandas as pd
from tabulate import tabulate

from meddlr_greedy.evaluation.slices import KeptSlice, write_slices
from meddlr_greedy.evaluation.tables import ALL_SUBJECTS, DETAILS, HEADLINES, LABELS, draw_slice
from meddlr_greedy.files import written_atomically

__all__ = ["DatasetReport"]


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
