"""Cine images to simulate from: DICOM series, NIfTI, npy, npz and MAT."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.formats.image_arrays import ARRAYS, load_series
from meddlr_greedy.readers.formats.image_dicom import load_dicom
from meddlr_greedy.readers.formats.image_dicom_files import is_dicom, named
from meddlr_greedy.readers.formats.image_dicom_folders import content_of, place_of, scan_paths
from meddlr_greedy.readers.formats.image_mat import MAT, holds_images, load_mat
from meddlr_greedy.readers.formats.image_nifti import NIFTI, data_of, load_nifti
from meddlr_greedy.readers.formats.suited import suited_command_of
from meddlr_greedy.readers.simulation.simulated_scan import CineSeries

__all__ = ["find_series", "left_out", "load_images"]


def find_series(inputs: Sequence[str]) -> List[Path]:
    """The series among files and folders: npy, npz, NIfTI and MAT files, and scans in DICOM files.

    Raises:
        UserError: An input does not exist, or holds none.
    """
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
            hint = "".join(map(suited_command_of, sorted(given.glob("*.h5"))[:1]))
            raise UserError(f"{given}: {kinds + hint if given.exists() else 'no such file or folder'}")
        found.update(dict.fromkeys(series))
    return list(found)


def left_out(inputs: Sequence[str], found: Sequence[Path]) -> List[str]:
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


def _series_in(folder: Path) -> List[Path]:
    """All series in a folder and those below; without any, the folders whose DICOM images are no series."""
    folders = [Path(found) for found, _, _ in os.walk(folder)]
    series = [path for found in folders for path in scan_paths(found)]
    series += [path for path in folder.rglob("*") if path.is_file() and _is_series(path)]
    return sorted(series) or [found for found in folders if content_of(found).refused]


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
        raise UserError(f"{path}: found a '{path.suffix}' file, allowed {allowed}{suited_command_of(path)}")
    else:
        series = load_dicom(path)
    if series.magnitude.shape[1] < 2:
        raise UserError(f"{path}: no cardiac phases: found 1, allowed 2 or more")
    return series
