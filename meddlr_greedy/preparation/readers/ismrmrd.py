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
from meddlr_greedy.ops.coils import noise_covariance, whitening_matrix
from meddlr_greedy.preparation.raw_scan import (
    RawScan,
    RawSlice,
    find_files,
    remove_oversampling,
    slice_spacing,
    stem,
)
from meddlr_greedy.preparation.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["IsmrmrdReader"]

# Flags by their names in ismrmrd.constants: the library is imported where a file is opened.
_NOISE = "ACQ_IS_NOISE_MEASUREMENT"
# Acquisitions that are not part of the image.
_OTHER = (
    "ACQ_IS_PARALLEL_CALIBRATION",
    "ACQ_IS_NAVIGATION_DATA",
    "ACQ_IS_PHASECORR_DATA",
    "ACQ_IS_HPFEEDBACK_DATA",
    "ACQ_IS_DUMMYSCAN_DATA",
    "ACQ_IS_RTFEEDBACK_DATA",
    "ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA",
    "ACQ_IS_PHASE_STABILIZATION_REFERENCE",
    "ACQ_IS_PHASE_STABILIZATION",
)
_BLOCK = 256  # acquisitions read at once


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
        its lines are what a scanner samples. Cardiac phases are ``idx.phase`` or, where there is only one, the frames
        of a real-time series, ``idx.repetition``.

        Args:
            path: The file.
            undersampled: Whether the series is undersampled on purpose; so is one named ``us_...``, as in OCMR.

        Raises:
            UserError: The file cannot be used.
        """
        undersampled = undersampled or path.name.startswith("us_")
        with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
            group = _group(path, file)
            header = _header(path, file[group])
            heads = _heads(path, file[group]["data"])

        noise = np.flatnonzero(_flagged(heads, _NOISE))
        image = np.flatnonzero(~_flagged(heads, _NOISE, *_OTHER))
        if not image.size:
            raise UserError(f"{path}: found no acquisition of an image among {len(heads)}")
        encoding = _encoding(path, header, heads[image])
        _check_coils(path, heads[np.concatenate([noise, image])])
        layout = _Layout.of(path, encoding, heads[image], undersampled)
        slices = np.unique(heads["idx"]["slice"][image])
        notes = [] if noise.size else [f"{path}: no noise scan in it; not prewhitened"]
        ratio = 1.0
        if noise.size:
            # Noise variance is proportional to the bandwidth, one over the dwell time.
            dwell_noise, dwell_image = (float(heads["sample_time_us"][kind[0]]) for kind in (noise, image))
            if dwell_noise > 0 and dwell_image > 0:
                ratio = dwell_noise / dwell_image / _relative_noise_bandwidth(header)
            else:
                notes.append(f"{path}: sample_time_us is not given; noise scan taken to have the bandwidth of the data")
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
            undersampled=undersampled,
            pixel_spacing_mm=layout.pixel_spacing_mm,
            slice_spacing_mm=slice_spacing(_places(heads[image], slices)),
            notes=tuple(notes),
        )


def _group(path: Path, file: h5py.File) -> str:
    groups = [name for name in file if isinstance(file.get(name), h5py.Group) and {"data", "xml"} <= {*file[name]}]
    if not groups:
        raise UserError(f"{path}: found {', '.join(file) or 'nothing'} in it, allowed an ISMRMRD group of data and xml")
    if len(groups) > 1 and "dataset" not in groups:
        raise UserError(f"{path}: found several ISMRMRD groups, {', '.join(groups)}; allowed one, or one named dataset")
    return "dataset" if "dataset" in groups else groups[0]


def _heads(path: Path, data: h5py.Dataset) -> np.ndarray:
    """Headers of all acquisitions, without their data."""
    from ismrmrd.hdf5 import acquisition_header_dtype

    names = data.dtype.names or ()
    heads = data.dtype["head"].names or () if {"head", "data"} <= {*names} else ()
    if data.ndim != 1 or not {*acquisition_header_dtype.names} <= {*heads}:
        raise UserError(f"{path}: found no acquisitions in '{data.name}', allowed an ISMRMRD file")
    return data.fields("head")[()]


def _header(path: Path, group: h5py.Group) -> Any:
    import ismrmrd

    try:
        return ismrmrd.xsd.CreateFromDocument(group["xml"][0])
    except Exception as error:  # the parsers behind it raise errors of many kinds
        raise UserError(f"{path}: the XML header cannot be read ({error})") from error


def _flagged(heads: np.ndarray, *flags: str) -> np.ndarray:
    from ismrmrd import constants

    bits = sum(1 << (getattr(constants, flag) - 1) for flag in flags)
    return (heads["flags"] & np.uint64(bits)) != 0


def _subject(header: Any) -> str:
    return str(getattr(header.subjectInformation, "patientID", None) or "").strip()


def _places(heads: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """Of slices along their normal, in mm."""
    first_heads = heads[[np.flatnonzero(heads["idx"]["slice"] == number)[0] for number in slices]]
    return first_heads["position"] @ first_heads["slice_dir"][0]


def _relative_noise_bandwidth(header: Any) -> float:
    return getattr(header.acquisitionSystemInformation, "relativeReceiverNoiseBandwidth", None) or 1.0


def _encoding(path: Path, header: Any, heads: np.ndarray) -> Any:
    """The encoding of the image's acquisitions, after a look at what is not 2D Cartesian cine."""
    spaces = np.unique(heads["encoding_space_ref"])
    if len(spaces) > 1 or spaces[0] >= len(header.encoding):
        raise UserError(f"{path}: found encoding spaces {_listed(spaces)}, allowed one, described in the header")
    encoding = header.encoding[spaces[0]]
    trajectory = getattr(encoding.trajectory, "value", encoding.trajectory)
    if trajectory != "cartesian":
        raise UserError(f"{path}: found a {trajectory} trajectory, allowed cartesian")
    for counter, meaning in (("kspace_encode_step_2", "3D"), ("contrast", "echoes"), ("set", "flow encodings")):
        values = np.unique(heads["idx"][counter])
        if len(values) > 1:
            raise UserError(f"{path}: found {len(values)} values of idx.{counter} ({meaning}), allowed one")
    if _flagged(heads, "ACQ_IS_REVERSE").any():
        raise UserError(f"{path}: found reversed readouts (EPI), allowed readouts of one direction")
    return encoding


