"""What goes into ``report.html`` (:mod:`meddlr_greedy.viewer.page`): slices and values of metrics. Needs no model."""

import math
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Mapping, Optional, Tuple

import numpy as np
import pandas as pd

from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.evaluation.figures import TARGET, drawn_or_told, magnitude, score_text, white_level
from meddlr_greedy.evaluation.heart import heart_region
from meddlr_greedy.evaluation.tables import DETAILS, SPREAD, column_of, counted
from meddlr_greedy.viewer.page import REPORT_FILE, Metric, Page, Row, Shown

__all__ = ["add_row", "add_slice", "all_of", "legend", "printed", "report_or_note"]


def all_of(number: int, unit: str) -> str:
    """The name of a row over all subjects (scans, slices)."""
    return f"(all {number} {unit}s)" if number > 1 else f"(1 {unit})"


def legend(unit: str) -> str:
    """What stands below the table of metrics; ``unit`` is what counts as one observation, "subject"."""
    return (
        f"Cells: mean over the frames (2D: images) of a {unit}; per scan: over its scans; x-t profile and temporal std:"
        f" over its slices. First rows: {SPREAD.format(f'all {unit}s')}, each of which counts once. A click on the"
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
                page.notes.append(
                    f"In {label} of {name}, NaN and infinity are shown black ({counted(int(bad.sum()), 'pixel')})."
                )
        reference = images[TARGET] if target is not None else list(images.values())[-1]
        line = heart_region(reference).line
        page.add(
            Shown(
                *place,
                images=images,
                white=white_level(reference),
                target=None if target is None else TARGET,
                scores={
                    label: {name: score_text(name, value) for name, value in values.items()}
                    for label, values in (metrics or {}).items()
                },
                line=(line.axis, line.position),
                **geometry._asdict(),
            )
        )


def printed(page: Page, path: Path) -> str:
    """What a command prints of its report; empty where there is none."""
    if not path.exists():
        return ""
    left_out = f"\nnote: {counted(page.left_out, 'slice')} had no room in the report."
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
