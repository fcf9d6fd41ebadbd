"""A reconstruction as a derived series of DICOM: one MR image for each slice and cardiac phase.

Rows lie along the readout, columns along the phase encode. The images are a new series of the study that the scan is
from, where its file tells (:mod:`meddlr_greedy.headers.study`), else of a new study. Pixels have 16 bits; one slope
takes those of all images back to the magnitude.

Unique identifiers are functions of what is written. So the same images have the same ones, and others have others.
"""

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Tuple

import numpy as np

import meddlr_greedy
from meddlr_greedy.errors import UserError
from meddlr_greedy.files import as_text, printable
from meddlr_greedy.headers.placement import SAME_PLACE_MM
from meddlr_greedy.headers.study import study_of
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.zoo import is_zoo_name

__all__ = ["bytes_needed", "check_placed", "write_series"]

_LARGEST_PIXEL = 2**16 - 1
_WINDOW = 0.995  # of all pixels: a few bright ones would leave the heart dark
_HEADER_BYTES = 4096  # of an image, at most
_RIGHT_ANGLE = 1e-3  # cosine of the angle up to which two directions count as perpendicular
_LONGEST = 64  # characters of a description or an ID

# What the standard asks for (type 2) and nobody has to know: written empty, unless the scan's file tells it.
_EMPTY = (
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "ContentDate"),
    *("ContentTime", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientPosition", "Laterality"),
    *("Manufacturer", "PositionReferenceIndicator", "SliceThickness", "ScanOptions", "RepetitionTime", "EchoTime"),
    "EchoTrainLength",
)


def check_placed(scan: AcquiredScan) -> None:
    """Checks that images in DICOM, which tell their place in the patient, can be made of a scan.

    Raises:
        UserError: Its file does not tell the place, or what it keeps of the study cannot be used.
    """
    missing = [
        name
        for name, value in (("position_mm", scan.placement), ("pixel_spacing_mm", scan.geometry.pixel_spacing_mm))
        if value is None
    ]
    if missing:
        raise UserError(
            f"--dicom: {scan.path}: found no attribute {', '.join(missing)}; DICOM needs the place of images in the"
            " patient: allowed scans whose files tell it (see meddlr_greedy/data/scan_file.py)"
        )
    assert scan.placement is not None
    if not scan.placement.are_apart:
        raise UserError(f"--dicom: {scan.path}: position_mm: found two slices at one place, allowed one at each")
    if abs(scan.placement.readout_direction @ scan.placement.phase_direction) > _RIGHT_ANGLE:
        raise UserError(
            f"--dicom: {scan.path}: found readout_direction and phase_direction that are not perpendicular, allowed"
            " rows and columns at right angles"
        )
    study_of(scan.path, scan.attributes)


def bytes_needed(scan: AcquiredScan) -> int:
    """How much room the images need on the disk, at most."""
    num_images = scan.shape[0] * int(np.prod(scan.shape[3:-1]))
    return num_images * (2 * scan.shape[1] * scan.shape[2] + _HEADER_BYTES)


def write_series(
    folder: Path, scan: AcquiredScan, magnitude_of: Callable[[int], np.ndarray], made_by: Mapping[str, str]
) -> None:
    """Writes the images of a scan that has passed :func:`check_placed`, with one slice in memory.

    Args:
        folder: Where they are written, empty.
        scan: The scan.
        magnitude_of: Gives the image of a slice by its number: real, (H, W, T) or (H, W).
        made_by: What the images were made with: "weights" and, where not all were used, "modules".
    """
    largest = max(float(magnitude_of(slice_id).max()) for slice_id in range(len(scan)))
    slope = _decimal(largest / _LARGEST_PIXEL)
    images = _Images(scan, magnitude_of, float(slope), _common(scan, slope, made_by))
    digest, counts = hashlib.sha256(), np.zeros(_LARGEST_PIXEL + 1, np.int64)
    for header, pixels in images:
        digest.update(header.to_json().encode() + pixels.tobytes())
        counts += np.bincount(pixels.ravel(), minlength=len(counts))
    series_uid = _uid("series", digest.hexdigest())
    window = images.slope * max(1, int(np.searchsorted(counts.cumsum(), _WINDOW * counts.sum())))
    digits = len(str(len(images)))
    for number, (header, pixels) in enumerate(images, start=1):
        header.SeriesInstanceUID, header.SOPInstanceUID = series_uid, _uid(series_uid, str(number))
        header.WindowCenter, header.WindowWidth = _decimal(window / 2), _decimal(window)
        header.PixelData = pixels.tobytes()
        _save(folder / f"IM{number:0{digits}d}.dcm", header)


