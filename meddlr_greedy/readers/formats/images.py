"""Cine images to simulate from: DICOM series, NIfTI, npy, npz and MAT."""

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from meddlr_greedy.errors import UserError, check
from meddlr_greedy.ops.acquisition import Acquisition
from meddlr_greedy.readers.formats.image_arrays import ARRAYS, load_series
from meddlr_greedy.readers.formats.image_dicom import load_dicom
from meddlr_greedy.readers.formats.image_dicom_files import is_dicom, named
from meddlr_greedy.readers.formats.image_dicom_folders import content_of, place_of, scan_at, scan_paths
from meddlr_greedy.readers.formats.image_mat import MAT, holds_images, load_mat
from meddlr_greedy.readers.formats.image_nifti import NIFTI, data_of, load_nifti
from meddlr_greedy.readers.raw_scan import RawScan, stem
from meddlr_greedy.readers.reader import Reader
from meddlr_greedy.readers.simulation.simulated_scan import CineSeries, add_acquisition_options, simulated_scan
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["ImagesReader", "load_images", "load_series"]


@READER_REGISTRY.register()
class ImagesReader(Reader):
    """Magnitude images, to which phase, coils and noise are simulated.

    pydicom and nibabel are imported where a file of theirs is read.
    """

    command = "images"
    help = "DICOM series, NIfTI, npy, npz or MAT, to simulate k-space from"
    description = (
        "Simulates k-space, coils, phase and noise from magnitude images of one subject each:\n\n"
        "    folders of DICOM files   each cine series of magnitude: one view, any number of slices\n"
        "    enhanced DICOM files     the same, many images in one file\n"
        "    NIfTI files              (x, y, slice, phase); versions 1 and 2, .nii, .nii.gz, or .hdr beside .img\n"
        "    npy files                (slice, phase, row, column)\n"
        "    npz files                the same, called 'magnitude'\n"
        "    MAT files                version 5 to 7.3, (row, column, slice, phase) in MATLAB, of a single slice\n"
        "                             (row, column, phase); called magnitude, img, image, images, cine or data,\n"
        "                             unless there is no other array of 3 or 4 axes, or --variable tells\n\n"
        "A folder that holds several scans is taken apart, and a note tells their names: FOLDER/NAME is one of them.\n"
        "Phase images and localizers are left out. Of a slice acquired twice, the later one is taken.\n"
        "Rows are the readout, columns the phase encodes, unless a DICOM or NIfTI file says otherwise. Of complex\n"
        "images in MAT files the magnitude is taken. npz and MAT files may also hold\n\n"
        "    pixel_spacing_mm         from row to row and from column to column\n"
        "    trigger_time_ms          of each phase; or frame_time_ms, from phase to phase\n"
        "    position_mm              (slice, 3), the center of pixel (row H // 2, column W // 2), counted from 0;\n"
        "                             x to the patient's left, y to the back, z to the head, as in DICOM\n"
        "    readout_direction        (3,), unit vector from row to row, and phase_direction, from column to column\n\n"
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
        parser.add_argument(
            "--variable", metavar="NAME", help="of MAT and npz files: the array of the images (default: see above)"
        )
        add_acquisition_options(parser, default_matrix="all that was acquired")

    def check_options(
        self,
        matrix: Optional[Sequence[int]] = None,
        acquired_matrix: Optional[Sequence[int]] = None,
        variable: Optional[str] = None,  # noqa: ARG002 (any name may be one)
        **options: Any,
    ) -> None:
        """Refuses what :class:`Acquisition` refuses."""
        _acquisition(matrix or Acquisition.matrix, options)
        for size in acquired_matrix or ():
            check(size >= 8, "--acquired-matrix", size, "at least 8 along both axes")

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The series among files and folders: npy, npz, NIfTI and MAT files, and scans in DICOM files."""
        found: Dict[Path, None] = {}
        for given in map(Path, inputs):
            if given.is_dir():
                series = _series_in(given)
            elif given.is_file() and not is_dicom(given):
                series = [_header_of(given)]
            else:
                series = scan_paths(given)
            if not series:
                kinds = "found no DICOM, NIfTI, npy, npz or MAT file in this folder"
                raise UserError(f"{given}: {kinds if given.exists() else 'no such file or folder'}")
            found.update(dict.fromkeys(series))
        return list(found)

    def left_out(self, inputs: Sequence[str], found: Sequence[Path]) -> List[str]:
        """What of the DICOM files in folders is in no scan, and MAT files without images."""
        notes, series, places = [], set(found), {place_of(path)[0] for path in found}
        for folder in [Path(folder) for given in inputs for folder, _, _ in os.walk(given)]:
            with suppress(UserError):  # opening tells of it
                content = content_of(folder)
                if content.scans:
                    notes += content.notes(folder)
                elif folder not in places and content.refused:
                    notes.append(content.refused)
                elif folder not in places and content.no_images:
                    notes.append(f"{folder}: left out, its DICOM files are no images: {named(content.no_images)}")
            without = [path for path in sorted(folder.glob("*")) if _is_mat(path) and path not in series]
            if without:
                notes.append(f"{folder}: left out, no images in {named(without)}")
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
        variable: Optional[str] = None,
        **settings: Any,
    ) -> RawScan:
        """Reads a series, and simulates its slices where they are loaded.

        Args:
            path: As for :func:`load_images`.
            variable: As for :func:`load_images`.
            matrix: Points (H, W); by default all that was acquired.
            acquired_matrix: As for :func:`meddlr_greedy.readers.simulation.simulated_scan.simulated_scan`.
            **settings: For :class:`Acquisition`.
        """
        series = load_images(path, variable)
        matrix = matrix or acquired_matrix or series.magnitude.shape[-2:]
        return simulated_scan(series, _acquisition(matrix, settings), acquired_matrix)


def _series_in(folder: Path) -> List[Path]:
    """All series in a folder and those below; without any, the folders whose DICOM images are no series."""
    folders = [Path(found) for found, _, _ in os.walk(folder)]
    series = [path for found in folders for path in scan_paths(found)]
    series += [path for path in folder.rglob("*") if path.is_file() and _is_series(path)]
    return sorted(series) or [found for found in folders if content_of(found).refused]


def _acquisition(matrix: Sequence[int], settings: Dict[str, Any]) -> Acquisition:
    return Acquisition((matrix[0], matrix[1]), **settings)


def _is_mat(path: Path) -> bool:
    return path.name.lower().endswith(MAT) and path.is_file()


def _is_series(path: Path) -> bool:
    """Whether a file in a folder is a series; formats of other things end in .mat and .hdr, too."""
    name = path.name.lower()
    if name.endswith(".hdr"):
        return bool(data_of(path))
    return holds_images(path) if _is_mat(path) else name.endswith(ARRAYS + NIFTI)


def _header_of(path: Path) -> Path:
    """The header of a NIfTI file whose data are a file of their own; other files as they are."""
    endings = {".img": ".hdr", ".IMG": ".HDR"}
    header = path.with_suffix(endings.get(path.suffix, path.suffix))
    return header if header.is_file() else path


def load_images(path: Path, variable: Optional[str] = None) -> CineSeries:
    """Reads the cine images of one subject from any of the formats.

    Args:
        path: A NIfTI file (x, y, slice, phase), a file for :func:`load_series` or :func:`load_mat`, or a scan in DICOM
            files: a folder that holds one, one of its files, or its path as of :func:`scan_paths`. Rows are the
            readout, columns the phase encodes, unless a DICOM file or the ``dim_info`` of a NIfTI file says otherwise:
            the images are then transposed.
        variable: Name of the array in a npz or MAT file, where it is not the usual one.

    Raises:
        UserError: where it is missing, unreadable, or holds something else than a cine series.
    """
    if path.name.lower().endswith(NIFTI) and not path.is_dir():
        series = load_nifti(path)
    elif path.suffix.lower() in ARRAYS and not path.is_dir():
        series = load_series(path, variable)
    elif path.suffix.lower() == MAT and not path.is_dir():
        series = load_mat(path, variable)
    elif path.is_file() and not is_dicom(path):
        allowed = ".npy, .npz, .nii, .nii.gz, .hdr with .img, .mat or DICOM"
        raise UserError(f"{path}: found a '{path.suffix}' file, allowed {allowed}")
    else:
        series = load_dicom(path)
    if series.magnitude.shape[1] < 2:
        raise UserError(f"{path}: no cardiac phases: found 1, allowed 2 or more")
    return series
