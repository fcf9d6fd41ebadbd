"""The results of an evaluation in a folder; :mod:`meddlr_greedy.evaluation.comparison` reads them. Needs no model.

The folder holds ``results.json``, and per data set ``<name>_slices.csv`` (every metric of every slice),
``<name>_subjects.csv`` (of every subject), ``<name>_images.h5`` (the slices that were drawn) and pictures. The JSON
names these files. ``report.html`` shows all data sets.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import pandas as pd

from meddlr_greedy.evaluation.report_page import add_row, add_slice, all_of, legend
from meddlr_greedy.evaluation.slices import KeptSlice, draw_slice, write_slices
from meddlr_greedy.evaluation.tables import (
    ALL_SUBJECTS,
    LABELS,
    methods_by_scan,
    num_slices,
    printed_table,
    slice_scores,
    slice_table,
    subject_table,
    summary,
)
from meddlr_greedy.files import UniqueNames, as_text, written_atomically
from meddlr_greedy.viewer.page import Page

__all__ = ["DatasetReport", "RESULTS_FILE", "RESULTS_FOLDER", "write_results"]

RESULTS_FOLDER = "test_results"  #: In the folder of a run.
RESULTS_FILE = "results.json"

# What meddlr-greedy eval writes beside results.json; of an earlier evaluation it is removed.
_OWN_FILES = ("*-slice*.png", "*-slice*.gif", "*_slices.csv", "*_subjects.csv", "*_images.h5")


@dataclass
class DatasetReport:
    """What the evaluation of one data set gave.

    Attributes:
        name: Name of the data set.
        label: What the network is called in the printed table.
        is_cine: Whether the images are series.
        tables: "zero_filled" and "reconstruction" -> every value, see :mod:`meddlr_greedy.evaluation.tables`.
        slices: The slices to draw.
        subjects: Scan -> subject.
        compared: A sentence on what the printed table compares.
        sampled: A sentence on how k-space was sampled.
        notes: What a reader of the numbers has to know.
        figures: The pictures that :meth:`draw` wrote.
        files: The files that :meth:`write` wrote: "slices", "subjects" and "images".
        subject_values: The table of subjects that :meth:`write` wrote.
        num_slices: All slices, in the table of slices that :meth:`write` wrote.
        names: Gives names of files; reports in one folder share it.
    """

    name: str
    label: str
    is_cine: bool
    tables: Dict[str, pd.DataFrame]
    slices: List[KeptSlice] = field(default_factory=list)
    subjects: Dict[str, str] = field(default_factory=dict)
    compared: str = ""
    sampled: str = ""
    notes: List[str] = field(default_factory=list)
    figures: List[Path] = field(default_factory=list)
    files: Dict[str, Path] = field(default_factory=dict)
    subject_values: pd.DataFrame = field(default_factory=pd.DataFrame)
    num_slices: int = 0
    names: UniqueNames = field(default_factory=UniqueNames)

    def __post_init__(self):
        # Names of files may hold bytes that are no text, which neither CSV nor HDF5 takes.
        self.tables = {
            method: table.assign(**{column: table[column].map(as_text) for column in ("scan", "image")})
            for method, table in self.tables.items()
        }
        self.slices = [kept._replace(scan=as_text(kept.scan)) for kept in self.slices]
        self.subjects = {as_text(scan): as_text(subject) for scan, subject in self.subjects.items()}

    def write(self, folder: Path) -> None:
        """Writes the tables of slices and subjects, and the images of the slices to draw."""
        stem = self.names(self.name)
        self.subject_values = subject_table(self.tables, self.subjects)
        slices = slice_table(self.tables, self.subjects)
        self.num_slices = num_slices(slices)
        for kind, table in (("slices", slices), ("subjects", self.subject_values)):
            self.files[kind] = folder / f"{stem}_{kind}.csv"
            with written_atomically(self.files[kind]) as partial:
                table.to_csv(partial, index=False)
        if self.slices:
            self.files["images"] = folder / f"{stem}_images.h5"
            write_slices(self.files["images"], self.slices)

    @property
    def _labels(self) -> Dict[str, str]:
        """What a method is called, in pictures as in tables."""
        return {**LABELS, "reconstruction": self.label}

    def draw(self, folder: Path) -> None:
        """Draws the slices that were kept for it; a picture that cannot be drawn is told of."""
        for kept in self.slices:
            recons = {label: kept.images[method] for method, label in self._labels.items()}
            self.figures += draw_slice(recons, kept, self.name, self._scores(kept, self._labels), folder, self.names)

    def show(self, page: Page) -> None:
        """Adds the kept slices, the values of the subjects and the notes to a page; after :meth:`write`."""
        page.legend = legend("subject")
        page.about += [f"{self.name}: {self.sampled}"] if self.sampled else []
        if len(self.slices) < self.num_slices:
            page.selection.append(
                f"{len(self.slices)} of {self.num_slices} slices of {self.name} are shown (--num-figures); the table"
                " has all."
            )
        labels = self._labels
        for kept in self.slices:
            recons = {label: kept.images[method] for method, label in labels.items()}
            place = (self.name, kept.scan, kept.slice_id)
            add_slice(page, place, recons, kept.images["target"], kept.geometry, self._scores(kept, labels))
        over_all = all_of(self.subject_values["subject"].nunique() - 1, "subject")
        for subject, values in self.subject_values.groupby("subject", sort=False):
            for method, rows in values.groupby("method", sort=False):
                row = rows.set_index("metric")
                name, spreads = (over_all, row["std"]) if subject == ALL_SUBJECTS else (subject, None)
                add_row(page, self.name, name, labels[method], row["mean"], spreads)
        page.notes += [f"{self.name}: {note}" for note in [self.compared, *self.notes] if note]

    def _scores(self, kept: KeptSlice, labels: Mapping[str, str]) -> Dict[str, Dict[str, float]]:
        """Label of a method -> scores of a slice."""
        return {labels[method]: slice_scores(table, kept.scan, kept.slice_id) for method, table in self.tables.items()}

    def as_dict(self, folder: Path) -> Dict[str, Any]:
        """The report as it stands in ``results.json``, files relative to ``folder``."""
        return {
            "is_cine": self.is_cine,
            "sampled": self.sampled,
            **{method: summary(table) for method, table in self.tables.items()},
            "scans": methods_by_scan(self.tables),
            "notes": self.notes,
            "files": {name: path.relative_to(folder).as_posix() for name, path in self.files.items()},
            "figures": [figure.relative_to(folder).as_posix() for figure in self.figures],
        }

    def as_text(self) -> str:
        """The printed table, with what it compares, how k-space was sampled, and the notes."""
        table = printed_table(self.tables, self.name, self.label, self.is_cine)
        return "\n\n".join(
            [
                *filter(None, [" ".join(filter(None, [self.compared, self.sampled]))]),
                table,
                *(f"note: {text}" for text in self.notes),
            ]
        )


def write_results(path: Path, info: Mapping[str, Any], reports: Sequence[DatasetReport]) -> None:
    """Writes ``results.json``, and removes what an earlier evaluation left beside it.

    Args:
        path: The file.
        info: What was evaluated.
        reports: Of each data set; their metrics and files are written.
    """
    results = {**info, "datasets": {report.name: report.as_dict(path.parent) for report in reports}}
    with written_atomically(path) as partial:
        partial.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    current = {file for report in reports for file in (*report.figures, *report.files.values())}
    for stale in {file for pattern in _OWN_FILES for file in path.parent.glob(pattern)} - current:
        stale.unlink()
