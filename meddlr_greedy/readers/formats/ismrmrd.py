"""ISMRMRD files (Inati et al., MRM 77:411-421, 2017): Cartesian cine and 2D, one acquisition for each readout."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

import h5py
import numpy as np
import torch
from ismrmrd.hdf5 import acquisition_header_dtype

from meddlr_greedy.errors import UserError
from meddlr_greedy.hdf5 import check_array, check_links, reading_hdf5
from meddlr_greedy.headers.placement import slice_spacing
from meddlr_greedy.headers.study import kept_of
from meddlr_greedy.ops.coils import noise_covariance, whitening_matrix
from meddlr_greedy.readers.formats.ismrmrd_calibration import (
    CALIBRATION,
    CALIBRATION_AND_IMAGING,
    CalibrationLines,
    calibration_lines,
    centered,
)
from meddlr_greedy.readers.formats.ismrmrd_header import Encoding, Header
from meddlr_greedy.readers.formats.ismrmrd_layout import (
    Layout,
    dwell_time,
    encoding_of,
    flagged,
    listed,
    ordered_slices,
    placement_of,
)
from meddlr_greedy.readers.formats.ismrmrd_phases import binned_phases, counted_phases
from meddlr_greedy.readers.formats.sampled import remove_oversampling
from meddlr_greedy.readers.formats.suited import is_ismrmrd_group, suited_command
from meddlr_greedy.readers.raw_scan import Calibration, RawScan, RawSlice, stem

__all__ = ["open_scan"]

# Flags by their names in ismrmrd.constants.
_NOISE = "ACQ_IS_NOISE_MEASUREMENT"
# Acquisitions that are not part of the image, and what they are.
_OTHER = {
    "ACQ_IS_NAVIGATION_DATA": "navigation",
    "ACQ_IS_PHASECORR_DATA": "phase correction",
    "ACQ_IS_HPFEEDBACK_DATA": "HP feedback",
    "ACQ_IS_DUMMYSCAN_DATA": "dummy scan",
    "ACQ_IS_RTFEEDBACK_DATA": "RT feedback",
    "ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA": "surface coil correction",
    "ACQ_IS_PHASE_STABILIZATION_REFERENCE": "phase stabilization reference",
    "ACQ_IS_PHASE_STABILIZATION": "phase stabilization",
}
_BLOCK = 256  # acquisitions read at once, and how large they may become
_BLOCK_BYTES = 64 << 20
_MOST_ACQUISITIONS = 4_000_000  # hours of them


def open_scan(path: Path, undersampled: bool, phases: Optional[int], tick_ms: float, tolerance: float) -> RawScan:
    """Opens an ISMRMRD file.

    Noise scans, where there are any, prewhiten the data. The readout is placed by ``center_sample``, so that an
    asymmetric echo leaves zeros at one end of it, and its oversampling is removed. Lines are placed by the center
    of ``encodingLimits``; what is acquired repeatedly (averages, segments) is averaged. Phase oversampling is kept:
    its lines are what a scanner samples. Slices are in order of their positions. Cardiac phases are ``idx.phase``
    or, of a real-time series, ``idx.repetition``; with ``phases`` they are made of the time since the trigger.

    Args:
        path: The file.
        undersampled: Whether the series is undersampled on purpose; so is one named ``us_...``, as in OCMR.
        phases: See :func:`~meddlr_greedy.readers.formats.ismrmrd_phases.binned_phases`.
        tick_ms: Unit of the time stamps.
        tolerance: How far heartbeats may be from the median one.

    Raises:
        UserError: The file cannot be used.
    """
    undersampled |= path.name.startswith("us_")
    group, header, heads, notes = _headers(path)
    noise, image, calibration, dropped = _kinds(path, heads)
    encoding = encoding_of(path, header, heads[image])
    _check_coils(path, heads[np.concatenate([noise, image])])
    if phases is None:
        timing = counted_phases(path, encoding, heads[image], undersampled)
    else:
        timing = binned_phases(path, heads[image], phases, tick_ms, tolerance)
    layout = Layout.of(path, encoding, heads[image], timing.num_phases)
    slices, places = ordered_slices(path, heads[image])
    ratio, told = _bandwidth_ratio(path, header, heads, noise, image)
    lines, why_not = calibration_lines(path, header, encoding, heads, calibration, image)
    placed = _place_notes(path, encoding, layout, slices, places)
    notes += [*encoding.notes, *dropped, *told, *why_not, *timing.notes, *placed]
    dicom, not_kept = kept_of(path, header.study_values(encoding))
    phase_of = _phase_numbers(len(heads), image, timing.numbers)
    file_ = _File(path, group, heads, noise, image, phase_of, timing.num_phases, layout, lines, ratio)
    return RawScan(
        path=path,
        subject_id=header.subject or stem(path),
        num_slices=len(slices),
        load_slice=lambda i: file_.load(slices[i]),
        names_subject=bool(header.subject),
        is_cine=timing.num_phases > 1,
        undersampled=undersampled,
        pixel_spacing_mm=layout.pixel_spacing_mm,
        slice_spacing_mm=slice_spacing(places) if len(slices) > 1 else encoding.thickness_mm,
        frame_time_ms=timing.frame_time_ms,
        placement=placement_of(heads[image], slices),
        dicom=dicom,
        notes=(*notes, *not_kept),
    )


def _phase_numbers(num_acquisitions: int, image: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The cardiac phase of each acquisition; -1 of those that are not of the image."""
    found = np.full(num_acquisitions, -1)
    found[image] = numbers
    return found


