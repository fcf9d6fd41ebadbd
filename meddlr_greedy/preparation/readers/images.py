"""Cine images to simulate from: DICOM series, NIfTI, npy and npz."""

import argparse
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from meddlr_greedy.errors import UserError, check
from meddlr_greedy.ops.acquisition import Acquisition
from meddlr_greedy.preparation.raw_scan import RawScan
from meddlr_greedy.preparation.readers.image_arrays import ARRAYS, load_series
from meddlr_greedy.preparation.readers.image_dicom import dicom_files, is_image, load_dicom, named
from meddlr_greedy.preparation.readers.image_nifti import NIFTI, load_nifti
from meddlr_greedy.preparation.readers.reader import Reader
from meddlr_greedy.preparation.simulate import CineSeries, add_acquisition_options, simulated_scan
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["ImagesReader", "load_images", "load_series"]


@READER_REGISTRY.register()
class ImagesReader(Reader):
    """Magnitude images, to which phase, coils and noise are simulated.

    pydicom and nibabel are imported where a file of theirs is read.
    """

    command = "images"
    help = "DICOM series, NIfTI, npy or npz, to simulate k-space from"
    description = (
        "Simulates k-space, coils, phase and noise from magnitude images of one subject each:\n\n"
        "    folders of DICOM files   one view, any number of slices\n"
        "    NIfTI files              (x, y, slice, phase)\n"
        "    npy files                (slice, phase, row, column)\n"
        "    npz files                the same as 'magnitude', and optionally pixel_spacing_mm, trigger_time_ms\n\n"
        "Rows are the readout, columns the phase encodes, unless a DICOM or NIfTI file says otherwise.\n\n"
        "    meddlr-greedy prepare images dicom/patient* --output datasets/patients --matrix 128 128\n"
        "    meddlr-greedy prepare images pig_cine_sax.npz --output datasets/pig --matrix 128 128 \\\n"
        "        --acquired-matrix 224 160 --split 0-6,13-19 7-8 9-12"
    )
    simulates = True

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the matrix of the scanner, and the options of the acquisition."""
        parser.add_argument(
            "--acquired-matrix",
            nargs=2,
            type=int,
            metavar=("H", "W"),
            help="what the scanner acquired, where its images are interpolated (default: the matrix of the images)",
        )
        add_acquisition_options(parser, default_matrix="all that was acquired")

    def check_options(
        self, matrix: Optional[Sequence[int]] = None, acquired_matrix: Optional[Sequence[int]] = None, **options: Any
    ) -> None:
        """Refuses what :class:`Acquisition` refuses."""
        _acquisition(matrix or Acquisition.matrix, options)
        for size in acquired_matrix or ():
            check(size >= 8, "--acquired-matrix", size, "at least 8 along both axes")

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The series among files and folders: npy, npz and NIfTI files, and folders that hold DICOM files."""
        found: Dict[Path, None] = {}
        for given in map(Path, inputs):
            if given.is_file():
                series = [given]
            elif given.is_dir():
                folders = [Path(folder) for folder, _, _ in os.walk(given)]
                series = [folder for folder in folders if any(map(is_image, dicom_files(folder)))]
                series += [p for p in given.rglob("*") if p.name.lower().endswith(ARRAYS + NIFTI) and p.is_file()]
            else:
                raise UserError(f"{given}: no such file or folder")
            if not series:
                raise UserError(f"{given}: found no DICOM, NIfTI, npy or npz file in this folder")
            found.update(dict.fromkeys(sorted(series)))
        return list(found)

    def left_out(self, inputs: Sequence[str], found: Sequence[Path]) -> List[str]:
        """Folders whose DICOM files are no images, as the one of a DICOMDIR."""
        notes, series = [], set(found)
        for folder in [Path(folder) for given in inputs for folder, _, _ in os.walk(given)]:
            if folder not in series and (files := dicom_files(folder)):
                notes.append(f"{folder}: left out, its DICOM files are no images: {named(files)}")
        return notes

    def open_scan(
        self,
        path: Path,
        matrix: Optional[Sequence[int]] = None,
        acquired_matrix: Optional[Sequence[int]] = None,
        **settings: Any,
    ) -> RawScan:
        """Reads a series, and simulates its slices where they are loaded.

        Args:
            path: As for :func:`load_images`.
            matrix: Points (H, W); by default all that was acquired.
            acquired_matrix: As for :func:`meddlr_greedy.preparation.simulate.simulated_scan`.
            **settings: For :class:`Acquisition`.
        """
        series = load_images(path)
        matrix = matrix or acquired_matrix or series.magnitude.shape[-2:]
        return simulated_scan(series, _acquisition(matrix, settings), acquired_matrix)


def _acquisition(matrix: Sequence[int], settings: Dict[str, Any]) -> Acquisition:
    return Acquisition((matrix[0], matrix[1]), **settings)


def load_images(path: Path) -> CineSeries:
    """Reads the cine images of one subject from any of the formats.

    Args:
        path: A folder of DICOM files (one view, any number of slices), a NIfTI file (x, y, slice, phase), or a file
            for :func:`load_series`. Rows are the readout, columns the phase encodes, unless a DICOM file or the
            ``dim_info`` of a NIfTI file says otherwise: the images are then transposed.

    Raises:
        UserError: where it is missing, unreadable, or holds something else than a cine series.
    """
    if path.is_dir():
        series = load_dicom(path)
    elif path.name.lower().endswith(NIFTI):
        series = load_nifti(path)
    elif path.suffix.lower() in ARRAYS:
        series = load_series(path)
    else:
        raise UserError(f"{path}: found a '{path.suffix}' file, allowed .npy, .npz, .nii, .nii.gz or a DICOM folder")
    if series.magnitude.shape[1] < 2:
        raise UserError(f"{path}: no cardiac phases: found 1, allowed 2 or more")
    return series
