"""The beating-heart phantom as a source of scans: a subject is a name."""

import argparse
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

from meddlr_greedy.limits import MOST_SLICES, check_whole, in_digits
from meddlr_greedy.readers.acquisition import Acquisition, add_acquisition_options, check_simulated
from meddlr_greedy.readers.raw_scan import RawScan
from meddlr_greedy.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["PhantomReader", "subject_names"]

_MOST_SUBJECTS = 100_000


def subject_names(count: int) -> List[str]:
    """The names of the first subjects: "subject000", "subject001", ..."""
    return [f"subject{number:03d}" for number in range(count)]


@READER_REGISTRY.register()
class PhantomReader(Reader):
    """Beating-heart phantoms, see :mod:`meddlr_greedy.readers.simulation.beating_heart`."""

    command = "phantom"
    help = "a beating heart, drawn and simulated; needs no files"
    description = (
        "A beating heart in short axis, drawn anew for each subject, with simulated phase, coils and noise.\n\n"
        "    meddlr-greedy prepare phantom --output datasets/phantom\n"
        "    meddlr-greedy prepare phantom --output datasets/many --subjects 40 --slices 8 --jobs 4"
    )
    reads_files = False
    simulates = True

    def add_inputs(self, parser: argparse.ArgumentParser) -> None:
        """Adds ``--subjects``, a number that becomes the names of the subjects."""
        parser.add_argument(
            "--subjects",
            dest="inputs",
            type=_parse_count,
            default="9",
            metavar="N",
            help="subjects, each with a heart of its own (default: %(default)s)",
        )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the numbers of slices and frames, and the options of the acquisition."""
        parser.add_argument(
            "--slices",
            type=int,
            default=3,
            metavar="S",
            help="slices of each subject, evenly spaced from base to apex (default: %(default)s)",
        )
        parser.add_argument("--frames", type=int, default=12, metavar="T", help="cardiac phases (default: %(default)s)")
        add_acquisition_options(parser, default_matrix="{} {}".format(*Acquisition.matrix))

    def check_options(self, slices: int = 3, frames: int = 12, **acquisition: Any) -> None:
        """Refuses numbers below 1, and what :class:`Acquisition` refuses."""
        for option, value in (("--slices", slices), ("--frames", frames)):
            check_whole(option, value, 1, MOST_SLICES)
        settings = _acquisition(**acquisition)
        check_simulated(
            f"--frames {frames}", settings, (2 * settings.matrix[0], 2 * settings.matrix[1]), frames, slices
        )

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The names as paths."""
        return [Path(name) for name in inputs]

    def open_scan(self, path: Path, slices: int = 3, frames: int = 12, **acquisition: Any) -> RawScan:
        """A subject, drawn when its first slice is loaded.

        Args:
            path: The name of the subject, which seeds it.
            slices: Number of slices S.
            frames: Number of cardiac phases T.
            **acquisition: For :class:`Acquisition`.
        """
        from meddlr_greedy.readers.simulation.phantom import phantom_scan

        return phantom_scan(path, slices, frames, _acquisition(**acquisition))


def _acquisition(matrix: Optional[Tuple[int, int]] = None, **settings: Any) -> Acquisition:
    return Acquisition(**settings) if matrix is None else Acquisition((matrix[0], matrix[1]), **settings)


def _parse_count(text: str) -> List[str]:
    try:
        count = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found '{text}', allowed a whole number, at least 1") from error
    if not 1 <= count <= _MOST_SUBJECTS:
        raise argparse.ArgumentTypeError(f"found {in_digits(count)}, allowed at least 1, at most {_MOST_SUBJECTS}")
    return subject_names(count)
