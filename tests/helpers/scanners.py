"""Files as scanners and challenges write them, made with the formats' own libraries."""

from dataclasses import dataclass
from typing import Optional, Tuple

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import scipy.io
from ismrmrd import constants
from pydicom.dataset import FileDataset, FileMetaDataset

from tests.helpers.heart import COILS, HEIGHT, WIDTH, fft
from tests.helpers.mrd_lines import write_acquisitions


@dataclass(frozen=True)
class Mrd:
    """How the test's scanner acquires and writes."""

    averages: int = 1
    segments: int = 1
    oversampling: int = 2
    asymmetry: int = 0  # oversampled samples that the echo leaves out at the beginning
    lines: range = range(WIDTH)
    skipped: Tuple[Tuple[int, int], ...] = ()  # (phase, line)
    sampled: Optional[np.ndarray] = None  # (W, T)
    trajectory: str = "cartesian"
    subject: str = ""
    noise: Optional[np.ndarray] = None  # (acquisition, coil, sample)
    noise_dwell: float = 5.0
    noise_bandwidth: Optional[float] = None
    time: str = "phase"
    discard: int = 0  # samples at the beginning that the reader has to discard
    discard_post: int = 0  # more samples at the end, to be discarded too
    sets: int = 1
    matrix: Optional[Tuple[int, int]] = None
    calibration: range = range(0)  # lines with both flags of calibration
    places: Optional[Tuple[float, ...]] = None  # of the slices in mm; by default 8 mm apart
    broken: str = ""


def mrd_header(scan, num_phases, num_slices):
    x = ismrmrd.xsd
    limit = x.limitType
    width = scan.oversampling * HEIGHT
    encoded = x.encodingSpaceType(
        matrixSize=x.matrixSizeType(x=width, y=WIDTH, z=1),
        fieldOfView_mm=x.fieldOfViewMm(x=320.0 * scan.oversampling, y=240, z=8),
    )
    # The scanner interpolates its images to another matrix than the one it acquires.
    matrix = scan.matrix or (2 * HEIGHT, 2 * WIDTH)
    recon = x.encodingSpaceType(
        matrixSize=x.matrixSizeType(x=matrix[0], y=matrix[1], z=1), fieldOfView_mm=x.fieldOfViewMm(x=320, y=240, z=8)
    )
    lines = scan.lines
    encoding = x.encodingType(
        encodedSpace=encoded,
        reconSpace=recon,
        trajectory=x.trajectoryType(scan.trajectory),
        encodingLimits=x.encodingLimitsType(
            kspace_encoding_step_1=limit(minimum=0, maximum=lines[-1] - lines[0], center=WIDTH // 2 - lines[0]),
            slice=limit(minimum=0, maximum=num_slices - 1, center=0),
            phase=limit(minimum=0, maximum=num_phases - 1, center=0) if scan.time == "phase" else None,
        ),
    )
    header = x.ismrmrdHeader(
        experimentalConditions=x.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000),
        acquisitionSystemInformation=x.acquisitionSystemInformationType(
            receiverChannels=COILS, relativeReceiverNoiseBandwidth=scan.noise_bandwidth
        ),
        encoding=[encoding],
    )
    if scan.subject:
        header.subjectInformation = x.subjectInformationType(patientID=scan.subject)
    return x.ToXML(header)


