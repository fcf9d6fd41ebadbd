"""``report.html``: images, methods side by side, and a table of metrics, in one file that opens from disk.

The page holds its data, style and script, and its policy lets a browser load nothing and run no other script. What
comes from files of others (names, notes) is data: it is escaped here, and shown as text there.

The script is our own, plain JavaScript on canvases, for no library does this in less: NiiVue shows one volume by
WebGL 2, which remote desktops often lack, and Plotly (4 MB in every file) draws charts, not movies.
"""

import base64
import hashlib
import json
import math
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from meddlr_greedy.files import printable, written_atomically
from meddlr_greedy.viewer.frames import packed

__all__ = ["LARGEST", "REPORT_FILE", "Metric", "Page", "Row", "Shown"]

REPORT_FILE = "report.html"  #: In the folder of the results.
LARGEST = 48_000_000  #: Bytes of the images of a page before they are packed; in the file it is about half of that.

_HEADROOM = 1.5  # the brightest that is kept, relative to the white of the window that is shown at first


class Shown(NamedTuple):
    """A slice to show.

    Attributes:
        dataset: Name of the data set; may be empty.
        scan: Name of the scan.
        slice_id: Number of the slice.
        images: Name -> magnitudes (H, W, T), all of one shape, T is 1 for a single image.
        white: The magnitude that is white in the window that is shown at first.
        target: Which of the images the errors are taken to; ``None`` shows none.
        scores: Name of an image -> what is written below it, name -> value.
        line: Axis (0: a row, 1: a column) and position of the x-t profile that is shown at first.
        pixel_spacing_mm: Pixel size (readout, phase encode) in mm.
        frame_time_ms: Time between frames in ms.
    """

    dataset: str
    scan: str
    slice_id: int
    images: Mapping[str, np.ndarray]
    white: float
    target: Optional[str] = None
    scores: Mapping[str, Mapping[str, str]] = {}
    line: Tuple[int, int] = (1, 0)
    pixel_spacing_mm: Optional[Tuple[float, float]] = None
    frame_time_ms: Optional[float] = None


class Metric(NamedTuple):
    """A column of the table: what is compared, the metric, and its digits behind the point."""

    group: str
    label: str
    digits: int


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        dataset: Name of the data set.
        unit: The subject (scan, slice), or a name for all of them.
        method: Name of the method.
        means: Metric -> value; what is not finite is left empty.
        spreads: Metric -> what is written behind the value.
        is_summary: Whether it is of all subjects: such rows stay on top.
    """

    dataset: str
    unit: str
    method: str
    means: Mapping[Metric, float]
    spreads: Mapping[Metric, str] = {}
    is_summary: bool = False


@dataclass
class Page:
    """The content of a report.

    Attributes:
        title: What the page is called.
        about: Lines below it: network, weights, sampling, runs.
        selection: Sentences on which slices are shown as images, where not all are.
        unit: What a row of the table is of: "subject".
        legend: A line below the table.
        rows: Of the table.
        notes: What a reader has to know, in whole sentences.
        left_out: Slices that are not in the page, for which there was no room.
    """

    title: str
    about: List[str] = field(default_factory=list)
    selection: List[str] = field(default_factory=list)
    unit: str = "subject"
    legend: str = ""
    rows: List[Row] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    left_out: int = 0
    _slices: List[Dict[str, Any]] = field(default_factory=list)
    _blocks: List[str] = field(default_factory=list)
    _num_bytes: int = 0

    def has_room_for(self, num_bytes: int) -> bool:
        """Whether images of that many pixels in all can be added; without a bound no browser would open the page."""
        return self._num_bytes + num_bytes <= LARGEST

    def add(self, shown: Shown) -> None:
        """Adds a slice; its images are packed at once.

        Raises:
            ValueError: Shapes differ, or a magnitude is not finite.
        """
        shapes = {name: image.shape for name, image in shown.images.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(f"the images must have one shape, found {shapes}")
        height, width, num_frames = next(iter(shapes.values()))
        top = _HEADROOM * shown.white
        images = []
        for name, series in shown.images.items():
            if not np.isfinite(series).all():
                raise ValueError(f"{name}: NaN or infinity in the image")
            scores = [[key, value] for key, value in shown.scores.get(name, {}).items()]
            images.append({"name": printable(name), "scores": scores, "block": len(self._blocks)})
            self._blocks.append(packed(series, top))
            self._num_bytes += series.size
        self._slices.append(
            {
                "dataset": printable(shown.dataset),
                "scan": printable(shown.scan),
                "slice": shown.slice_id,
                "shape": [height, width, num_frames],
                "images": images,
                "white": shown.white,
                "top": top,
                "target": None if shown.target is None else list(shown.images).index(shown.target),
                "line": {"axis": shown.line[0], "line": shown.line[1]},
                "pixel": shown.pixel_spacing_mm,
                "frame_ms": shown.frame_time_ms,
            }
        )

    def write(self, path: Path) -> None:
        """Writes the page, whole or not at all."""
        style, table, viewer = (_part(name) for name in ("page.css", "table.js", "viewer.js"))
        script = f"{viewer}\n{table}"
        parts = {
            "policy": (
                "default-src 'none'; base-uri 'none'; form-action 'none';"
                f" style-src '{_hash_of(style)}'; script-src '{_hash_of(script)}'"
            ),
            "style": style,
            "script": script,
            "data": _as_json(self._content()),
        }
        before, after = (Template(text).substitute(parts) for text in _part("page.html").split("$blocks"))
        with written_atomically(path) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.write(before)
            for number, block in enumerate(self._blocks):
                file.write(f'<script type="text/plain" id="block-{number}">{block}</script>\n')
            file.write(after)

    def _about_images(self) -> List[str]:
        if not self._slices:
            return []
        return [
            f"Images are magnitudes in 8 bits; what is brighter than {_HEADROOM} times the white of a slice is cut off."
            " Errors are differences of these magnitudes. Scores were computed from the images themselves."
        ]

    def _selected(self) -> List[str]:
        if not self.left_out:
            return self.selection
        number = len(self._slices)
        room = f"{number} of {number + self.left_out} slices have room in this page ({LARGEST // 10**6} MB of images)."
        return [*self.selection, room]

    def _content(self) -> Dict[str, Any]:
        found = dict.fromkeys(metric for row in self.rows for metric in row.means)
        groups = list(dict.fromkeys(metric.group for metric in found))
        columns = sorted(found, key=lambda metric: groups.index(metric.group))
        return {
            "title": printable(self.title),
            "about": [printable(line) for line in self.about],
            "selection": printable(" ".join(self._selected())),
            "notes": [printable(note) for note in [*self.notes, *self._about_images()]],
            "slices": self._slices,
            "metrics": {
                "unit": self.unit,
                "legend": self.legend,
                "columns": [metric._asdict() for metric in columns],
                "rows": [_row(row, columns) for row in self.rows],
            },
        }


def _row(row: Row, columns: List[Metric]) -> Dict[str, Any]:
    means = [row.means.get(metric, math.nan) for metric in columns]
    return {
        "dataset": printable(row.dataset),
        "unit": printable(row.unit),
        "method": printable(row.method),
        "means": [float(f"{mean:.7g}") if math.isfinite(mean) else None for mean in means],
        "spreads": [row.spreads.get(metric, "") for metric in columns] if row.spreads else [],
        "is_summary": row.is_summary,
    }


def _as_json(content: Any) -> str:
    """JSON in ASCII that ends no element of a page, whatever the texts in it."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _part(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _hash_of(text: str) -> str:
    """How a policy names a script or style inside of the page that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
