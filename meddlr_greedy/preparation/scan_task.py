"""One file of a data set: which slices of which scan it holds, whether it is there, and how it is written."""

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import h5py
import numpy as np
import torch

from meddlr_greedy.data.scan_file import check_values, write_scan
from meddlr_greedy.errors import UserError, first_line
from meddlr_greedy.headers.study import ATTRIBUTE, study_text
from meddlr_greedy.preparation.missing_lines import ranges
from meddlr_greedy.preparation.settings import Preparation
from meddlr_greedy.preparation.slice import slice_arrays
from meddlr_greedy.preparation.sources import Source

__all__ = ["ScanTask", "write_file"]


@dataclass(frozen=True)
class ScanTask:
    """One file to write.

    Args:
        source: Opens the scan.
        path: The scan.
        preparation: What is done with its k-space.
        output: The file to write.
        subject_id: Whom it shows.
        split: "train", "val" or "test".
        slices: Indices of its slices in the scan.
        parameters: Everything else that its content is a function of.
    """

    source: Source
    path: Path
    preparation: Preparation
    output: Path
    subject_id: str
    split: str
    slices: Tuple[int, ...]
    parameters: Dict[str, Any]

    @property
    def attributes(self) -> Dict[str, Any]:
        """The attributes that tell this file from one made of other data or with other options."""
        return {
            "subject_id": self.subject_id,
            "slices": list(self.slices),
            "parameters": json.dumps(self.parameters, sort_keys=True),
        }

    def is_done(self, overwrite: bool) -> bool:
        """Whether the file is there.

        Args:
            overwrite: Whether another file in its place may be replaced.

        Raises:
            UserError: Another file is in its place, which may not be replaced.
        """
        if not self.output.exists():
            return False
        try:
            with h5py.File(self.output, "r") as file:
                found = {name: np.asarray(file.attrs[name]).tolist() for name in self.attributes}
        except (OSError, KeyError):
            found = {}
        if found == self.attributes:
            return True
        if not overwrite:
            raise UserError(
                f"{self.output}: found, made of another file or with other options; allowed a new --output, or "
                "--overwrite"
            )
        return False


def write_file(task: ScanTask, on_slice: Callable[[], Any] = lambda: None) -> List[str]:
    """Writes one file, whole or not at all.

    Args:
        task: The file.
        on_slice: Called after each slice.

    Returns:
        What the user should know about the scan.

    Raises:
        UserError: The scan cannot be used, or the file cannot be written (``WriteError``).
    """
    scan = task.source.open_scan(task.path)
    by_slice: Dict[str, List[int]] = {}

    def slices() -> Iterator[Dict[str, np.ndarray]]:
        for slice_id in task.slices:
            with _telling_of_overflow(task.path):
                arrays, found = slice_arrays(scan, slice_id, task.preparation)
                arrays = arrays if scan.is_cine else {name: array[:, :, 0] for name, array in arrays.items()}
                check_values(f"{task.path}: prepared", slice_id, arrays)
            for note in found:
                by_slice.setdefault(note.replace(f"{scan.path}: slice {slice_id}: ", "", 1), []).append(slice_id)
            yield arrays
            on_slice()

    given = task.preparation
    attributes = {
        **task.attributes,
        "pixel_spacing_mm": scan.pixel_spacing_mm or given.pixel_spacing_mm,
        "slice_spacing_mm": scan.slice_spacing_mm if _are_neighbors(task.slices) else None,
        "frame_time_ms": (scan.frame_time_ms or given.frame_time_ms) if scan.is_cine else None,
        **(scan.placement.of_slices(task.slices).as_attributes() if scan.placement else {}),
        ATTRIBUTE: study_text(scan.dicom),
    }
    write_scan(task.output, len(task.slices), slices(), attributes)
    return [*scan.notes, *_told_once(scan.path, by_slice)]


def _are_neighbors(slices: Sequence[int]) -> bool:
    """Whether no slice is left out, so that the spacing of the scan is that of these."""
    return all(after == before + 1 for before, after in zip(slices[:-1], slices[1:]))


def _told_once(path: Path, by_slice: Dict[str, List[int]]) -> Iterator[str]:
    """What there is to tell of slices, once for all of which it is true."""
    for note, (first, *others) in by_slice.items():
        also = f" (and of {'slice' if len(others) == 1 else 'slices'} {ranges(others)})" if others else ""
        yield f"{path}: slice {first}: {note}{also}"


@contextmanager
def _telling_of_overflow(path: Path) -> Iterator[None]:
    """Refuses k-space of which no coil maps can be made: numbers far from 1 overflow where they are squared."""
    try:
        yield
    except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:
        raise UserError(
            f"{path}: no coil maps can be made of it ({first_line(error)}); allowed k-space whose values are not far"
            " from 1"
        ) from error
