"""HDF5 files of k-space in the layout of scan files, meddlr's or this package's own, that lack coil maps."""

from pathlib import Path
from typing import List, Sequence

from meddlr_greedy.readers.raw_scan import RawScan, find_files
from meddlr_greedy.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["KspaceFileReader"]


@READER_REGISTRY.register()
class KspaceFileReader(Reader):
    """HDF5 files of k-space without coil maps."""

    command = "maps"
    help = "HDF5 files with k-space and no coil maps, to which maps are added"
    description = (
        "HDF5 files with 'kspace' (S, H, W, T, C) of cine or (S, H, W, C) of 2D, complex64, centered, as meddlr and\n"
        "this package take them, but without 'maps'. The data set holds the same k-space, maps, and where k-space is\n"
        "fully sampled targets; the files themselves stay as they are. A 'mask' that is not full tells that a file\n"
        "is undersampled.\n\n"
        "    meddlr-greedy prepare maps knee/kspace --output datasets/knee --maps 2"
    )
    compression = "none"

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The files given, and all ``.h5`` and ``.hdf5`` in the folders given."""
        return find_files(inputs, (".h5", ".hdf5"))

    def open_scan(self, path: Path, undersampled: bool = False) -> RawScan:
        """Opens an HDF5 file, see :func:`meddlr_greedy.readers.formats.kspace_files.open_scan`."""
        from meddlr_greedy.readers.formats.kspace_files import open_scan

        return open_scan(path, undersampled)
