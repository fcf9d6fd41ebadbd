"""What a reader is: the place where scans of one's own format enter."""

import argparse
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, List, Sequence, Tuple

from meddlr_greedy.readers.raw_scan import RawScan, stem

__all__ = ["Reader"]


class Reader(ABC):
    r"""Scans of one format, as a sub-command of ``meddlr-greedy prepare``.

    A reader of your own is one file. Register the class, and name its package with ``--imports`` (or as an entry point
    of the group ``meddlr_greedy.plugins``)::

        import numpy as np

        from meddlr_greedy.readers.reader import Reader
        from meddlr_greedy.readers.raw_scan import RawScan, RawSlice, find_files, stem
        from meddlr_greedy.registry import READER_REGISTRY

        @READER_REGISTRY.register()
        class NumpyReader(Reader):
            command = "numpy"
            help = "k-space in npy files"
            description = "k-space (S, H, W, T, C) in npy files, fully sampled.\n\n    meddlr-greedy prepare ..."

            def add_options(self, parser):
                parser.add_argument("--scale", type=float, default=1.0, help="factor (default: %(default)s)")

            def find(self, inputs):
                return find_files(inputs, (".npy",))

            def open_scan(self, path, undersampled=False, scale=1.0):
                kspace = np.load(path, mmap_mode="r")

                def load(slice_id):
                    sampled = np.ones((1, *kspace.shape[2:4]), bool)
                    return RawSlice(np.complex64(scale * kspace[slice_id]), sampled)

                return RawScan(path, stem(path), len(kspace), load, names_subject=False)

    Coil compression, ESPIRiT maps, targets, splits, files and annotations are not the reader's task. A reader has no
    state: it is sent to other processes, and opens each scan there again.

    Static 2D images have one cardiac phase, T = 1, and ``is_cine=False`` in their ``RawScan``.
    """

    #: The sub-command.
    command: ClassVar[str]
    #: One line, for the list of sub-commands.
    help: ClassVar[str]
    #: The text of the sub-command's ``--help``: what is read, and a command line as an example.
    description: ClassVar[str]
    #: Whether scans are files. If not, their paths are names alone, and :meth:`add_inputs` says how they are chosen.
    reads_files: ClassVar[bool] = True
    #: Whether k-space is simulated. Then it is complete, and the options of measured k-space (compression, missing
    #: lines, ``undersampled``) are not offered.
    simulates: ClassVar[bool] = False
    #: Options that only say where something lies. A scan made with another value counts as the same.
    locations: ClassVar[Tuple[str, ...]] = ()
    #: Options that the reader got later. Where one is None it is not stored, so that a scan made before counts as the
    #: same.
    added: ClassVar[Tuple[str, ...]] = ()
    #: What ``--compression`` of measured k-space is by default.
    compression: ClassVar[str] = "geometric"

    def add_inputs(self, parser: argparse.ArgumentParser) -> None:
        """Adds the argument ``inputs``, a list of strings; by default files and folders."""
        parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, and folders that are searched for files")

    def add_options(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027 (most readers have none)
        """Adds the options of this reader; each is passed to :meth:`open_scan` by its name.

        Values are stored with the scans in JSON, to know a scan made with other options. So what ``type`` makes of them
        is a number, a text, a path, or a list of these; other values are refused. :attr:`locations` are not stored, and
        may be anything.
        """

    def check_options(self, **options: Any) -> None:  # noqa: B027
        """Refuses values that no scan allows, before a scan is opened.

        Args:
            **options: As for :meth:`open_scan`.

        Raises:
            UserError: A value is not allowed.
        """

    @abstractmethod
    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The scans among ``inputs``, in the order in which data sets list them.

        Raises:
            UserError: An input does not exist, or holds no scan.
        """

    @abstractmethod
    def open_scan(self, path: Path, *args: Any, **options: Any) -> RawScan:
        """Opens one scan, without reading its k-space where that can be avoided.

        Args:
            path: One of those that :meth:`find` returned.
            *args: None; here for type checkers, which then allow any options.
            **options: Those that :meth:`add_options` added. A reader that does not simulate also gets
                ``undersampled``, whether its scans were undersampled on purpose.

        Raises:
            UserError: The scan cannot be used. The others are still prepared.
        """

    def left_out(self, inputs: Sequence[str], found: Sequence[Path]) -> List[str]:  # noqa: ARG002
        """What a user should know of files that look like scans, and are none.

        Args:
            inputs: As for :meth:`find`.
            found: What it returned.
        """
        return []

    def files(self, path: Path) -> List[Path]:
        """The files whose content is that of a scan, sorted: the file, or all files in the folder."""
        return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]

    def named_after(self, path: Path) -> Tuple[Path, str]:
        """The file or folder after which a scan is named, and what follows its name where it holds several scans."""
        return path, ""

    def subject_by_path(self, path: Path) -> str:
        """The subject of a scan by its path alone: stands in for what a file that cannot be opened says."""
        return stem(path)
