"""ISMRMRD files, line by line, for scans that are more than one regular series; by the format's own library."""

from dataclasses import dataclass
from typing import Tuple

import h5py
import ismrmrd
import numpy as np
from ismrmrd import constants
from ismrmrd.hdf5 import acquisition_dtype, acquisition_header_dtype

from tests.helpers.heart import fft

ALONE = (constants.ACQ_IS_PARALLEL_CALIBRATION,)
EMBEDDED = (constants.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,)
MM = 5.0  # of a pixel along both axes


@dataclass(frozen=True)
class Line:
    """One acquisition: data (C, N) of a line, which counts from 0."""

    data: np.ndarray
    number: int
    slice: int = 0
    phase: int = 0
    repetition: int = 0
    average: int = 0
    flags: Tuple[int, ...] = ()
    space: int = 0
    clock: int = 0
    since_trigger: int = 0


def oversampled(coil_images, factor=2):
    """k-space (..., factor * H, W) of coil images (..., H, W), as a scanner samples it."""
    height = coil_images.shape[-2]
    before = factor * height // 2 - height // 2
    pad = (before, factor * height - height - before)
    return fft(np.pad(coil_images, [(0, 0)] * (coil_images.ndim - 2) + [pad, (0, 0)]), (-2, -1)).astype(np.complex64)


def space(height, width, factor=2, fov=None, center=None, phases=1):
    """An encoding space of pixels of 5 mm, or of the field of view ``fov`` (readout without oversampling, phase)."""
    x = ismrmrd.xsd
    fov = fov or (MM * height, MM * width)
    return x.encodingType(
        encodedSpace=x.encodingSpaceType(
            matrixSize=x.matrixSizeType(x=factor * height, y=width, z=1),
            fieldOfView_mm=x.fieldOfViewMm(x=factor * fov[0], y=fov[1], z=8),
        ),
        reconSpace=x.encodingSpaceType(
            matrixSize=x.matrixSizeType(x=height, y=width, z=1),
            fieldOfView_mm=x.fieldOfViewMm(x=fov[0], y=fov[1], z=8),
        ),
        trajectory=x.trajectoryType("cartesian"),
        encodingLimits=x.encodingLimitsType(
            kspace_encoding_step_1=x.limitType(
                minimum=0, maximum=width - 1, center=width // 2 if center is None else center
            ),
            phase=x.limitType(minimum=0, maximum=phases - 1, center=0) if phases > 1 else None,
        ),
    )


def header(*spaces):
    """The XML header of encoding spaces."""
    x = ismrmrd.xsd
    conditions = x.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000)
    return x.ToXML(x.ismrmrdHeader(experimentalConditions=conditions, encoding=list(spaces)))


def write_acquisitions(path, xml, acquisitions):
    """Writes acquisitions of the library, which would write one after the other, in milliseconds each."""
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as file:
        file.write_xml_header(xml)
        file.append_acquisition(acquisitions[0])
    rows = np.empty(len(acquisitions), acquisition_dtype)
    for i, acquisition in enumerate(acquisitions):
        rows["head"][i] = np.frombuffer(acquisition.getHead(), acquisition_header_dtype)[0]
        rows["data"][i], rows["traj"][i] = acquisition.data.view(np.float32).ravel(), acquisition.traj.ravel()
    with h5py.File(path, "r+") as file:
        data = file["dataset/data"]
        data.resize(len(rows), axis=0)
        data[:] = rows
    return path


def write_lines(path, xml, lines):
    """Writes acquisitions, with their center in the middle of their samples."""
    return write_acquisitions(path, xml, [as_acquisition(line) for line in lines])


def as_acquisition(line):
    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(line.data, np.complex64))
    acquisition.center_sample, acquisition.sample_time_us = line.data.shape[1] // 2, 2.5
    acquisition.encoding_space_ref = line.space
    acquisition.acquisition_time_stamp = line.clock
    acquisition.physiology_time_stamp[0] = line.since_trigger
    acquisition.read_dir[0] = acquisition.phase_dir[1] = acquisition.slice_dir[2] = 1
    acquisition.position[:] = 1, 2, 8 * line.slice
    acquisition.idx.kspace_encode_step_1 = line.number
    for name in ("slice", "phase", "repetition", "average"):
        setattr(acquisition.idx, name, getattr(line, name))
    for flag in line.flags:
        acquisition.setFlag(flag)
    return acquisition
