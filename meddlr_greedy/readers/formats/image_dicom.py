"""Cine images in DICOM files."""

import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.headers.placement import Placement, slice_spacing
from meddlr_greedy.headers.study import KEPT, kept_of
from meddlr_greedy.limits import check_memory, is_length
from meddlr_greedy.readers.formats.image_dicom_files import read_dicom
from meddlr_greedy.readers.formats.image_dicom_folders import place_of, scan_at
from meddlr_greedy.readers.formats.image_dicom_frames import ATTRIBUTES, Frame, frame_headers, value_of
from meddlr_greedy.readers.formats.image_dicom_scans import slices_of
from meddlr_greedy.readers.formats.image_series import checked_magnitude
from meddlr_greedy.readers.raw_scan import stem
from meddlr_greedy.readers.simulation.simulated_scan import CineSeries

__all__ = ["load_dicom"]


def load_dicom(path: Path) -> CineSeries:
    """One view: images at one or more places, each at equally many times of the cardiac cycle.

    Args:
        path: As :func:`meddlr_greedy.readers.formats.image_dicom_folders.scan_paths` returns it.

    Raises:
        UserError: A file cannot be read, or they are something else.
    """
    scan = scan_at(path)
    frame = scan.frames[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that break DICOM's rules; those that are used are checked
        read = read_dicom(frame.path, [*ATTRIBUTES, *KEPT, "SpacingBetweenSlices"])
        first = frame_headers(read)[frame.number]
        slices, places = _sorted_slices(path, scan.frames)
        pixels = _pixels(path, slices)
    spacing = tuple(frame.spacing_mm)
    # The first direction is that along a row, from column to column; rows follow each other along the second.
    directions = np.array(frame.orientation).reshape(2, 3)[::-1]
    if frame.phase_along_columns:
        pixels, spacing, directions = pixels.swapaxes(2, 3), spacing[::-1], directions[::-1]
    corners = np.array([[image.position_mm for image in phases] for phases in slices]).mean(axis=1)
    magnitude, told = checked_magnitude(path, np.ascontiguousarray(pixels))
    subject = str(first.get("PatientID") or "").strip()
    study = {keyword: value_of(first if keyword in first else read, keyword) for keyword in KEPT}
    dicom, not_kept = kept_of(path, study)
    return CineSeries(
        magnitude=magnitude,
        pixel_spacing_mm=(spacing[0], spacing[1]),
        slice_spacing_mm=slice_spacing(places) if len(places) > 1 else _thickness(first),
        frame_time_ms=_frame_time(slices),
        placement=Placement.of_first_pixel(corners, directions, spacing, pixels.shape[2:]),
        dicom=dicom,
        path=path,
        subject_id=subject or stem(place_of(path)[0].resolve()),
        names_subject=bool(subject),
        notes=(*scan.notes, *told, *not_kept),
    )


def _sorted_slices(path: Path, frames: Sequence[Frame]) -> Tuple[List[List[Frame]], np.ndarray]:
    """The images of each slice in order of time, and the places of the slices along their normal in mm."""
    if len({frame.trigger_ms is None for frame in frames}) > 1:
        raise UserError(f"{path}: found images with and without TriggerTime, allowed all of one kind")
    slices = slices_of(frames)
    counts = sorted({len(images) for _, images in slices})
    if len(counts) > 1:
        raise UserError(f"{path}: slices have {counts[0]} to {counts[-1]} cardiac phases, allowed equally many")
    return [_in_time(path, images) for _, images in slices], np.array([place for place, _ in slices])


def _in_time(path: Path, images: Sequence[Frame]) -> List[Frame]:
    """The images of one place, sorted: by trigger time where there is one that says something, else by number."""
    times: List[Tuple[float, ...]] = [(frame.trigger_ms or 0.0,) for frame in images]
    if len(set(times)) == 1:
        times = [frame.order for frame in images]
    if len(set(times)) < len(times):
        raise UserError(f"{path}: found two images at one place and time, allowed one")
    return [images[i] for i in sorted(range(len(images)), key=times.__getitem__)]


def _frame_time(slices: Sequence[Sequence[Frame]]) -> Optional[float]:
    """In ms; ``None`` where trigger times say nothing."""
    mean = float(np.mean([np.diff([image.trigger_ms or 0.0 for image in phases]) for phases in slices]))
    return mean if mean > 0 else None


def _thickness(header: Any) -> Optional[float]:
    """Of a single slice in mm, which is as thick as slices are apart; ``None`` where it is not known."""
    for attribute in ("SpacingBetweenSlices", "SliceThickness"):
        try:
            thickness = float(value_of(header, attribute))
        except (TypeError, ValueError):
            continue
        if is_length(thickness):
            return thickness
    return None


def _pixels(path: Path, slices: Sequence[Sequence[Frame]]) -> np.ndarray:
    """(slice, phase, row, column), float32."""
    shape = (len(slices), len(slices[0]), *slices[0][0].shape)
    check_memory(path, 4 * int(np.prod(shape, dtype=float)))
    pixels = np.empty(shape, np.float32)
    of_file: Dict[Path, List[Tuple[Frame, int, int]]] = {}
    for s, phases in enumerate(slices):
        for t, image in enumerate(phases):
            of_file.setdefault(image.path, []).append((image, s, t))
    for file, images in of_file.items():
        stored = _stored(path, file)
        for image, s, t in images:
            pixels[s, t] = stored[image.number] * image.slope + image.intercept
    return pixels


def _stored(path: Path, file: Path) -> np.ndarray:
    """(frame, row, column), as a file stores them."""
    read = read_dicom(file)
    if "PixelData" not in read:
        raise UserError(f"{file}: no PixelData in it, allowed a DICOM file of an MR image")
    try:
        pixels = read.pixel_array
    except Exception as error:  # decoders of compressed pixels raise errors of many kinds
        raise UserError(f"{path}: pixels of {file.name} cannot be read ({error})") from error
    return pixels.reshape(-1, *pixels.shape[-2:])