def _headers(path: Path) -> Tuple[str, Header, np.ndarray, List[str]]:
    """The group that is read, its header, those of its acquisitions, and what there is to tell of other groups."""
    with reading_hdf5(path) as file:
        group, notes = _group(path, file)
        check_array(path, file[group]["xml"])
        return group, Header.parse(path, file[group]["xml"][0]), _heads(path, file[group]["data"]), notes


def _kinds(path: Path, heads: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray, List[str]]:
    """Which acquisitions are noise scans, lines of the image and for calibration alone; what to tell of the others.

    Lines for calibration are lines of the image where they are for imaging, too; scanners give some both flags.
    """
    is_noise = flagged(heads, _NOISE)
    only_calibration = flagged(heads, CALIBRATION) & ~flagged(heads, CALIBRATION_AND_IMAGING)
    is_other = {meaning: flagged(heads, flag) & ~is_noise for flag, meaning in _OTHER.items()}
    others = np.any([*is_other.values(), is_noise], axis=0)
    image = np.flatnonzero(~(others | only_calibration))
    if not image.size:
        raise UserError(f"{path}: found no acquisition of an image among {len(heads)}")
    found = ", ".join(f"{mask.sum()} of {meaning}" for meaning, mask in is_other.items() if mask.any())
    notes = [f"{path}: acquisitions left out: {found}"] if found else []
    return np.flatnonzero(is_noise), image, np.flatnonzero(only_calibration & ~others), notes


def _place_notes(path: Path, encoding: Encoding, layout: Layout, slices: np.ndarray, places: np.ndarray) -> List[str]:
    """What there is to tell of where samples, lines and slices lie."""
    notes = []
    if encoding.center_line is None:
        middle = f"line {layout.matrix[1] // 2} of {layout.matrix[1]} is taken to be the middle"
        notes.append(f"{path}: header: encodingLimits.kspace_encoding_step_1.center is not given; {middle}")
    if len(layout.readout) < layout.oversampled_width:
        first, last = layout.readout[0], layout.readout[-1]
        notes.append(f"{path}: asymmetric echo: samples {first}-{last} of {layout.oversampled_width}")
    if not places.size and len(slices) > 1:
        notes.append(f"{path}: slice_dir is not given; slices are in order of their numbers, of unknown spacing")
    elif (slices[1:] < slices[:-1]).any():
        notes.append(f"{path}: slices are not numbered by position; put into the order {listed(slices)}")
    return notes


