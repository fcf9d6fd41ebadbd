"""ISMRMRD files (Inati et al., MRM 77:411-421, 2017): Cartesian 2D cine, one acquisition for each readout."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import h5py
import numpy as np
import torch

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.hdf5 import check_array, check_links
from meddlr_greedy.ops.coils import noise_covariance, whitening_matrix
from meddlr_greedy.preparation.raw_scan import (
    RawScan,
    RawSlice,
    find_files,
    remove_oversampling,
    slice_spacing,
    stem,
)
from meddlr_greedy.preparation.readers.ismrmrd_layout import (
    Layout,
    dwell_time,
    encoding_of,
    flagged,
    listed,
    ordered_slices,
    placement_of,
    read_header,
    relative_noise_bandwidth,
)
from meddlr_greedy.preparation.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["IsmrmrdReader"]

# Flags by their names in ismrmrd.constants: the library is imported where a file is opened.
_NOISE = "ACQ_IS_NOISE_MEASUREMENT"
_CALIBRATION = "ACQ_IS_PARALLEL_CALIBRATION"
_CALIBRATION_AND_IMAGING = "ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING"
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


@READER_REGISTRY.register()
class IsmrmrdReader(Reader):
    """ISMRMRD files."""

    command = "ismrmrd"
    help = "ISMRMRD files, as of OCMR"
    description = (
        "ISMRMRD files (.h5, .mrd) of Cartesian 2D cine, for example OCMR (https://ocmr.info; mind its terms).\n"
        "Files named us_... are taken to be undersampled on purpose.\n\n"
        "    meddlr-greedy prepare ismrmrd OCMR/fs_*.h5 --output datasets/ocmr --split 0.7 0.1 0.2"
    )

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The files given, and all ``.h5`` and ``.mrd`` in the folders given."""
        return find_files(inputs, (".h5", ".mrd"))

    def open_scan(self, path: Path, undersampled: bool = False) -> RawScan:
        """Opens an ISMRMRD file.

        Noise scans, where there are any, prewhiten the data. The readout is placed by ``center_sample``, so that an
        asymmetric echo leaves zeros at one end of it, and its oversampling is removed. Lines are placed by the center
        of ``encodingLimits``; what is acquired repeatedly (averages, segments) is averaged. Phase oversampling is kept:
        its lines are what a scanner samples. Slices are in order of their positions. Cardiac phases are ``idx.phase``
        or, where there is only one, the frames of a real-time series, ``idx.repetition``.

        Args:
            path: The file.
            undersampled: Whether the series is undersampled on purpose; so is one named ``us_...``, as in OCMR.

        Raises:
            UserError: The file cannot be used.
        """
        undersampled = undersampled or path.name.startswith("us_")
        with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
            group, notes = _group(path, file)
            header = read_header(path, file[group])
            heads = _heads(path, file[group]["data"])

        noise, image, dropped = _kinds(path, heads)
        encoding = encoding_of(path, header, heads[image])
        _check_coils(path, heads[np.concatenate([noise, image])])
        layout = Layout.of(path, encoding, heads[image], undersampled)
        slices, places = ordered_slices(path, heads[image])
        ratio, told = _bandwidth_ratio(path, header, heads, noise, image)
        notes += [*dropped, *told]
        if not places.size and len(slices) > 1:
            notes.append(f"{path}: slice_dir is not given; slices are in order of their numbers, of unknown spacing")
        elif (slices[1:] < slices[:-1]).any():
            notes.append(f"{path}: slices are not numbered by position; put into the order {listed(slices)}")
        file_ = _File(path, group, heads, noise, image, layout, ratio)
        if len(layout.readout) < layout.oversampled_width:
            first, last = layout.readout[0], layout.readout[-1]
            notes.append(f"{path}: asymmetric echo: samples {first}-{last} of {layout.oversampled_width}")
        return RawScan(
            path=path,
            subject_id=_subject(header) or stem(path),
            num_slices=len(slices),
            load_slice=lambda i: file_.load(slices[i]),
            names_subject=bool(_subject(header)),
            study_id=str(getattr(header.studyInformation, "studyInstanceUID", None) or ""),
            undersampled=undersampled,
            pixel_spacing_mm=layout.pixel_spacing_mm,
            slice_spacing_mm=slice_spacing(places),
            placement=placement_of(heads[image], slices),
            notes=tuple(notes),
        )