def write_mrd(path, coil_images, scan=None, seed=0):
    """Writes coil images (S, T, C, H, W) as a scanner would acquire them."""
    scan = scan or Mrd()
    rng = np.random.default_rng(seed)
    num_slices, num_phases, num_coils = coil_images.shape[:3]
    pad = (scan.oversampling - 1) * HEIGHT // 2
    kspace = fft(np.pad(coil_images, [(0, 0)] * 3 + [(pad, pad), (0, 0)]), (-2, -1)).astype(np.complex64)
    first = scan.asymmetry - scan.discard
    acquisitions = []

    def append(data, center, dwell, flags=(), **counters):
        acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, dtype=np.complex64))
        acquisition.center_sample, acquisition.sample_time_us = center, dwell
        for flag in flags:
            acquisition.setFlag(flag)
        number = counters.get("slice", 0)
        acquisition.slice_dir[2] = 1
        acquisition.position[2] = 8 * number if scan.places is None else scan.places[number]
        for name, value in counters.items():
            setattr(acquisition.idx, name, int(value))
        if not flags:
            acquisition.discard_pre, acquisition.discard_post = scan.discard, scan.discard_post
        acquisitions.append(acquisition)

    for noise in scan.noise if scan.noise is not None else ():
        append(noise, 0, scan.noise_dwell, [constants.ACQ_IS_NOISE_MEASUREMENT])
    # Something that is no image, in the way.
    append(1e3 + np.ones((num_coils, 8)), 4, 2.5, [constants.ACQ_IS_PHASECORR_DATA])
    for s in range(num_slices):
        for average in range(scan.averages):
            for t in range(num_phases):
                for line in scan.lines:
                    if (t, line) in scan.skipped or (scan.sampled is not None and not scan.sampled[line, t]):
                        continue
                    data = kspace[s, t, :, max(first, 0) :, line]
                    if scan.averages > 1:  # whose mean is the data
                        sign = 1 if average % 2 else -1
                        data = data + sign * 0.1 * np.exp(1j * np.arange(data.size).reshape(data.shape))
                    if scan.discard:
                        data = data + 0
                        data[:, : scan.discard] = 1e3 * rng.standard_normal((num_coils, scan.discard))
                    data = np.pad(data, [(0, 0), (0, scan.discard_post)], constant_values=1e3)
                    if scan.broken == "nan" and (s, t, line) == (0, 1, 5):
                        data = data * np.nan
                    if scan.broken == "coils" and (s, t, line) == (0, 1, 5):
                        data = data[:-1]
                    counters = {
                        "kspace_encode_step_1": line - scan.lines[0],
                        "slice": s,
                        scan.time: t,
                        "average": average,
                        "segment": line % scan.segments,
                        "set": t % scan.sets,
                    }
                    center = scan.oversampling * HEIGHT // 2 - max(first, 0)
                    both = [
                        constants.ACQ_IS_PARALLEL_CALIBRATION,
                        constants.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,
                    ]
                    append(data, center, 2.5, both if line in scan.calibration else (), **counters)
                for line in scan.calibration:  # acquired for calibration alone, and of another contrast
                    counters = {"kspace_encode_step_1": line - scan.lines[0], "slice": s, scan.time: t}
                    data = np.full((num_coils, scan.oversampling * HEIGHT), 1e3)
                    alone = [constants.ACQ_IS_PARALLEL_CALIBRATION]
                    append(data, scan.oversampling * HEIGHT // 2, 2.5, alone, **counters)
    return write_acquisitions(path, mrd_header(scan, num_phases, num_slices), acquisitions)


def write_mat(path, array, name="kspace_full", dtype=np.float32):
    """Writes as MATLAB does: axes reversed, complex numbers as a compound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        if np.iscomplexobj(array):
            stored = np.empty(array.T.shape, [("real", dtype), ("imag", dtype)])
            stored["real"], stored["imag"] = array.T.real, array.T.imag
        else:
            stored = array.T
        file.create_dataset(name, data=stored)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    return path


def write_mat5(path, array, name="kspace_full", dtype=np.float32):
    """Writes a MAT file of version 5, compressed, as MATLAB does without being told otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if np.iscomplexobj(array):
        array = array.astype(np.result_type(dtype, np.complex64))
    scipy.io.savemat(path, {name: array}, do_compression=True)
    return path


def matlab_axes(kspace):
    """(S, T, C, H, W) to (nx, ny, coil, slice, frame)."""
    return kspace.transpose(3, 4, 2, 0, 1)


def write_dicom(folder, magnitude, subject, phase_encoding="ROW", **changes):
    """One file for each slice and phase, as a scanner exports them: in no order, beside what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    present = len(list(folder.iterdir()))
    order = np.random.default_rng(0).permutation(magnitude.shape[0] * magnitude.shape[1])
    for number, i in enumerate(order):
        s, t = divmod(int(i), magnitude.shape[1])
        image = _new_dicom(folder / f"IM{present + number:04d}", pydicom.uid.MRImageStorage, subject)
        image.InstanceNumber = number + 1
        pixels = magnitude[s, t].T if phase_encoding == "COL" else magnitude[s, t]
        _set_pixels(image, pixels)
        values = {**_values_of(s), "InPlanePhaseEncodingDirection": phase_encoding, "TriggerTime": 40.0 * t}
        for name, value in values.items():
            setattr(image, name, value)
        for name, change in changes.items():
            setattr(image, name, change(s, t))
        image.save_as(image.filename, enforce_file_format=True)
    return folder


def _new_dicom(path, sop_class, subject):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.PatientID, image.Modality = subject, "MR"
    return image


def _set_pixels(image, magnitude):
    """Half of the magnitude (..., row, column) is stored."""
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.Rows, image.Columns = magnitude.shape[-2:]
    image.PixelData = np.ascontiguousarray(magnitude // 2).tobytes()


def _values_of(s):
    """What the header tells of the images of a slice."""
    normal = np.cross([0.6, 0.8, 0], [0, 0, -1])
    return {
        "ImageOrientationPatient": [0.6, 0.8, 0, 0, 0, -1],
        "ImagePositionPatient": [float(x) for x in 8.0 * s * normal + [10, 20, 30]],
        "PixelSpacing": [1.5, 1.25],
        "RescaleSlope": 2,
        "RescaleIntercept": 6,
    }


#: The functional groups in which an enhanced file has what a file of one image tells at its top.
GROUPS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "TriggerTime": "UnassignedPerFrameConvertedAttributesSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "InPlanePhaseEncodingDirection": "MRFOVGeometrySequence",
    "FrameType": "MRImageFrameTypeSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
    "TemporalPositionIndex": "FrameContentSequence",
}


def write_enhanced(path, magnitude, subject, legacy=False, per_frame=(), whole=None, **changes):
    """All slices and phases in one file, in no order.

    What is the same for all frames is in the shared functional groups, unless ``per_frame`` names it. ``whole`` are
    attributes of the file; ``changes`` are those of frames, functions of slice and phase, or ``None`` to leave one out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    uids = pydicom.uid
    sop_class = uids.LegacyConvertedEnhancedMRImageStorage if legacy else uids.EnhancedMRImageStorage
    image = _new_dicom(path, sop_class, subject)
    order = np.random.default_rng(1).permutation(magnitude.shape[0] * magnitude.shape[1])
    places = [divmod(int(i), magnitude.shape[1]) for i in order]
    frames = []
    for s, t in places:
        time = {"TriggerTime" if legacy else "NominalCardiacTriggerDelayTime": 40.0 * t}
        values = {**_values_of(s), "FrameType": ["ORIGINAL", "PRIMARY", "CINE", "NONE"], **time}
        values.update({name: change and change(s, t) for name, change in changes.items()})
        frames.append({name: value for name, value in values.items() if value is not None})
    shared = {name for name, value in frames[0].items() if all(frame.get(name) == value for frame in frames)}
    shared -= {*per_frame}
    image.SharedFunctionalGroupsSequence = [_functional_groups(frames[0], shared)]
    image.PerFrameFunctionalGroupsSequence = [_functional_groups(frame, {*frame} - shared) for frame in frames]
    image.NumberOfFrames = len(frames)
    _set_pixels(image, np.stack([magnitude[place] for place in places]))
    for name, value in (whole or {}).items():
        setattr(image, name, value)
    image.save_as(path, enforce_file_format=True)
    return path


def _functional_groups(values, names):
    groups = pydicom.Dataset()
    for name in sorted(names):
        if GROUPS[name] not in groups:
            setattr(groups, GROUPS[name], [pydicom.Dataset()])
        setattr(groups[GROUPS[name]][0], name, values[name])
    return groups


def write_nifti(path, magnitude, dim_info=None):
    image = nibabel.Nifti1Image(np.ascontiguousarray(magnitude.transpose(2, 3, 0, 1)), np.diag([1.5, 1.25, 8, 1]))
    image.header.set_zooms((1.5, 1.25, 8, 0.04))
    image.header.set_xyzt_units("mm", "sec")
    if dim_info:
        image.header.set_dim_info(*dim_info)
    nibabel.save(image, path)
    return path