def _bandwidth_ratio(
    path: Path, header: Header, heads: np.ndarray, noise: np.ndarray, image: np.ndarray
) -> Tuple[float, List[str]]:
    """Noise bandwidth of the image over that of the noise scans, and what there is to tell of it."""
    if not noise.size:
        return 1.0, [f"{path}: no noise scan in it; not prewhitened"]
    # Noise variance is proportional to the bandwidth, one over the dwell time.
    dwell_noise, dwell_image = (dwell_time(path, heads[kind]) for kind in (noise, image))
    if dwell_noise is None or dwell_image is None:
        return 1.0, [f"{path}: sample_time_us is not given; noise scan taken to have the bandwidth of the data"]
    return dwell_noise / dwell_image / header.relative_noise_bandwidth, []


def _group(path: Path, file: h5py.File) -> Tuple[str, List[str]]:
    """The name of the group that is read, and what there is to tell of others."""
    check_links(path, file, file)
    groups = [name for name in file if is_ismrmrd_group(file, name)]
    if not groups:
        found = ", ".join(file) or "nothing"
        raise UserError(f"{path}: found {found} in it, allowed an ISMRMRD group of data and xml{suited_command(file)}")
    if len(groups) > 1 and "dataset" not in groups:
        raise UserError(f"{path}: found several ISMRMRD groups, {', '.join(groups)}; allowed one, or one named dataset")
    name = "dataset" if "dataset" in groups else groups[0]
    check_links(path, file[name], file[name])
    others = ", ".join(sorted({*groups} - {name}))
    return name, [f"{path}: groups left out: {others}"] if others else []


def _heads(path: Path, data: h5py.Dataset) -> np.ndarray:
    """Headers of all acquisitions, without their data."""
    check_array(path, data)
    names = data.dtype.names or ()
    heads = data.dtype["head"].names or () if {"head", "data"} <= {*names} else ()
    if data.ndim != 1 or not {*acquisition_header_dtype.names} <= {*heads}:
        raise UserError(f"{path}: found no acquisitions in '{data.name}', allowed an ISMRMRD file")
    if len(data) > _MOST_ACQUISITIONS:
        raise UserError(f"{path}: found {len(data)} acquisitions, allowed up to {_MOST_ACQUISITIONS}")
    return data.fields("head")[()]


def _check_coils(path: Path, heads: np.ndarray) -> None:
    for field in ("active_channels", "channel_mask"):
        values = np.unique(heads[field], axis=0)
        if len(values) > 1:
            found = listed(values) if values.ndim == 1 else f"{len(values)} different ones"
            raise UserError(f"{path}: coils differ between acquisitions: {field}: found {found}, allowed one")
    if not heads["active_channels"][0]:
        raise UserError(f"{path}: active_channels: found 0, allowed 1 or more")


