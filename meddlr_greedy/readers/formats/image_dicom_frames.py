"""What the headers of DICOM files tell of each image: of files of one image, and of enhanced files of many frames."""

from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.limits import LARGEST_LENGTH, check_declared, is_length
from meddlr_greedy.readers.raw_scan import plain_text

__all__ = [
    "ATTRIBUTES",
    "Frame",
    "NoSliceError",
    "Series",
    "frame_headers",
    "frames_of",
    "is_enhanced",
    "series_of",
    "value_of",
]

_NEEDED = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
# Of how many numbers these are; where a file lost its identity, they may be there and empty.
_NUMBERS = {
    "Rows": 1,
    "Columns": 1,
    "BitsAllocated": 1,
    "PixelSpacing": 2,
    "ImageOrientationPatient": 6,
    "ImagePositionPatient": 3,
    "RescaleSlope": 1,
    "RescaleIntercept": 1,
}
# In files of one image, and in enhanced ones.
_TRIGGER_TIMES = ("TriggerTime", "NominalCardiacTriggerDelayTime")
_OPTIONAL_NUMBERS = ("NumberOfFrames", "InstanceNumber", "SamplesPerPixel")  # 1 where they are empty
_TEXTS = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "ImageType",
    "ComplexImageComponent",
    "InPlanePhaseEncodingDirection",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SeriesDescription",
    "SliceThickness",
    "AcquisitionDateTime",
    "AcquisitionDate",
    "AcquisitionTime",
)
# Functional groups of an enhanced file: for all frames together, and for each frame.
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
# Those of them that hold what is used here, later ones before earlier ones. The first two are of files that were
# converted from files of one image.
_GROUPS = (
    "UnassignedSharedConvertedAttributesSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
    "PixelMeasuresSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
    "CardiacSynchronizationSequence",
    "PixelValueTransformationSequence",
    "MRFOVGeometrySequence",
    "MRImageFrameTypeSequence",
    "FrameContentSequence",
)
#: What has to be read of a header for this module.
ATTRIBUTES = (*_NUMBERS, *_TRIGGER_TIMES, *_OPTIONAL_NUMBERS, "SeriesNumber", *_TEXTS, _SHARED, _PER_FRAME)
# These are told of each frame alone, where there are several.
_OF_ONE_IMAGE = (*_TRIGGER_TIMES, "NumberOfFrames", _SHARED, _PER_FRAME)
# Values of FrameType, ImageType and ComplexImageComponent.
_KINDS = {
    "M": "magnitude",
    "MAGNITUDE": "magnitude",
    "P": "phase",
    "PHASE": "phase",
    "PHASE MAP": "phase",
    "R": "real",
    "REAL": "real",
    "I": "imaginary",
    "IMAGINARY": "imaginary",
}
_FIRST_OF_KIND = 2  # the first two values of an image type tell other things


class NoSliceError(UserError):
    """A file that is sound, but holds no images whose place in the patient is known."""


class Series(NamedTuple):
    """What images of one series share.

    Attributes:
        patient: PatientID.
        study: StudyInstanceUID.
        uid: SeriesInstanceUID.
        number: SeriesNumber, where there is one.
        description: SeriesDescription.
    """

    patient: str
    study: str
    uid: str
    number: Optional[int]
    description: str

    @property
    def key(self) -> Tuple[object, ...]:
        """What images of one series have in common: the UID or, where it is gone, number and description."""
        return (self.study, self.uid) if self.uid else (self.study, self.number, self.description)

    def __str__(self) -> str:
        number = self.uid or "without number" if self.number is None else self.number
        return plain_text(f"series {number}" + (f" ({self.description})" if self.description else ""))


class Frame(NamedTuple):
    """One image.

    Attributes:
        path: The file.
        number: Which of the images in the file, from 0.
        series: What it shares with others.
        acquired: Date and time of its acquisition, as texts that can be compared; "" where it is not known.
        kind: "magnitude", "phase", "real" or "imaginary".
        shape: (row, column).
        spacing_mm: From row to row, and from column to column.
        orientation: (6,), directions of a row and of a column.
        position_mm: (3,), the center of the first pixel.
        phase_along_columns: Whether phase encoding goes down the columns.
        trigger_ms: From the R wave to the image, where it is told.
        order: Orders images whose trigger times say nothing.
        slope: Of what is stored, to get the value.
        intercept: The same.
    """

    path: Path
    number: int
    series: Series
    acquired: str
    kind: str
    shape: Tuple[int, int]
    spacing_mm: Tuple[float, ...]
    orientation: Tuple[float, ...]
    position_mm: Tuple[float, ...]
    phase_along_columns: bool
    trigger_ms: Optional[float]
    order: Tuple[float, ...]
    slope: float
    intercept: float

    @property
    def normal(self) -> np.ndarray:
        """(3,), across the image; a unit vector."""
        return np.cross(self.orientation[:3], self.orientation[3:])


