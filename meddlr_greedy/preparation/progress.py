"""What the user is told while a data set is prepared."""

import sys
from pathlib import Path
from typing import Dict, Sequence, Set

from meddlr_greedy.console import Progress, say
from meddlr_greedy.errors import UserError

__all__ = ["ProgressReport"]


class ProgressReport:
    """Prints notes and errors above a bar, and counts the scans that could not be used.

    Args:
        progress: Whether bars and notes are shown; errors always are.
        num_scans: Number of scans.
    """

    def __init__(self, progress: bool, num_scans: int):
        self._progress, self._num_scans = progress, num_scans
        self._failures: Dict[Path, UserError] = {}
        self._printed: Set[str] = set()

    def follow(self, total: int, what: str, unit: str) -> Progress:
        """How far something is, which is hidden where progress is not shown."""
        return Progress(total, what, unit, shown=self._progress and total > 0)

    def note(self, notes: Sequence[str]) -> None:
        """Prints each note once: several files may be made of one scan."""
        for note in notes if self._progress else ():
            if note not in self._printed:
                say(f"note: {note}")
            self._printed.add(note)

    def failure(self, path: Path, error: UserError) -> None:
        """Prints once why a scan cannot be used; of a single scan, :meth:`finish` does."""
        if path in self._failures:
            return
        error = error if str(path) in str(error) else UserError(f"{path}: {error}")
        self._failures[path] = error
        if self._num_scans > 1:
            say(f"error: {error}", sys.stderr)

    def kept(self, output: Path, num_kept: int, num_files: int) -> None:
        """Prints how many files were there."""
        if self._progress and num_kept:
            print(f"{output}: {num_kept} of {num_files} files were there; kept")

    def finish(self) -> None:
        """Ends the report.

        Raises:
            UserError: A scan could not be used.
        """
        if self._failures and self._num_scans == 1:
            raise next(iter(self._failures.values()))
        if self._failures:
            raise UserError(f"{len(self._failures)} of {self._num_scans} files could not be used, see above")