def _check_coils(path: Path, heads: np.ndarray) -> None:
    for field in ("active_channels", "channel_mask"):
        values = np.unique(heads[field], axis=0)
        if len(values) > 1:
            found = _listed(values) if values.ndim == 1 else f"{len(values)} different ones"
            raise UserError(f"{path}: coils differ between acquisitions: {field}: found {found}, allowed one")


def _listed(values: np.ndarray) -> str:
    return ", ".join(map(str, values))


@dataclass(frozen=True)
class _Layout:
    """Where acquisitions lie in k-space (H, W, T)."""

    matrix: Tuple[int, int]
    num_phases: int
    time_counter: str
    oversampled_width: int
    samples: slice  # of an acquisition, those that count
    readout: range  # where they lie in the oversampled readout
    first_line: int  # where kspace_encode_step_1 = 0 lies in W; may be negative
    pixel_spacing_mm: Tuple[float, float]

    @staticmethod
    def of(path: Path, encoding: Any, heads: np.ndarray, undersampled: bool) -> "_Layout":
        encoded, recon = encoding.encodedSpace, encoding.reconSpace
        oversampled_width, width = encoded.matrixSize.x, encoded.matrixSize.y
        fov = {"encoded": encoded.fieldOfView_mm, "recon": recon.fieldOfView_mm}
        for name, size in fov.items():
            if not (size.x > 0 and size.y > 0):
                raise UserError(f"{path}: header: {name} field of view: found {size.x} x {size.y} mm, allowed above 0")
        # The recon matrix may be interpolated: the fields of view tell the oversampling.
        height = min(round(oversampled_width * fov["recon"].x / fov["encoded"].x), oversampled_width)
        if min(height, width) < 1:
            raise UserError(f"{path}: header: encoded matrix: found {oversampled_width} x {width}, allowed above 0")

        fields = ("number_of_samples", "center_sample", "discard_pre", "discard_post", "sample_time_us")
        for field in fields:
            values = np.unique(heads[field])
            if len(values) > 1:
                raise UserError(f"{path}: readouts differ: {field}: found {_listed(values[:5])}, allowed one value")
        num_samples, center, pre, post = (int(heads[field][0]) for field in fields[:4])
        first = oversampled_width // 2 - center
        readout = range(first + pre, first + num_samples - post)
        if not readout or readout[0] < 0 or readout[-1] >= oversampled_width:
            raise UserError(
                f"{path}: {num_samples} samples with center_sample {center} do not fit into the encoded matrix of "
                f"{oversampled_width} along the readout"
            )

        limits = encoding.encodingLimits
        center_line = getattr(getattr(limits, "kspace_encoding_step_1", None), "center", width // 2)
        first_line = width // 2 - center_line
        lines = heads["idx"]["kspace_encode_step_1"].astype(int) + first_line
        if lines.min() < 0 or lines.max() >= width:
            raise UserError(
                f"{path}: lines {lines.min() - first_line} to {lines.max() - first_line} around center {center_line} "
                f"do not fit into the encoded matrix of {width} along the phase encode"
            )
        counter, num_phases = _time(path, limits, heads, undersampled)
        return _Layout(
            matrix=(height, width),
            num_phases=num_phases,
            time_counter=counter,
            oversampled_width=oversampled_width,
            samples=slice(pre, num_samples - post),
            readout=readout,
            first_line=first_line,
            pixel_spacing_mm=(fov["recon"].x / height, fov["encoded"].y / width),
        )

    @property
    def sampled_along_readout(self) -> np.ndarray:
        """(H,), bool: False where an asymmetric echo holds no sample."""
        height = self.matrix[0]
        position = self.oversampled_width // 2 + (np.arange(height) - height // 2) * self.oversampled_width / height
        return (position >= self.readout[0]) & (position <= self.readout[-1])


def _time(path: Path, limits: Any, heads: np.ndarray, undersampled: bool) -> Tuple[str, int]:
    """The counter of cardiac phases, and how many there are."""
    phases, repetitions = (int(heads["idx"][counter].max()) + 1 for counter in ("phase", "repetition"))
    limit: Optional[Any] = getattr(limits, "phase", None)
    # What a fully sampled scan announces should be there; then a phase missing at the end is noticed too.
    announced = 0 if limit is None or undersampled else int(limit.maximum) + 1
    if max(phases, announced) == 1:
        if repetitions == 1:
            raise UserError(f"{path}: no cardiac phases: found 1 in idx.phase and idx.repetition, allowed 2 or more")
        return "repetition", repetitions
    if repetitions > 1:
        raise UserError(
            f"{path}: found {phases} phases and {repetitions} repetitions, allowed more than one of one of them"
        )
    return "phase", max(phases, announced)


@dataclass(frozen=True)
class _File:
    """An opened file: loads one slice at a time."""

    path: Path
    group: str
    heads: np.ndarray
    noise: np.ndarray
    image: np.ndarray
    layout: _Layout
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
        """Blocks of acquisitions: their indices, and data (acquisition, coil, sample)."""
        runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
        with reading(self.path, "an HDF5 file"), h5py.File(self.path, "r") as file:
            stored = file[self.group]["data"].fields("data")
            for run in runs:
                for at in range(0, len(run), _BLOCK):
                    block = run[at : at + _BLOCK]
                    yield block, self._as_array(stored[block[0] : block[-1] + 1], block)

    def _as_array(self, records: np.ndarray, indices: np.ndarray) -> np.ndarray:
        heads = self.heads[indices]
        shapes = np.unique(np.stack([heads["active_channels"], heads["number_of_samples"]], 1), axis=0).astype(int)
        if len(shapes) > 1:  # noise scans of different length, say; of the image they are equal
            raise UserError(f"{self.path}: noise scans of different length, allowed one")
        sizes = {len(record) for record in records}
        if sizes != {2 * int(np.prod(shapes[0]))}:
            raise UserError(f"{self.path}: acquisition {indices[0]}: data do not agree with the number of samples")
        return np.stack(list(records)).view(np.complex64).reshape(-1, *shapes[0])
