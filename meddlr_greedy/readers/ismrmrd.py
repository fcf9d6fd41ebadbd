"""ISMRMRD files."""

import argparse
from pathlib import Path
from typing import Any, List, Optional, Sequence

from meddlr_greedy.errors import check
from meddlr_greedy.limits import LARGEST_LENGTH, MOST_SLICES, check_whole, is_length
from meddlr_greedy.readers.raw_scan import RawScan, find_files
from meddlr_greedy.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["IsmrmrdReader"]

_TICK_MS = 2.5  # Siemens counts time in steps of this
_TOLERANCE = 0.2  # how far a beat may be from the median one, as a fraction of it


@READER_REGISTRY.register()
class IsmrmrdReader(Reader):
    """ISMRMRD files."""

    command = "ismrmrd"
    help = "ISMRMRD files, as of OCMR"
    description = (
        "ISMRMRD files (.h5, .mrd) of Cartesian 2D cine, for example OCMR (https://ocmr.info; mind its terms), or of\n"
        "static 2D images, in a data set of their own. Files named us_... are taken to be undersampled on purpose.\n"
        "Coil maps come from lines for calibration alone where those of the image leave gaps in the center.\n\n"
        "    meddlr-greedy prepare ismrmrd OCMR/fs_*.h5 --output datasets/ocmr --split 0.7 0.1 0.2\n\n"
        "Real-time series with time stamps of a trigger can be put together to one heartbeat:\n\n"
        "    meddlr-greedy prepare ismrmrd realtime --phases 25 --missing fill --output datasets/binned"
    )
    added = ("phases", "tick", "rr_tolerance")

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds how cardiac phases are made of the time since the trigger."""
        parser.add_argument(
            "--phases",
            type=int,
            metavar="N",
            help="cardiac phases by physiology_time_stamp[0], the time since the trigger (default: as counted in the "
            "file)",
        )
        parser.add_argument(
            "--tick", type=float, metavar="MS", help=f"unit of time stamps (default: {_TICK_MS}, as of Siemens)"
        )
        parser.add_argument(
            "--rr-tolerance",
            type=float,
            metavar="X",
            help="heartbeats farther from the median one than this fraction of it are left out (default: "
            f"{_TOLERANCE})",
        )

    def check_options(
        self,
        phases: Optional[int] = None,
        tick: Optional[float] = None,
        rr_tolerance: Optional[float] = None,
        **_: Any,
    ) -> None:
        """Refuses numbers that make no sense, and options without the one that they belong to."""
        for option, value in (("--tick", tick), ("--rr-tolerance", rr_tolerance)):
            check(value is None or phases is not None, option, value, "only with --phases")
        if phases is not None:
            check_whole("--phases", phases, 2, MOST_SLICES)
        check(tick is None or is_length(tick), "--tick", tick, f"above 0, up to {LARGEST_LENGTH:g}")
        check(rr_tolerance is None or 0 < rr_tolerance < 1, "--rr-tolerance", rr_tolerance, "above 0, below 1")

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The files given, and all ``.h5`` and ``.mrd`` in the folders given."""
        return find_files(inputs, (".h5", ".mrd"))

    def open_scan(
        self,
        path: Path,
        undersampled: bool = False,
        phases: Optional[int] = None,
        tick: Optional[float] = None,
        rr_tolerance: Optional[float] = None,
    ) -> RawScan:
        """Opens an ISMRMRD file, see :func:`meddlr_greedy.readers.formats.ismrmrd.open_scan`."""
        from meddlr_greedy.readers.formats.ismrmrd import open_scan

        return open_scan(path, undersampled, phases, tick or _TICK_MS, rr_tolerance or _TOLERANCE)
