"""What goes into ``report.html`` (:mod:`meddlr_greedy.viewer.page`): slices and values of metrics. Needs no model."""

import math
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Mapping, Optional, Tuple

import numpy as np
import pandas as pd

from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.evaluation.figures import TARGET, drawn_or_told, magnitude, score_text, white_level
from meddlr_greedy.evaluation.heart import heart_region
from meddlr_greedy.evaluation.tables import DETAILS, SCORE_KINDS, column_of
from meddlr_greedy.viewer.page import REPORT_FILE, Metric, Page, Row, Shown

__all__ = ["LEGEND", "add_row", "add_slice", "printed", "report_or_note"]

#: Below the table of metrics.
LEGEND = (
    "Mean over the frames (images, in 2D) or, of a scan, its value; of all: mean (standard deviation). A click on the"
    " head of a column sorts."
)


@contextmanager
def report_or_note(path: Path) -> Iterator[None]:
    """Inside the block a report is made; where that fails, one line tells so, and no earlier one is left."""
    with drawn_or_told(path, "report") as made:
        yield
    if not made:
        path.unlink(missing_ok=True)


def add_slice(
    page: Page,
    place: Tuple[str, str, int],
    recons: Mapping[str, np.ndarray],
    target: Optional[np.ndarray],
    geometry: Geometry,
    metrics: Optional[Mapping[str, Mapping[str, float]]] = None,
) -> None:
    """Adds a slice to a page; where there is no room for it, the page tells so, and where it fails, one line.

    Args:
        page: The page.
        place: Data set, scan and number of the slice.
        recons: Name of a reconstruction -> (H, W, M) or (H, W, T, M), complex.
        target: As one of ``recons``; without it no errors are shown.
        geometry: Of pixels and frames.
        metrics: Name of a reconstruction -> metric -> value, written below the images.
    """
    arrays = {**({} if target is None else {TARGET: target}), **recons}
    name = f"{place[1]}, slice {place[2]}"
    with drawn_or_told(Path(REPORT_FILE), f"images of {name}"):
        images = {label: magnitude(array) for label, array in arrays.items()}
        if not page.has_room_for(sum(image.size for image in images.values())):
            page.left_out += 1
            return
        for label, image in images.items():
            bad = ~np.isfinite(image)
            if bad.any():
                image[bad] = 0
                page.notes.append(f"{name}, {label}: {bad.sum()} pixels are NaN or infinity, and shown black")
        reference = images[TARGET] if target is not None else list(images.values())[-1]
        line = heart_region(reference).line
        page.add(
            Shown(
                *place,
                images=images,
                white=white_level(reference),
                target=None if target is None else TARGET,
                scores={label: _scores(values) for label, values in (metrics or {}).items()},
                line=(line.axis, line.position),
                **geometry._asdict(),
            )
        )


def _scores(values: Mapping[str, float]) -> Dict[str, str]:
    return {f"{name}, {SCORE_KINDS[name]}": score_text(name, value) for name, value in values.items()}


def printed(page: Page, path: Path) -> str:
    """What a command prints of its report; empty where there is none."""
    if not path.exists():
        return ""
    left_out = f"\nnote: {page.left_out} slices are not in the report, for which there was no room"
    return f"report: {path}{left_out if page.left_out else ''}"


def add_row(
    page: Page,
    dataset: str,
    unit: str,
    method: str,
    means: pd.Series,
    spreads: Optional[pd.Series] = None,
    notes: Optional[pd.Series] = None,
) -> None:
    """Adds a row to the table of a page.

    Args:
        page: The page.
        dataset: Name of the data set.
        unit: The subject, or a name for all of them.
        method: Name of the method.
        means: Values by the names of their metrics.
        spreads: Of a row over all subjects: standard deviations, as ``means``.
        notes: Texts behind the values, as ``means``.
    """
    names = sorted(means.index, key=_place)
    columns = {name: Metric(*column_of(name), digits=2 if name.startswith("psnr") else 4) for name in names}
    behind = {}
    for name, metric in columns.items():
        texts = []
        if spreads is not None and math.isfinite(spreads[name]):
            texts.append(f"({spreads[name]:.{metric.digits}f})")
        if notes is not None and notes[name]:
            texts.append(notes[name])
        behind[metric] = " ".join(texts)
    values = {metric: float(means[name]) for name, metric in columns.items()}
    page.rows.append(Row(dataset, unit, method, values, behind if any(behind.values()) else {}, spreads is not None))


def _place(metric: str) -> Tuple[bool, int]:
    """Where a metric stands: in the order of the printed tables, others and those of scans behind."""
    kind, label = column_of(metric)
    known = [(known, name) for known, names in DETAILS.items() for name in names]
    name = (kind.removesuffix(", per scan"), label.split(",")[0])
    return "per scan" in kind, known.index(name) if name in known else len(known)