def frames_of(path: Path, read: Any) -> List[Frame]:
    """The images of a file.

    Args:
        path: The file.
        read: Its content as pydicom gives it, at least :data:`ATTRIBUTES`.

    Raises:
        NoSliceError: It holds images in color, several without functional groups, or ones without a place.
        UserError: Something in it is not what it has to be.
    """
    with reading(path, "a DICOM file"):
        for attribute in _OPTIONAL_NUMBERS:
            if value_of(read, attribute) not in (None, ""):
                _numbers(path, read, attribute, 1)
        headers = frame_headers(read)
        num_frames = int(read.get("NumberOfFrames") or 1)
        if num_frames != 1 and not is_enhanced(read):
            raise NoSliceError(
                f"{path}: found {num_frames} frames without functional groups, which would tell where each of them lies"
                "; allowed an enhanced DICOM file, or one image in each file"
            )
        if num_frames != len(headers):
            raise UserError(
                f"{path}: NumberOfFrames: found {num_frames}, allowed {len(headers)}, for which there are functional "
                "groups"
            )
        if int(read.get("SamplesPerPixel") or 1) != 1:
            raise NoSliceError(f"{path}: found a color image, allowed a magnitude image")
        series = series_of(path, read)
        frames = [_frame(path, number, series, header) for number, header in enumerate(headers)]
        bits = int(read.get("BitsAllocated") or 1) * sum(frame.shape[0] * frame.shape[1] for frame in frames)
        check_declared(f"{path}: pixels", bits // 8, path.stat().st_size)
        return frames


def series_of(path: Path, read: Any) -> Series:
    """The series of a file.

    Raises:
        UserError: What tells it cannot be read.
    """
    with reading(path, "a DICOM file"):
        names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription")
        patient, study, uid, description = (str(read.get(name) or "").strip() for name in names)
        number = value_of(read, "SeriesNumber")
        number = int(number) if isinstance(number, int) else None
        return Series(patient, study, uid, number, description)


def is_enhanced(read: Any) -> bool:
    """Whether a file may hold many images, and tells in functional groups where each of them lies."""
    return _PER_FRAME in read


def frame_headers(read: Any) -> List[Any]:
    """The attributes of each image of a file: of an enhanced one, those of all with those of the frame on top."""
    import pydicom

    if not read.get(_PER_FRAME):
        return [read]
    whole = pydicom.Dataset()
    for attribute in ATTRIBUTES:
        if attribute in read and attribute not in _OF_ONE_IMAGE:
            whole.add(read[attribute])
    for shared in (read.get(_SHARED) or ())[:1]:
        _lay_over(whole, shared)
    headers = []
    for own in read.get(_PER_FRAME):
        header = pydicom.Dataset()
        header.update(whole)
        _lay_over(header, own)
        headers.append(header)
    return headers


def _lay_over(header: Any, groups: Any) -> None:
    for name in _GROUPS:
        for group in (groups.get(name) or ())[:1]:
            header.update(group)


def _frame(path: Path, number: int, series: Series, header: Any) -> Frame:
    absent = [attribute for attribute in _NEEDED if attribute not in header]
    if absent:
        raise NoSliceError(f"{path}: no {', '.join(absent)} in it, allowed a DICOM file of an MR image")
    found = {name: _numbers(path, header, name, count) for name, count in _NUMBERS.items() if name in header}
    for spacing in found["PixelSpacing"]:
        if not is_length(spacing):
            raise UserError(f"{path}: PixelSpacing: found {spacing:g}, allowed above 0, up to {LARGEST_LENGTH:g}")
    trigger = next((name for name in _TRIGGER_TIMES if name in header), None)
    frame = Frame(
        path=path,
        number=number,
        series=series,
        acquired=_acquired(header),
        kind=_kind(header),
        shape=(int(found["Rows"][0]), int(found["Columns"][0])),
        spacing_mm=found["PixelSpacing"],
        orientation=found["ImageOrientationPatient"],
        position_mm=found["ImagePositionPatient"],
        phase_along_columns=str(header.get("InPlanePhaseEncodingDirection")).strip().upper().startswith("COL"),
        trigger_ms=None if trigger is None else _numbers(path, header, trigger, 1)[0],
        order=_order(number, header),
        slope=found.get("RescaleSlope", (1.0,))[0],
        intercept=found.get("RescaleIntercept", (0.0,))[0],
    )
    if not abs(np.linalg.norm(frame.normal) - 1) < 0.1:
        texts = ", ".join(f"{value:g}" for value in frame.orientation)
        raise UserError(f"{path}: ImageOrientationPatient: found {texts}, allowed two unit vectors at right angles")
    return frame


def _acquired(header: Any) -> str:
    for name in ("FrameAcquisitionDateTime", "AcquisitionDateTime"):
        if header.get(name):
            return str(header.get(name))
    return str(header.get("AcquisitionDate") or "") + str(header.get("AcquisitionTime") or "")


def _kind(header: Any) -> str:
    """Magnitude where nothing else is told.

    The type of the image goes before the component: files of one vendor call magnitudes REAL in the latter.
    """
    types = header.get("FrameType") or header.get("ImageType") or ()
    types = () if isinstance(types, str) else types[_FIRST_OF_KIND:]
    for text in (*types, header.get("ComplexImageComponent")):
        kind = _KINDS.get(str(text).strip().upper())
        if kind is not None:
            return kind
    return "magnitude"


def _order(number: int, header: Any) -> Tuple[float, ...]:
    position = header.get("TemporalPositionIndex")
    return (float(header.get("InstanceNumber") or 0), float(number)) if position is None else (float(position),)


def value_of(header: Any, attribute: str) -> Any:
    """The value; nonsense, which pydicom finds where it is asked for a value, stays a text."""
    try:
        return header.get(attribute)
    except (TypeError, ValueError):
        return "nonsense"


def _numbers(path: Path, header: Any, attribute: str, count: int) -> Tuple[float, ...]:
    """The numbers that an attribute holds.

    Args:
        path: The file, for the message.
        header: Its attributes.
        attribute: The keyword of one of them.
        count: How many numbers it has to hold.

    Raises:
        UserError: It holds something else.
    """
    try:
        values = np.array(value_of(header, attribute), float).reshape(-1)  # nothing becomes NaN
    except (TypeError, ValueError):
        values = np.array([])
    if len(values) != count or not np.isfinite(values).all():
        found = len(values[np.isfinite(values)]) or "none"
        raise UserError(f"{path}: {attribute}: found {found}, allowed finite numbers, {count} of them")
    return tuple(map(float, values))
