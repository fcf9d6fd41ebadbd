"""A reader, ``meddlr-greedy prepare --imports my_recon npz``."""

import zipfile

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.raw_scan import RawScan, RawSlice, find_files, stem
from meddlr_greedy.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY


@READER_REGISTRY.register()
class NpzReader(Reader):
    """Files with ``kspace`` (S, H, W, T, C): slices, readout, phase encode, cardiac phases, coils."""

    command = "npz"
    help = "k-space in npz files"
    description = (
        "npz files with kspace (slice, readout, phase encode, cardiac phase, coil), complex; lines that were not\n"
        "sampled are zero.\n\n"
        "    meddlr-greedy prepare --imports my_recon npz scans --output datasets/mine"
    )

    def add_options(self, parser):
        """An option of our own; its value comes to ``open_scan``."""
        parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="factor (default: %(default)s)")

    def find(self, inputs):
        """The files given, and those in the folders given."""
        return find_files(inputs, (".npz",))

    def open_scan(self, path, undersampled=False, scale=1.0):
        """Opens one file; coil compression, maps, target and splits are not the reader's task."""
        try:
            with np.load(path) as file:
                kspace = np.complex64(scale) * file["kspace"].astype(np.complex64)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: no npz file with kspace ({error})") from error
        if kspace.ndim != 5:
            raise UserError(f"{path}: kspace: found shape {kspace.shape}, allowed (S, H, W, T, C)")

        def load(slice_id):
            sampled = kspace[slice_id].any(axis=(0, 3))[None]  # (1, W, T)
            return RawSlice(kspace[slice_id], sampled)

        return RawScan(path, stem(path), len(kspace), load, names_subject=False, undersampled=undersampled)