@dataclass(frozen=True)
class _File:
    """An opened file: loads one slice at a time."""

    path: Path
    group: str
    heads: np.ndarray
    noise: np.ndarray
    image: np.ndarray
    phases: np.ndarray  # of all acquisitions; -1 where one is left out
    num_phases: int
    layout: Layout
    calibration: Optional[CalibrationLines]
    bandwidth_ratio: float

    def load(self, slice_id: int) -> RawSlice:
        wanted = self.image[self.heads["idx"]["slice"][self.image] == slice_id]
        wanted = wanted[self.phases[wanted] >= 0]
        if not wanted.size:
            raise UserError(f"{self.path}: slice {slice_id}: every line of it is of a heartbeat that is left out")
        total, count = self._mean(wanted, self.phases[wanted], self.num_phases, self.layout)
        sampled = (count[..., 0] > 0).transpose(2, 1, 0)  # (1, W, T)
        readout = self.layout.sampled_along_readout
        if not readout.all():
            sampled = readout[:, None, None] & sampled
        kspace = np.ascontiguousarray(total.transpose(3, 1, 0, 2))
        return RawSlice(kspace, sampled, self._calibration(slice_id))

    def _calibration(self, slice_id: int) -> Optional[Calibration]:
        if self.calibration is None:
            return None
        indices, layout = self.calibration
        indices = indices[self.heads["idx"]["slice"][indices] == slice_id]
        if not indices.size:
            return None
        total, count = self._mean(indices, np.zeros(len(indices), int), 1, layout)
        sampled = layout.sampled_along_readout[:, None] & (count[0, :, 0, 0] > 0)
        kspace = total[0].transpose(2, 0, 1)
        return Calibration(centered(kspace, self.layout.matrix), centered(sampled, self.layout.matrix))

    def _mean(
        self, indices: np.ndarray, phases: np.ndarray, num_phases: int, layout: Layout
    ) -> Tuple[np.ndarray, np.ndarray]:
        """The mean of acquisitions of one line and phase, (T, W, C, H), and how many there are, (T, W, 1, 1)."""
        height, width = layout.matrix
        num_coils = int(self.heads["active_channels"][indices[0]])
        total = np.zeros((num_phases, width, num_coils, height), np.complex64)
        count = np.zeros((num_phases, width, 1, 1), np.float32)
        done = 0
        for block, data in self._read(indices):
            readouts = np.zeros((*data.shape[:2], layout.oversampled_width), np.complex64)
            readouts[..., layout.readout.start : layout.readout.stop] = data[..., layout.samples]
            readouts = remove_oversampling(readouts, height)
            if self._whitening is not None:
                readouts = self._whitening.T @ readouts
            lines = self.heads["idx"]["kspace_encode_step_1"][block].astype(int) + layout.first_line
            for phase, line, readout in zip(phases[done : done + len(block)], lines, readouts):
                total[phase, line] += readout
                count[phase, line] += 1
            done += len(block)
        total /= np.maximum(count, 1)
        return total, count

    @functools.cached_property
    def _whitening(self) -> Optional[np.ndarray]:
        if not self.noise.size:
            return None
        samples = [data.transpose(0, 2, 1).reshape(-1, data.shape[1]) for _, data in self._read(self.noise)]
        try:
            return whitening_matrix(
                noise_covariance(torch.from_numpy(np.concatenate(samples))), self.bandwidth_ratio
            ).numpy()
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error

    def _read(self, indices: np.ndarray) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """Blocks of acquisitions of equal length: their indices, and data (acquisition, coil, sample)."""
        lengths = self.heads["number_of_samples"][indices]
        runs = np.split(indices, np.flatnonzero((np.diff(indices) > 1) | (np.diff(lengths.astype(int)) != 0)) + 1)
        num_bytes = 8 * int(self.heads["active_channels"][indices[0]]) * self.layout.oversampled_width
        most = max(1, min(_BLOCK, _BLOCK_BYTES // num_bytes))
        with reading_hdf5(self.path) as file:
            stored = file[self.group]["data"].fields("data")
            for run in runs:
                for at in range(0, len(run), most):
                    block = run[at : at + most]
                    yield block, self._as_array(stored[block[0] : block[-1] + 1], block)

    def _as_array(self, records: np.ndarray, indices: np.ndarray) -> np.ndarray:
        head = self.heads[indices[0]]
        shape = int(head["active_channels"]), int(head["number_of_samples"])
        wrong = [i for i, record in zip(indices, records) if len(record) != 2 * shape[0] * shape[1]]
        if wrong:
            raise UserError(
                f"{self.path}: acquisition {wrong[0]}: found data that do not agree with the {shape[1]} samples of "
                f"{shape[0]} coils in its header"
            )
        return np.stack(list(records)).view(np.complex64).reshape(-1, *shape)
