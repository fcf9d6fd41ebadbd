"""Files of fastMRI."""

from pathlib import Path
from typing import List, Sequence

from meddlr_greedy.readers.raw_scan import RawScan, find_files
from meddlr_greedy.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["FastmriReader"]


@READER_REGISTRY.register()
class FastmriReader(Reader):
    """Files of fastMRI."""

    command = "fastmri"
    help = "files of fastMRI, knee and brain"
    description = (
        "HDF5 files of fastMRI (https://fastmri.med.nyu.edu; mind its terms): static 2D images for meddlr's 2D\n"
        "networks. The readout loses its oversampling, by the fields of view in the header; the phase encode is kept\n"
        "as it was sampled. Targets are coil combinations, not the root sum of squares that the files hold. Files\n"
        "with a mask are undersampled.\n\n"
        "    meddlr-greedy prepare fastmri knee/multicoil_train --output datasets/fastmri --split 0.8 0.1 0.1"
    )

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The files given, and all ``.h5`` in the folders given."""
        return find_files(inputs, (".h5",))

    def open_scan(self, path: Path, undersampled: bool = False) -> RawScan:
        """Opens a file of fastMRI, see :func:`meddlr_greedy.readers.formats.fastmri.open_scan`."""
        from meddlr_greedy.readers.formats.fastmri import open_scan

        return open_scan(path, undersampled)
