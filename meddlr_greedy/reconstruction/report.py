"""The ``report.html`` of reconstructed scans: as many of their slices as a page has room for."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Set

import numpy as np

from meddlr_greedy.evaluation.description import sampling_in_words
from meddlr_greedy.evaluation.report_page import add_slice, printed, report_or_note
from meddlr_greedy.files import writing
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.reconstructor import Reconstruction
from meddlr_greedy.viewer.page import LARGEST, REPORT_FILE, Page

__all__ = ["ReconstructionReport", "Stack", "slices_with_room"]

_IMAGES = 3  # of a slice at most: target, zero-filled, reconstruction


class Stack(NamedTuple):
    """The slices of a scan: how many there are, and the bytes of each in a page."""

    num_slices: int
    slice_bytes: int


def slices_with_room(stacks: Sequence[Stack], room: int) -> List[Set[int]]:
    """Chooses slices of scans to look at: the middle one of each scan first, then those around it.

    Args:
        stacks: The scans.
        room: Bytes of all slices together.

    Returns:
        list: The numbers of the slices of each scan.
    """
    chosen: List[Set[int]] = [set() for _ in stacks]
    for step in range(max((stack.num_slices for stack in stacks), default=0) + 1):
        for stack, numbers in zip(stacks, chosen):
            # 0, 1, -1, 2, -2, ... from the middle
            number = stack.num_slices // 2 + (step + 1) // 2 * (1 if step % 2 else -1)
            if 0 <= number < stack.num_slices and stack.slice_bytes <= room:
                numbers.add(number)
                room -= stack.slice_bytes
    return chosen


class ReconstructionReport:
    """Takes the slices as they are reconstructed; they are packed at once, so that memory stays bounded.

    Args:
        scans: All scans of the command.
        folder: Where the report is written.
        about: A line on what they are reconstructed with.
    """

    def __init__(self, scans: Sequence[AcquiredScan], folder: Path, about: str):
        self.path = folder / REPORT_FILE
        self._about = about
        self._accelerations: Dict[str, List[float]] = {}  # by the path of a scan
        self._page = Page("Reconstruction")
        stacks = [Stack(len(scan), _IMAGES * int(np.prod(scan.shape[1:-1]))) for scan in scans]
        self._chosen = {scan.path: slices for scan, slices in zip(scans, slices_with_room(stacks, LARGEST))}

    def add(self, scan: AcquiredScan, slice_id: int, recon: Reconstruction) -> None:
        """Adds a slice, beside its target where the file holds one, if there is room for it."""
        self._accelerations.setdefault(scan.path, []).append(recon.acceleration)
        if slice_id not in self._chosen[scan.path]:
            self._page.left_out += 1
            return
        recons = {"zero-filled": recon.zero_filled, "reconstruction": recon.image}
        add_slice(self._page, ("", scan.name, slice_id), recons, scan.read_target(slice_id), scan.geometry)

    def write(self) -> None:
        """Writes the report of what has been added.

        Raises:
            WriteError: It cannot be written.
        """
        sampled = [f"K-space of {Path(path).stem}: {self.sampled(path)}." for path in self._accelerations]
        self._page.about = [self._about, *sampled]
        with writing(self.path, "--output"), report_or_note(self.path):
            self._page.write(self.path)

    def sampled(self, path: str) -> str:
        """How k-space of a scan is sampled, in words, as its slices that have been added tell."""
        return sampling_in_words(self._accelerations[path])

    def printed(self) -> str:
        """What the command prints of it."""
        return printed(self._page, self.path)