@dataclass(frozen=True)
class _Images:
    """Headers and pixels (H, W), uint16, of all images in the order of their numbers, made anew by each iteration.

    Attributes:
        scan: The scan.
        magnitude_of: As for :func:`write_series`.
        slope: Magnitude of a pixel of value 1.
        common: What all headers hold.
    """

    scan: AcquiredScan
    magnitude_of: Callable[[int], np.ndarray]
    slope: float
    common: Any

    def __len__(self) -> int:
        return self.scan.shape[0] * int(np.prod(self.scan.shape[3:-1]))

    def __iter__(self) -> Iterator[Tuple[Any, np.ndarray]]:
        shape, placement, (spacing, frame_time) = self.scan.shape[1:3], self.scan.placement, self.scan.geometry
        assert placement is not None and spacing is not None
        corners = placement.first_mm(spacing, shape)
        number = 0
        for slice_id, corner in enumerate(corners):
            frames = self.magnitude_of(slice_id).astype(float).reshape(*shape, -1)
            for t in range(frames.shape[-1]):
                number += 1
                header = copy.deepcopy(self.common)
                header.InstanceNumber = number
                header.ImagePositionPatient = [_decimal(value) for value in corner]
                header.SliceLocation = _decimal(corner @ placement.normal)
                if self.scan.is_cine:
                    header.TemporalPositionIdentifier, header.NumberOfTemporalPositions = t + 1, frames.shape[-1]
                    header.CardiacNumberOfImages = frames.shape[-1]
                    if frame_time is not None:
                        header.TriggerTime, header.ScanOptions = _decimal(t * frame_time), "CG"  # cardiac gating
                yield header, np.rint(frames[..., t] / self.slope).clip(0, _LARGEST_PIXEL).astype("<u2")


def _common(scan: AcquiredScan, slope: str, made_by: Mapping[str, str]) -> Any:
    """What the headers of all images hold: the modules of the MR Image IOD (DICOM PS3.3 A.4)."""
    from pydicom import Dataset
    from pydicom.uid import MRImageStorage

    spacing, placement = scan.geometry.pixel_spacing_mm, scan.placement
    assert placement is not None and spacing is not None
    header = Dataset()
    for keyword in _EMPTY:
        setattr(header, keyword, None)
    header.SpecificCharacterSet, header.SOPClassUID, header.Modality = "ISO_IR 192", MRImageStorage, "MR"
    # Not as a manufacturer: by the first letters of its name dcm2niix chooses how to read, and takes "me" for Mediso.
    header.ManufacturerModelName, header.SoftwareVersions = "meddlr_greedy", meddlr_greedy.__version__
    header.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    header.SeriesDescription = _text(f"meddlr_greedy {scan.name}")
    weights = made_by["weights"]
    weights = _text(weights if is_zoo_name(weights) else "/".join(Path(weights).parts[-2:]))
    modules = f", after the first {made_by['modules']} modules" if "modules" in made_by else ""
    header.DerivationDescription = (
        f"Reconstructed by meddlr_greedy {meddlr_greedy.__version__} with the weights {weights}{modules}"
    )
    header.ScanningSequence, header.SequenceVariant, header.MRAcquisitionType = "RM", "NONE", "2D"
    for keyword, value in _of_study(scan).items():
        setattr(header, keyword, _decimal(value) if isinstance(value, float) else value)
    if "IR" in header.ScanningSequence:
        header.setdefault("InversionTime", None)
    else:  # where it may not be
        header.pop("InversionTime", None)
    # The first direction is that along a row, from column to column: the phase encode.
    directions = np.concatenate([placement.phase_direction, placement.readout_direction])
    header.ImageOrientationPatient = [_decimal(value) for value in directions]
    header.InPlanePhaseEncodingDirection = "ROW"
    header.PixelSpacing = [_decimal(value) for value in spacing]
    between = scan.slice_spacing_mm if len(scan) == 1 else placement.step_mm
    if between is not None and placement.unevenness_mm <= SAME_PLACE_MM:
        header.SpacingBetweenSlices = _decimal(between)
        if len(scan) == 1 and header.SliceThickness is None:
            header.SliceThickness = header.SpacingBetweenSlices
    header.Rows, header.Columns = scan.shape[1:3]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 0
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = slope, "0", "US"  # of unspecified units
    header.VOILUTFunction = "LINEAR_EXACT"  # which allows windows narrower than 1
    return header


def _of_study(scan: AcquiredScan) -> Dict[str, Any]:
    """Values by keyword: what the scan's file keeps of the study or, where it keeps none, those of a new one."""
    study = study_of(scan.path, scan.attributes)
    # k-space holds noise, so no other scan has this one's.
    acquired = scan.kspace_hash(0)
    if "StudyInstanceUID" not in study:
        study["StudyInstanceUID"] = _uid("study", scan.name, acquired)
        study.setdefault("PatientID", _text(str(scan.attributes.get("subject_id", scan.name))))
    study.setdefault("FrameOfReferenceUID", _uid("frame of reference", scan.name, acquired))
    return study


def _uid(*sources: str) -> str:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=list(sources))


def _decimal(value: float) -> str:
    """A number as DICOM writes it, in up to 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))


def _text(text: str) -> str:
    """A text as a value of DICOM, where a backslash would separate two."""
    return printable(as_text(text)).replace("\\", "_").strip()[:_LONGEST]


def _save(path: Path, header: Any) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset, validate_file_meta
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # is set where it is written
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    validate_file_meta(meta)  # adds the rest
    FileDataset(str(path), header, preamble=bytes(128), file_meta=meta, is_implicit_VR=False).save_as(path)
