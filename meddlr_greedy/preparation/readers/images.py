"""Cine images to simulate from: DICOM series, NIfTI, npy and npz."""

import argparse
import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.acquisition import Acquisition
from meddlr_greedy.preparation.raw_scan import SAME_PLACE_MM, RawScan, slice_spacing, stem
from meddlr_greedy.preparation.readers.reader import Reader
from meddlr_greedy.preparation.simulate import CineSeries, add_acquisition_options, simulated_scan
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["ImagesReader", "load_images", "load_series"]

_ARRAYS = (".npy", ".npz")
_NIFTI = (".nii", ".nii.gz")
_LARGEST_MAGNITUDE = 1e15  # sums of its squares over an image and its coils still fit into complex64
_SECONDS = {"sec": 1e3, "msec": 1, "usec": 1e-3}  # in milliseconds
_SAME_DIRECTION = 1e-3
# Of how many numbers these are; where a file lost its identity, they may be there and empty.
_NUMBERS = {
    "PixelSpacing": 2,
    "ImageOrientationPatient": 6,
    "ImagePositionPatient": 3,
    "TriggerTime": 1,
    "RescaleSlope": 1,
    "RescaleIntercept": 1,
}


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

    def check_options(self, matrix: Optional[Sequence[int]] = None, **options: Any) -> None:
        """Refuses what :class:`Acquisition` refuses."""
        settings = {name: value for name, value in options.items() if name != "acquired_matrix"}
        _acquisition(matrix or Acquisition.matrix, settings)

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The series among files and folders: npy, npz and NIfTI files, and folders that hold DICOM files."""
        found: Dict[Path, None] = {}
        for given in map(Path, inputs):
            if given.is_file():
                series = [given]
            elif given.is_dir():
                folders = [Path(folder) for folder, _, _ in os.walk(given)]
                series = [folder for folder in folders if _dicom_files(folder)]
                series += [p for p in given.rglob("*") if p.name.lower().endswith(_ARRAYS + _NIFTI) and p.is_file()]
            else:
                raise UserError(f"{given}: no such file or folder")
            if not series:
                raise UserError(f"{given}: found no DICOM, NIfTI, npy or npz file in this folder")
            found.update(dict.fromkeys(sorted(series)))
        return list(found)

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
        series = _load_dicom(path)
    elif path.name.lower().endswith(_NIFTI):
        series = _load_nifti(path)
    elif path.suffix.lower() in _ARRAYS:
        series = load_series(path)
    else:
        raise UserError(f"{path}: found a '{path.suffix}' file, allowed .npy, .npz, .nii, .nii.gz or a DICOM folder")
    if series.magnitude.shape[1] < 2:
        raise UserError(f"{path}: no cardiac phases: found 1, allowed 2 or more")
    return series


# --- npy and npz ---


def load_series(path: os.PathLike) -> CineSeries:
    """Reads the cine images of one subject from arrays.

    Args:
        path: ``.npy`` with the magnitude (slice, phase, row, column), or ``.npz`` with it as ``magnitude`` and
            optionally ``pixel_spacing_mm`` (2,) and ``trigger_time_ms`` (..., phase).
            Rows are the readout, columns the phase encodes.

    Raises:
        UserError: where the file is missing, unreadable, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix not in _ARRAYS:
        raise UserError(f"{path}: found a '{path.suffix}' file, allowed .npy or .npz")
    try:
        loaded = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        is_npy = isinstance(loaded, np.ndarray)
        arrays = {"magnitude": loaded} if is_npy else {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a readable {path.suffix} file of plain arrays ({error})") from error
    if "magnitude" not in arrays:
        raise UserError(f"{path}: no array 'magnitude'; found {', '.join(arrays) or 'none'}")

    magnitude = arrays["magnitude"]
    _check_magnitude(path, magnitude)
    num_frames = magnitude.shape[1]
    spacing = _optional(path, arrays, "pixel_spacing_mm", (2,))
    if spacing is not None and spacing.min() <= 0:
        raise UserError(f"{path}: pixel_spacing_mm: found {spacing.min():g}, allowed above 0")
    trigger = _optional(path, arrays, "trigger_time_ms", (..., num_frames))
    if trigger is not None and (np.diff(trigger) <= 0).any():
        raise UserError(f"{path}: trigger_time_ms: found times that do not increase from phase to phase")
    return CineSeries(
        magnitude=magnitude,
        pixel_spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        frame_time_ms=None if trigger is None or num_frames < 2 else float(np.diff(trigger).mean()),
        path=path,
        subject_id=stem(path),
    )


def _check_magnitude(path: Path, magnitude: np.ndarray) -> None:
    found = f"{magnitude.dtype} of shape {magnitude.shape}"
    if magnitude.ndim != 4 or 0 in magnitude.shape:
        raise UserError(f"{path}: magnitude: found {found}, allowed (slice, phase, row, column)")
    if magnitude.dtype.kind not in "uif":
        raise UserError(f"{path}: magnitude: found {found}, allowed real numbers")
    if not np.isfinite(magnitude).all():
        raise UserError(f"{path}: magnitude: found NaN or infinite values, allowed finite ones")
    if magnitude.min() < 0 or magnitude.max() > _LARGEST_MAGNITUDE:
        raise UserError(
            f"{path}: magnitude: found {magnitude.min():g} to {magnitude.max():g}, allowed 0 to {_LARGEST_MAGNITUDE:g}"
        )
    empty = np.flatnonzero(~magnitude.any(axis=(1, 2, 3)))
    if empty.size:
        raise UserError(f"{path}: magnitude: slice {empty[0]} is zero everywhere")


def _optional(path: Path, arrays: Dict[str, np.ndarray], key: str, shape: Tuple) -> Optional[np.ndarray]:
    if key not in arrays:
        return None
    array = arrays[key]
    fits = array.shape[-1:] == shape[1:] if shape[0] is ... else array.shape == shape
    if not fits or not array.size or array.dtype.kind not in "uif" or not np.isfinite(array).all():
        allowed = str(shape).replace("Ellipsis", "...")
        raise UserError(
            f"{path}: {key}: found {array.dtype} of shape {array.shape}, allowed finite numbers of shape {allowed}"
        )
    return array if array.dtype.kind == "f" else array.astype(float)  # differences of unsigned integers wrap around


# --- NIfTI ---


def _load_nifti(path: Path) -> CineSeries:
    import nibabel

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        image: Any = nibabel.load(path)
        data = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise UserError(f"{path}: truncated, damaged or not a NIfTI file ({error})") from error
    if data.ndim != 4:
        no_phases = "no cardiac phases: " if data.ndim == 3 else ""
        raise UserError(f"{path}: {no_phases}found {data.ndim} axes {data.shape}, allowed (x, y, slice, phase)")
    *spacing, between_slices, step = image.header.get_zooms()
    frame_time = float(step) * _SECONDS.get(image.header.get_xyzt_units()[1], 0)
    magnitude, spacing = data.transpose(2, 3, 0, 1), (float(spacing[0]), float(spacing[1]))
    # dim_info: which axes are readout and phase encode.
    if image.header.get_dim_info()[:2] in ((1, 0), (1, None), (None, 0)):
        magnitude, spacing = magnitude.swapaxes(2, 3), spacing[::-1]
    magnitude = np.ascontiguousarray(magnitude)
    _check_magnitude(path, magnitude)
    return CineSeries(
        magnitude=magnitude,
        pixel_spacing_mm=spacing if min(spacing) > 0 else None,
        slice_spacing_mm=float(between_slices) if between_slices > 0 else None,
        frame_time_ms=frame_time if frame_time > 0 else None,
        path=path,
        subject_id=stem(path),
    )


# --- DICOM ---


def _dicom_files(folder: Path) -> List[Path]:
    from pydicom.misc import is_dicom

    return [path for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]


def _load_dicom(folder: Path) -> CineSeries:
    """One view: images at one or more places, each at equally many times of the cardiac cycle."""
    files = _dicom_files(folder)
    if not files:
        raise UserError(f"{folder}: found no DICOM file in this folder")
    images = [_read_dicom(path) for path in files]
    first = images[0]
    for attribute, what in (
        ("PatientID", "patients"),
        ("Rows", "numbers of rows"),
        ("Columns", "numbers of columns"),
        ("PixelSpacing", "pixel spacings"),
        ("InPlanePhaseEncodingDirection", "phase-encoding directions"),
    ):
        values = {str(image.get(attribute)) for image in images}
        if len(values) > 1:
            raise UserError(f"{folder}: found {len(values)} {what}, allowed one in a folder")
    if len({"TriggerTime" in image for image in images}) > 1:
        raise UserError(f"{folder}: found images with and without TriggerTime, allowed all of one kind")
    orientations = [np.array(image.ImageOrientationPatient, float) for image in images]
    if any(np.abs(other - orientations[0]).max() > _SAME_DIRECTION for other in orientations):
        raise UserError(f"{folder}: found images of several orientations, allowed one view in a folder")

    normal = np.cross(orientations[0][:3], orientations[0][3:])
    places = np.array([normal @ np.array(image.ImagePositionPatient, float) for image in images])
    order = np.argsort(places, kind="stable")
    cuts = np.flatnonzero(np.diff(places[order]) > SAME_PLACE_MM) + 1
    groups = np.split(order, cuts)
    slices = [sorted((images[i] for i in group), key=_time) for group in groups]
    counts = sorted({len(phases) for phases in slices})
    if len(counts) > 1:
        raise UserError(f"{folder}: slices have {counts[0]} to {counts[-1]} cardiac phases, allowed equally many")
    for phases in slices:
        times = [_time(image) for image in phases]
        if len(set(times)) < len(times):
            raise UserError(f"{folder}: found two images at one place and time, allowed one series in a folder")

    magnitude = np.stack([[_pixels(folder, image) for image in phases] for phases in slices])
    spacing = tuple(float(value) for value in first.PixelSpacing)
    if first.get("InPlanePhaseEncodingDirection") == "COL":  # phase encoding goes down the columns
        magnitude, spacing = magnitude.swapaxes(2, 3), spacing[::-1]
    magnitude = np.ascontiguousarray(magnitude)
    _check_magnitude(folder, magnitude)
    frame_time = None
    if "TriggerTime" in first and len(slices[0]) > 1:
        frame_time = float(np.mean([np.diff([float(image.TriggerTime) for image in phases]) for phases in slices]))
    subject = str(first.get("PatientID") or "").strip()
    return CineSeries(
        magnitude=magnitude,
        pixel_spacing_mm=(spacing[0], spacing[1]),
        slice_spacing_mm=slice_spacing(np.array([places[group].mean() for group in groups])),
        frame_time_ms=frame_time,
        path=folder,
        subject_id=subject or folder.resolve().name,
        names_subject=bool(subject),
    )


def _read_dicom(path: Path) -> Any:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        image = pydicom.dcmread(path)
    except (OSError, EOFError, ValueError, InvalidDicomError) as error:
        raise UserError(f"{path}: truncated, damaged or not a DICOM file ({error})") from error
    if int(image.get("NumberOfFrames") or 1) > 1:
        raise UserError(f"{path}: found a multi-frame DICOM file, allowed one image in each file")
    needed = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "PixelData")
    absent = [attribute for attribute in needed if attribute not in image]
    if absent:
        raise UserError(f"{path}: no {', '.join(absent)} in it, allowed a DICOM file of an MR image")
    if image.get("SamplesPerPixel", 1) != 1:
        raise UserError(f"{path}: found a color image, allowed a magnitude image")
    for attribute in (name for name in _NUMBERS if name in image):
        _check_numbers(path, image, attribute)
    return image


def _check_numbers(path: Path, image: Any, attribute: str) -> None:
    try:
        values = np.array(image.get(attribute), float).reshape(-1)  # nothing becomes NaN
    except (TypeError, ValueError):
        values = np.array([])
    count = _NUMBERS[attribute]
    if len(values) != count or not np.isfinite(values).all():
        found = len(values[np.isfinite(values)]) or "none"
        raise UserError(f"{path}: {attribute}: found {found}, allowed finite numbers, {count} of them")


def _time(image: Any) -> Tuple[float, int]:
    """Sorts the phases: by trigger time, where there is one, else by number."""
    if "TriggerTime" in image:
        return float(image.TriggerTime), 0
    return 0.0, int(image.get("InstanceNumber") or 0)


def _pixels(folder: Path, image: Any) -> np.ndarray:
    """(row, column), float32."""
    try:
        pixels = image.pixel_array
    except Exception as error:  # decoders of compressed pixels raise errors of many kinds
        raise UserError(f"{folder}: pixels of {Path(image.filename).name} cannot be read ({error})") from error
    slope, intercept = (
        float(image.get(key, default)) for key, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    return (pixels * slope + intercept).astype(np.float32)
