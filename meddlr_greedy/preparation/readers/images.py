"""Cine images to simulate from: DICOM series, NIfTI, npy and npz."""

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from meddlr_greedy.errors import UserError, check
from meddlr_greedy.ops.acquisition import Acquisition
from meddlr_greedy.preparation.raw_scan import RawScan, stem
from meddlr_greedy.preparation.readers.image_arrays import ARRAYS, load_series
from meddlr_greedy.preparation.readers.image_dicom import load_dicom
from meddlr_greedy.preparation.readers.image_dicom_files import is_dicom, named
from meddlr_greedy.preparation.readers.image_dicom_folders import content_of, place_of, scan_at, scan_paths
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
        "    folders of DICOM files   each cine series of magnitude: one view, any number of slices\n"
        "    enhanced DICOM files     the same, many images in one file\n"
        "    NIfTI files              (x, y, slice, phase)\n"
        "    npy files                (slice, phase, row, column)\n"
        "    npz files                the same as 'magnitude', and optionally pixel_spacing_mm, trigger_time_ms\n\n"
        "A folder that holds several scans is taken apart, and a note tells their names: FOLDER/NAME is one of them.\n"
        "Phase images and localizers are left out. Of a slice acquired twice, the later one is taken.\n"
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
        """The series among files and folders: npy, npz and NIfTI files, and scans in DICOM files."""
        found: Dict[Path, None] = {}
        for given in map(Path, inputs):
            if given.is_dir():
                series = _series_in(given)
            elif given.is_file() and not is_dicom(given):
                series = [given]
            else:
                series = scan_paths(given)
            if not series:
                kinds = "found no DICOM, NIfTI, npy or npz file in this folder"
                raise UserError(f"{given}: {kinds if given.exists() else 'no such file or folder'}")
            found.update(dict.fromkeys(series))
        return list(found)

    def left_out(self, inputs: Sequence[str], found: Sequence[Path]) -> List[str]:
        """What of the DICOM files in folders is in no scan."""
        notes, places = [], {place_of(path)[0] for path in found}
        for folder in [Path(folder) for given in inputs for folder, _, _ in os.walk(given)]:
            with suppress(UserError):  # opening tells of it
                content = content_of(folder)
                if content.scans:
                    notes += content.notes(folder)
                elif folder not in places and content.refused:
                    notes.append(content.refused)
                elif folder not in places and content.no_images:
                    notes.append(f"{folder}: left out, its DICOM files are no images: {named(content.no_images)}")
        return notes

    def files(self, path: Path) -> List[Path]:
        """All files of a folder that is a scan; of a scan in a folder of several, those of its images."""
        return scan_at(path).files if place_of(path)[1] else super().files(path)

    def named_after(self, path: Path) -> Tuple[Path, str]:
        """The folder, and the name of the scan in it where it holds several."""
        place, name = place_of(path)
        return place, f"_{name}" if name else ""

    def subject_by_path(self, path: Path) -> str:
        """The name of the file or folder."""
        return stem(place_of(path)[0])

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


def _series_in(folder: Path) -> List[Path]:
    """All series in a folder and those below; without any, the folders whose DICOM images are no series."""
    folders = [Path(found) for found, _, _ in os.walk(folder)]
    series = [path for found in folders for path in scan_paths(found)]
    series += [path for path in folder.rglob("*") if path.name.lower().endswith(ARRAYS + NIFTI) and path.is_file()]
    return sorted(series) or [found for found in folders if content_of(found).refused]


def _acquisition(matrix: Sequence[int], settings: Dict[str, Any]) -> Acquisition:
    return Acquisition((matrix[0], matrix[1]), **settings)


def load_images(path: Path) -> CineSeries:
    """Reads the cine images of one subject from any of the formats.

    Args:
        path: A NIfTI file (x, y, slice, phase), a file for :func:`load_series`, or a scan in DICOM files: a folder that
            holds one, one of its files, or its path as of :func:`scan_paths`. Rows are the readout, columns the phase
            encodes, unless a DICOM file or the ``dim_info`` of a NIfTI file says otherwise: the images are then
            transposed.

    Raises:
        UserError: where it is missing, unreadable, or holds something else than a cine series.
    """
    if path.name.lower().endswith(NIFTI) and not path.is_dir():
        series = load_nifti(path)
    elif path.suffix.lower() in ARRAYS and not path.is_dir():
        series = load_series(path)
    elif path.is_file() and not is_dicom(path):
        raise UserError(f"{path}: found a '{path.suffix}' file, allowed .npy, .npz, .nii, .nii.gz or DICOM")
    else:
        series = load_dicom(path)
    if series.magnitude.shape[1] < 2:
        raise UserError(f"{path}: no cardiac phases: found 1, allowed 2 or more")
    return series
