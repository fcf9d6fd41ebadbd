"""Stacks of slices at any place in the patient, as scanners write them, and where their pixels lie by the standards."""

from dataclasses import dataclass, field
from typing import Optional, Tuple
from unittest import mock

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset

from meddlr_greedy.data.scan_file import write_scan
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.reconstructor import Reconstruction
from meddlr_greedy.reconstruction.scan import output_files, reconstruct_scan

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def axes_of(seed):
    """(3, 3), rows: directions along a row, down a column and across the slices; at no right angle to the patient."""
    axes = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0].T
    axes[2] = np.cross(axes[0], axes[1])
    return axes


@dataclass(frozen=True)
class Stack:
    """A stack of DICOM images.

    Attributes:
        axes: As of :func:`axes_of`.
        corner: Center of the first pixel of the first slice, LPS in mm.
        spacing: PixelSpacing: between rows, between columns.
        places: Of the slices along the normal in mm, in the order in which they are written.
        numbering: Tells the place of a slice in the order of InstanceNumber.
        thickness: SliceThickness.
        between: SpacingBetweenSlices.
        phase_encoding: InPlanePhaseEncodingDirection.
    """

    axes: np.ndarray = field(default_factory=lambda: axes_of(0))
    corner: Tuple[float, float, float] = (-91.25, 34.5, -210.75)
    spacing: Tuple[float, float] = (1.5, 1.25)
    places: Tuple[float, ...] = (0.0, 9.5, 19.0)
    numbering: Tuple[int, ...] = ()
    thickness: Optional[float] = 8.0
    between: Optional[float] = None
    phase_encoding: str = "ROW"

    @property
    def corners(self):
        """(S, 3), ImagePositionPatient."""
        return np.array(self.corner) + np.array(self.places)[:, None] * self.axes[2]

    def world(self, slice_id, row, column):
        """Where a pixel lies, RAS in mm: DICOM PS3.3 C.7.6.2.1.1."""
        down, across = self.axes[1] * self.spacing[0], self.axes[0] * self.spacing[1]
        return LPS_TO_RAS @ (self.corners[slice_id] + row * down + column * across)

    @property
    def order(self):
        """Numbers of the slices by their places along the normal."""
        return np.argsort(self.places)


def write_stack(folder, pixels, stack, **changes):
    """Writes pixels (S, T, rows, columns), uint16, one file for each; ``changes`` are functions (s, t) of values."""
    folder.mkdir(parents=True)
    num_phases = pixels.shape[1]
    uids = [pydicom.uid.generate_uid(entropy_srcs=[str(folder), name]) for name in ("study", "series", "frame")]
    for s, t in np.ndindex(*pixels.shape[:2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[*uids, str(s), str(t)])
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image = FileDataset("", {}, file_meta=meta, preamble=bytes(128), is_implicit_VR=False)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = uids
        image.PatientID, image.PatientName, image.PatientBirthDate = "S1", "Doe^Jane", "19700101"
        image.Modality, image.Manufacturer, image.SeriesNumber, image.StudyDate = "MR", "somebody", 7, "20200102"
        image.ImageType, image.MRAcquisitionType = ["ORIGINAL", "PRIMARY", "M"], "2D"
        image.ScanningSequence, image.SequenceVariant, image.EchoTime, image.RepetitionTime = "GR", "SS", 1.5, 40
        image.PatientPosition = "HFS"
        place = (stack.numbering or range(len(pixels)))[s]
        image.InstanceNumber, image.TriggerTime = place * num_phases + t + 1, 40.0 * t
        image.AcquisitionNumber = 1
        image.ImageOrientationPatient = [float(f"{x:.12f}") for x in stack.axes[:2].ravel()]
        image.ImagePositionPatient = [float(f"{x:.10f}") for x in stack.corners[s]]
        image.PixelSpacing, image.InPlanePhaseEncodingDirection = list(stack.spacing), stack.phase_encoding
        if stack.thickness is not None:
            image.SliceThickness = stack.thickness
        if stack.between is not None:
            image.SpacingBetweenSlices = stack.between
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
        image.Rows, image.Columns = pixels.shape[2:]
        image.PixelData = np.ascontiguousarray(pixels[s, t], dtype="<u2").tobytes()
        for name, change in changes.items():
            setattr(image, name, change(s, t))
        image.save_as(folder / f"IM{s * num_phases + t:04d}", enforce_file_format=True)
    return folder


def write_placed_scan(path, image, attributes, seed=0):
    """A scan file of images (S, H, W, T), or (S, H, W) in 2D, which are its target, with one coil and noise."""
    rng = np.random.default_rng(seed)
    kspace = (image + np.abs(image).max() * rng.standard_normal(image.shape))[..., None].astype(np.complex64)
    maps = np.ones((*image.shape[:3], *([1] if image.ndim == 4 else []), 1, 1), np.complex64)
    target = image[..., None].astype(np.complex64)
    arrays = ({"kspace": kspace[s], "maps": maps[s], "target": target[s]} for s in range(len(image)))
    write_scan(path, len(image), arrays, attributes)
    return path


def reconstruct_by(image_of, path, folder, dicom=False, **made_by):
    """What ``reconstruct`` writes for a scan, with a function of an acquired slice for a network, and no picture."""
    scan = AcquiredScan(str(path))
    folder.mkdir(exist_ok=True)
    files = output_files([scan], folder, dicom)[0]
    with mock.patch("meddlr_greedy.reconstruction.scan._draw"):
        made_by = {"weights": "/home/somebody/my_run/model_best.pth", **made_by}
        reconstruct_scan(scan, lambda scan, i: Reconstruction(*[image_of(scan.read(i))] * 2, 1.0), files, made_by)
    return files


def reconstruct_target(path, folder, dicom=False, factor=1.0, **made_by):
    """The same, with a network that finds the target (times a factor)."""
    scan = AcquiredScan(str(path))
    return reconstruct_by(lambda acquired: factor * scan.read_target(acquired.slice_id), path, folder, dicom, **made_by)
