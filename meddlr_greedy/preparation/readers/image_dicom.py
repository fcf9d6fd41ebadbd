"""Cine images in folders of DICOM files."""

import warnings
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from meddlr_greedy.data.placement import Placement
from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.limits import LARGEST_LENGTH, check_declared, check_memory, is_length
from meddlr_greedy.preparation.raw_scan import SAME_PLACE_MM, plain_text, slice_spacing
from meddlr_greedy.preparation.readers.image_series import checked_magnitude
from meddlr_greedy.preparation.simulate import CineSeries

__all__ = ["dicom_files", "is_image", "load_dicom", "named"]

_SAME_DIRECTION = 1e-3
_SAME_SPACING = 1e-3  # relative; exported numbers are rounded
_NEEDED = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "PixelData")
# Of how many numbers these are; where a file lost its identity, they may be there and empty.
_NUMBERS = {
    "Rows": 1,
    "Columns": 1,
    "BitsAllocated": 1,
    "PixelSpacing": 2,
    "ImageOrientationPatient": 6,
    "ImagePositionPatient": 3,
    "TriggerTime": 1,
    "RescaleSlope": 1,
    "RescaleIntercept": 1,
}
_OPTIONAL_NUMBERS = ("NumberOfFrames", "InstanceNumber", "SamplesPerPixel")  # 1 where they are empty


def dicom_files(folder: Path) -> List[Path]:
    """The DICOM files in a folder, by what they begin with."""
    from pydicom.misc import is_dicom

    return [path for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]


def is_image(path: Path) -> bool:
    """Whether a DICOM file is to hold an image, and is no DICOMDIR, report, presentation state or the like.

    Its class tells or, where that is not known, whether it has rows. What cannot be read may be an image.
    """
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "Rows"])
        except Exception:  # noqa: BLE001 (parsers raise errors of many kinds; it is read again, and then told of)
            return True
        return _holds_image(read)


def _holds_image(read: Any) -> bool:
    from pydicom.uid import UID

    try:
        uid = UID(read.file_meta.get("MediaStorageSOPClassUID") or read.get("SOPClassUID") or "")
        return "Image Storage" in uid.name if uid.name != uid else not uid or "Rows" in read
    except Exception:  # noqa: BLE001 (values are parsed where they are asked for; those of an image are checked later)
        return True