def _kinds(path: Path, heads: np.ndarray) -> Tuple[np.ndarray, np.ndarray, List[str]]:
    """Which acquisitions are noise scans and which lines of the image, and what there is to tell of the others.

    Lines for calibration are lines of the image where they are for imaging, too; scanners give some both flags.
    """
    is_noise = flagged(heads, _NOISE)
    only_calibration = flagged(heads, _CALIBRATION) & ~flagged(heads, _CALIBRATION_AND_IMAGING)
    is_other = {meaning: flagged(heads, flag) & ~is_noise for flag, meaning in _OTHER.items()}
    others = np.any([*is_other.values(), is_noise], axis=0)
    is_other["calibration alone"] = only_calibration & ~others
    image = np.flatnonzero(~(others | only_calibration))
    if not image.size:
        raise UserError(f"{path}: found no acquisition of an image among {len(heads)}")
    found = ", ".join(f"{mask.sum()} of {meaning}" for meaning, mask in is_other.items() if mask.any())
    notes = [f"{path}: acquisitions left out: {found}"] if found else []
    return np.flatnonzero(is_noise), image, notes


def _bandwidth_ratio(
    path: Path, header: Any, heads: np.ndarray, noise: np.ndarray, image: np.ndarray
) -> Tuple[float, List[str]]:
    """Noise bandwidth of the image over that of the noise scans, and what there is to tell of it."""
    if not noise.size:
        return 1.0, [f"{path}: no noise scan in it; not prewhitened"]
    # Noise variance is proportional to the bandwidth, one over the dwell time.
    dwell_noise, dwell_image = (dwell_time(path, heads[kind]) for kind in (noise, image))
    if dwell_noise is None or dwell_image is None:
        return 1.0, [f"{path}: sample_time_us is not given; noise scan taken to have the bandwidth of the data"]
    return dwell_noise / dwell_image / relative_noise_bandwidth(path, header), []


def _group(path: Path, file: h5py.File) -> Tuple[str, List[str]]:
    """The name of the group that is read, and what there is to tell of others."""
    check_links(path, file, file)
    groups = [name for name in file if isinstance(file.get(name), h5py.Group) and {"data", "xml"} <= {*file[name]}]
    if not groups:
        raise UserError(f"{path}: found {', '.join(file) or 'nothing'} in it, allowed an ISMRMRD group of data and xml")
    if len(groups) > 1 and "dataset" not in groups:
        raise UserError(f"{path}: found several ISMRMRD groups, {', '.join(groups)}; allowed one, or one named dataset")
    name = "dataset" if "dataset" in groups else groups[0]
    check_links(path, file[name], file[name])
    others = ", ".join(sorted({*groups} - {name}))
    return name, [f"{path}: groups left out: {others}"] if others else []


def _heads(path: Path, data: h5py.Dataset) -> np.ndarray:
    """Headers of all acquisitions, without their data."""
    from ismrmrd.hdf5 import acquisition_header_dtype

    check_array(path, data)
    names = data.dtype.names or ()
    heads = data.dtype["head"].names or () if {"head", "data"} <= {*names} else ()
    if data.ndim != 1 or not {*acquisition_header_dtype.names} <= {*heads}:
        raise UserError(f"{path}: found no acquisitions in '{data.name}', allowed an ISMRMRD file")
    if len(data) > _MOST_ACQUISITIONS:
        raise UserError(f"{path}: found {len(data)} acquisitions, allowed up to {_MOST_ACQUISITIONS}")
    return data.fields("head")[()]


def _subject(header: Any) -> str:
    return str(getattr(header.subjectInformation, "patientID", None) or "").strip()


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
    layout: Layout
    bandwidth_ratio: float

    def load(self, slice_id: int) -> RawSlice:
        layout, (height, width) = self.layout, self.layout.matrix
        wanted = self.image[self.heads["idx"]["slice"][self.image] == slice_id]
        num_coils = int(self.heads["active_channels"][wanted[0]])
        total = np.zeros((layout.num_phases, width, num_coils, height), np.complex64)
        count = np.zeros((layout.num_phases, width, 1, 1), np.float32)
        for indices, data in self._read(wanted):
            readouts = np.zeros((*data.shape[:2], layout.oversampled_width), np.complex64)
            readouts[..., layout.readout.start : layout.readout.stop] = data[..., layout.samples]
            readouts = remove_oversampling(readouts, height)
            if self._whitening is not None:
                readouts = self._whitening.T @ readouts
            phases = self.heads["idx"][layout.time_counter][indices]
            lines = self.heads["idx"]["kspace_encode_step_1"][indices].astype(int) + layout.first_line
            for phase, line, readout in zip(phases, lines, readouts):
                total[phase, line] += readout
                count[phase, line] += 1
        total /= np.maximum(count, 1)
        sampled = (count[..., 0] > 0).transpose(2, 1, 0)  # (1, W, T)
        readout = layout.sampled_along_readout
        if not readout.all():
            sampled = readout[:, None, None] & sampled
        return RawSlice(np.ascontiguousarray(total.transpose(3, 1, 0, 2)), sampled)

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
        with reading(self.path, "an HDF5 file"), h5py.File(self.path, "r") as file:
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