def named(files: Sequence[Path]) -> str:
    """Names of files, for messages: the first few."""
    names = [plain_text(path.name) for path in files[:3]]
    return ", ".join(names) + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def load_dicom(folder: Path) -> CineSeries:
    """One view: images at one or more places, each at equally many times of the cardiac cycle.

    Raises:
        UserError: A file cannot be read, or they are something else.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that break DICOM's rules; those that are used are checked
        files = {path: _read(path) for path in dicom_files(folder)}
        others = [path for path, read in files.items() if not _holds_image(read)]
        notes = [f"{folder}: left out, no images: {named(others)}"] if others else []
        images = [_checked_image(path, read) for path, read in files.items() if path not in others]
        if not images:
            raise UserError(f"{folder}: found no DICOM file of an image in this folder")
        _check_equal(folder, images)
        slices, places = _sorted_slices(folder, images)
        num_bytes = 4 * len(images) * int(images[0].Rows) * int(images[0].Columns)
        check_memory(folder, num_bytes)
        pixels = np.stack([[_pixels(folder, image) for image in phases] for phases in slices])
    first = images[0]
    spacing = tuple(float(value) for value in first.PixelSpacing)
    # The first direction is that along a row, from column to column; rows follow each other along the second.
    directions = np.array(first.ImageOrientationPatient, float).reshape(2, 3)[::-1]
    if str(first.get("InPlanePhaseEncodingDirection")).strip().upper() == "COL":  # it goes down the columns
        pixels, spacing, directions = pixels.swapaxes(2, 3), spacing[::-1], directions[::-1]
    corners = np.array([[image.ImagePositionPatient for image in phases] for phases in slices], float).mean(axis=1)
    magnitude, told = checked_magnitude(folder, np.ascontiguousarray(pixels))
    subject = str(first.get("PatientID") or "").strip()
    return CineSeries(
        magnitude=magnitude,
        pixel_spacing_mm=(spacing[0], spacing[1]),
        slice_spacing_mm=slice_spacing(places),
        frame_time_ms=_frame_time(slices),
        placement=Placement.of_first_pixel(corners, directions, spacing, pixels.shape[2:]),
        path=folder,
        subject_id=subject or folder.resolve().name,
        names_subject=bool(subject),
        study_id=str(first.get("StudyInstanceUID") or ""),
        notes=(*notes, *told),
    )


def _check_equal(folder: Path, images: Sequence[Any]) -> None:
    first = images[0]
    for attribute, what in (
        ("PatientID", "patients"),
        ("Rows", "numbers of rows"),
        ("Columns", "numbers of columns"),
        ("InPlanePhaseEncodingDirection", "phase-encoding directions"),
    ):
        values = {str(image.get(attribute)) for image in images}
        if len(values) > 1:
            raise UserError(f"{folder}: found {len(values)} {what}, allowed one in a folder")
    spacings = [np.array(image.PixelSpacing, float) for image in images]
    if not all(np.allclose(other, spacings[0], rtol=_SAME_SPACING, atol=0) for other in spacings):
        raise UserError(f"{folder}: found several pixel spacings, allowed one in a folder")
    if len({"TriggerTime" in image for image in images}) > 1:
        raise UserError(f"{folder}: found images with and without TriggerTime, allowed all of one kind")
    orientations = [np.array(image.ImageOrientationPatient, float) for image in images]
    if any(np.abs(other - orientations[0]).max() > _SAME_DIRECTION for other in orientations):
        raise UserError(f"{folder}: found images of several orientations, allowed one view in a folder")
    length = np.linalg.norm(_normal(first))
    if not abs(length - 1) < 0.1:
        found = ", ".join(f"{value:g}" for value in orientations[0])
        raise UserError(f"{folder}: ImageOrientationPatient: found {found}, allowed two unit vectors at right angles")


def _normal(image: Any) -> np.ndarray:
    orientation = np.array(image.ImageOrientationPatient, float)
    return np.cross(orientation[:3], orientation[3:])


def _sorted_slices(folder: Path, images: Sequence[Any]) -> Tuple[List[List[Any]], np.ndarray]:
    """The images of each slice in order of time, and the places of the slices along their normal in mm."""
    normal = _normal(images[0])
    places = np.array([normal @ np.array(image.ImagePositionPatient, float) for image in images])
    order = np.argsort(places, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(places[order]) > SAME_PLACE_MM) + 1)
    slices = [_in_time(folder, [images[i] for i in group]) for group in groups]
    counts = sorted({len(phases) for phases in slices})
    if len(counts) > 1:
        raise UserError(f"{folder}: slices have {counts[0]} to {counts[-1]} cardiac phases, allowed equally many")
    return slices, np.array([places[group].mean() for group in groups])


def _in_time(folder: Path, phases: Sequence[Any]) -> List[Any]:
    """The images of one place, sorted: by trigger time where there is one that says something, else by number."""
    times = [_trigger_time(image) for image in phases]
    if len(set(times)) == 1:
        times = [float(image.get("InstanceNumber") or 0) for image in phases]
        # Each series counts its images anew; so numbers of several do not tell the time.
        if len({str(image.get("SeriesInstanceUID")) for image in phases}) > 1:
            raise UserError(f"{folder}: found two series at one place, without trigger times; allowed one in a folder")
    if len(set(times)) < len(times):
        raise UserError(f"{folder}: found two images at one place and time, allowed one series in a folder")
    return [phases[i] for i in np.argsort(times)]


def _trigger_time(image: Any) -> float:
    return float(image.TriggerTime) if "TriggerTime" in image else 0.0


def _frame_time(slices: Sequence[Sequence[Any]]) -> Optional[float]:
    """In ms; ``None`` where trigger times say nothing."""
    if len(slices[0]) < 2:
        return None
    mean = float(np.mean([np.diff([_trigger_time(image) for image in phases]) for phases in slices]))
    return mean if mean > 0 else None


def _read(path: Path) -> Any:
    import pydicom

    with reading(path, "a DICOM file"):
        return pydicom.dcmread(path)


def _checked_image(path: Path, image: Any) -> Any:
    with reading(path, "a DICOM file"):
        absent = [attribute for attribute in _NEEDED if attribute not in image]
    if absent:
        raise UserError(f"{path}: no {', '.join(absent)} in it, allowed a DICOM file of an MR image")
    for attribute, count in _NUMBERS.items():
        if attribute in image:
            _check_numbers(path, image, attribute, count)
    for attribute in _OPTIONAL_NUMBERS:
        if _value(image, attribute) not in (None, ""):
            _check_numbers(path, image, attribute, 1)
    if int(image.get("NumberOfFrames") or 1) > 1:
        raise UserError(f"{path}: found a multi-frame DICOM file, allowed one image in each file")
    if int(image.get("SamplesPerPixel") or 1) != 1:
        raise UserError(f"{path}: found a color image, allowed a magnitude image")
    for spacing in image.PixelSpacing:
        if not is_length(float(spacing)):
            raise UserError(
                f"{path}: PixelSpacing: found {float(spacing):g}, allowed above 0, up to {LARGEST_LENGTH:g}"
            )
    declared = int(image.Rows) * int(image.Columns) * int(image.BitsAllocated or 1) // 8
    check_declared(f"{path}: pixels", declared, len(image.PixelData or b""))
    return image


def _value(image: Any, attribute: str) -> Any:
    """The value; nonsense, which pydicom finds where it is asked for a value, stays a text."""
    try:
        return image.get(attribute)
    except (TypeError, ValueError):
        return "nonsense"


def _check_numbers(path: Path, image: Any, attribute: str, count: int) -> None:
    try:
        values = np.array(_value(image, attribute), float).reshape(-1)  # nothing becomes NaN
    except (TypeError, ValueError):
        values = np.array([])
    if len(values) != count or not np.isfinite(values).all():
        found = len(values[np.isfinite(values)]) or "none"
        raise UserError(f"{path}: {attribute}: found {found}, allowed finite numbers, {count} of them")


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
