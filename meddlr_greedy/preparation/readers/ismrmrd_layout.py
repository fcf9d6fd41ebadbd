"""What the headers of an ISMRMRD file say: where acquisitions lie in k-space, and where slices lie in the scanner."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import h5py
import numpy as np

from meddlr_greedy.data.placement import Placement
from meddlr_greedy.errors import UserError
from meddlr_greedy.hdf5 import check_array
from meddlr_greedy.limits import LARGEST_LENGTH, check_declared, check_memory, is_length
from meddlr_greedy.preparation.raw_scan import SAME_PLACE_MM

__all__ = [
    "Layout",
    "dwell_time",
    "encoding_of",
    "flagged",
    "listed",
    "ordered_slices",
    "placement_of",
    "read_header",
    "relative_noise_bandwidth",
    "study_values",
    "thickness",
]

_LARGEST_COUNT = 65535  # counters of acquisitions have 16 bits
_SAME_DIRECTION = 1e-3
_SAME_DWELL = 1e-3  # relative; scanners compute it in single precision


def read_header(path: Path, group: h5py.Group) -> Any:
    """The XML header, parsed.

    Values of a wrong type stay texts. Those that are used are checked where they are, so that a header is not refused
    for the others.
    """
    import ismrmrd

    check_array(path, group["xml"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ismrmrd.xsd.CreateFromDocument(group["xml"][0])
    except Exception as error:  # the parsers behind it raise errors of many kinds
        raise UserError(f"{path}: the XML header cannot be read ({error})") from error


def _whole(path: Path, name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or not least <= value <= _LARGEST_COUNT:
        found = repr(value)[:100]
        raise UserError(f"{path}: header: {name}: found {found}, allowed a whole number, {least} to {_LARGEST_COUNT}")
    return value


def _length(path: Path, name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or not is_length(value):
        found = repr(value)[:100]
        raise UserError(f"{path}: header: {name}: found {found}, allowed a number above 0, up to {LARGEST_LENGTH:g}")
    return float(value)


def flagged(heads: np.ndarray, *flags: str) -> np.ndarray:
    """Which acquisitions have one of the flags, by their names in ``ismrmrd.constants``."""
    from ismrmrd import constants

    bits = sum(1 << (getattr(constants, flag) - 1) for flag in flags)
    return (heads["flags"] & np.uint64(bits)) != 0


def listed(values: np.ndarray) -> str:
    """Numbers, for messages."""
    return ", ".join(map(str, values))


def dwell_time(path: Path, heads: np.ndarray) -> Optional[float]:
    """The time between samples in microseconds; ``None`` where it is not given.

    Raises:
        UserError: It is no number, or varies.
    """
    times = heads["sample_time_us"].astype(float)
    if not np.isfinite(times).all() or np.ptp(times) > _SAME_DWELL * np.abs(times).max():
        found = listed(np.unique(times)[:5])
        raise UserError(f"{path}: readouts differ: sample_time_us: found {found}, allowed one value")
    return times[0] if times[0] > 0 else None


def relative_noise_bandwidth(path: Path, header: Any) -> float:
    """Noise bandwidth of the receiver over the nominal one; 1 where it is not given."""
    value = getattr(header.acquisitionSystemInformation, "relativeReceiverNoiseBandwidth", None) or 1.0
    return _length(path, "relativeReceiverNoiseBandwidth", value)


def ordered_slices(path: Path, heads: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Numbers of the slices in order of their positions, which are not always acquired so.

    Slices that are numbered along their normal, in either direction, keep their order.

    Args:
        path: The file, for messages.
        heads: Of all acquisitions of the image.

    Returns:
        Numbers (S,), and places along the normal in mm (S,); of one slice, or where the normal is not given, no places.

    Raises:
        UserError: A position or direction is not finite, or directions differ.
    """
    for field in ("position", "read_dir", "phase_dir", "slice_dir"):
        if not np.isfinite(heads[field]).all():
            raise UserError(f"{path}: {field}: found NaN or infinite numbers, allowed finite ones")
    for field in ("read_dir", "phase_dir", "slice_dir"):
        if np.ptp(heads[field], axis=0).max() > _SAME_DIRECTION:
            raise UserError(f"{path}: found slices of several orientations ({field} differs), allowed one")
    slices, firsts = np.unique(heads["idx"]["slice"], return_index=True)
    normal = heads["slice_dir"][0].astype(float)
    length = np.linalg.norm(normal)
    if not length:
        return slices, np.zeros(0)
    places = heads["position"][firsts].astype(float) @ (normal / length)
    steps = np.diff(places)
    if (steps >= -SAME_PLACE_MM).all() or (steps <= SAME_PLACE_MM).all():
        return slices, places
    order = np.argsort(places, kind="stable")
    return slices[order], places[order]


def placement_of(heads: np.ndarray, slices: np.ndarray) -> Optional[Placement]:
    """Where slices of these numbers lie, by the first acquisition of each; ``None`` where directions are not given.

    ``position`` is the center of the field of view, which a centered FFT takes to pixel (H // 2, W // 2).
    """
    directions = [heads[field][0].astype(float) for field in ("read_dir", "phase_dir")]
    lengths = np.linalg.norm(directions, axis=1)
    if not lengths.all():
        return None
    firsts = [np.flatnonzero(heads["idx"]["slice"] == number)[0] for number in slices]
    return Placement(heads["position"][firsts].astype(float), *(np.array(directions) / lengths[:, None]))


def thickness(encoding: Any) -> Optional[float]:
    """Of a slice in mm; ``None`` where it is not given."""
    value = getattr(encoding.reconSpace.fieldOfView_mm, "z", None)
    return float(value) if isinstance(value, (int, float)) and is_length(value) else None


def study_values(header: Any, encoding: Any) -> Dict[str, Any]:
    """What the header says of the study, by keywords of DICOM; ``None`` where it does not."""

    def value(part: str, name: str) -> Any:
        found = getattr(getattr(header, part, None), name, None)
        if isinstance(found, list):  # one for each echo or contrast
            found = found[0] if found else None
        return getattr(found, "value", found)

    return {
        "StudyInstanceUID": value("studyInformation", "studyInstanceUID"),
        "FrameOfReferenceUID": value("measurementInformation", "frameOfReferenceUID"),
        "PatientID": value("subjectInformation", "patientID"),
        "PatientPosition": value("measurementInformation", "patientPosition"),
        "SliceThickness": thickness(encoding),
        "RepetitionTime": value("sequenceParameters", "TR"),
        "EchoTime": value("sequenceParameters", "TE"),
        "InversionTime": value("sequenceParameters", "TI"),
        "FlipAngle": value("sequenceParameters", "flipAngle_deg"),
        "MagneticFieldStrength": value("acquisitionSystemInformation", "systemFieldStrength_T"),
    }


def encoding_of(path: Path, header: Any, heads: np.ndarray) -> Any:
    """The encoding of the image's acquisitions, after a look at what is not 2D Cartesian cine."""
    spaces = np.unique(heads["encoding_space_ref"])
    if len(spaces) > 1 or spaces[0] >= len(header.encoding):
        raise UserError(f"{path}: found encoding spaces {listed(spaces)}, allowed one, described in the header")
    encoding = header.encoding[spaces[0]]
    trajectory = getattr(encoding.trajectory, "value", encoding.trajectory)
    if trajectory != "cartesian":
        raise UserError(f"{path}: found a {trajectory} trajectory, allowed cartesian")
    for counter, meaning in (("kspace_encode_step_2", "3D"), ("contrast", "echoes"), ("set", "flow encodings")):
        values = np.unique(heads["idx"][counter])
        if len(values) > 1:
            raise UserError(f"{path}: found {len(values)} values of idx.{counter} ({meaning}), allowed one")
    if flagged(heads, "ACQ_IS_REVERSE").any():
        raise UserError(f"{path}: found reversed readouts (EPI), allowed readouts of one direction")
    return encoding


@dataclass(frozen=True)
class Layout:
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
    def of(path: Path, encoding: Any, heads: np.ndarray, undersampled: bool) -> "Layout":
        """The layout of a file, by its XML header and the headers of the acquisitions of the image.

        Raises:
            UserError: They disagree, or hold numbers that make no sense.
        """
        oversampled_width, width = (
            _whole(path, f"encodedSpace.matrixSize.{axis}", getattr(encoding.encodedSpace.matrixSize, axis), least=1)
            for axis in ("x", "y")
        )
        fov = _fields_of_view(path, encoding)
        # The recon matrix may be interpolated: the fields of view tell the oversampling.
        oversampling = fov["encodedSpace", "x"] / fov["reconSpace", "x"]
        height = min(round(oversampled_width / oversampling), oversampled_width)
        if height < 1:
            raise UserError(
                f"{path}: header: found an oversampling of {oversampling:g} along {oversampled_width} points"
            )

        fields = ("number_of_samples", "center_sample", "discard_pre", "discard_post")
        for field in fields:
            values = np.unique(heads[field])
            if len(values) > 1:
                raise UserError(f"{path}: readouts differ: {field}: found {listed(values[:5])}, allowed one value")
        dwell_time(path, heads)
        num_samples, center, pre, post = (int(heads[field][0]) for field in fields)
        first = oversampled_width // 2 - center
        readout = range(first + pre, first + num_samples - post)
        if not readout or readout[0] < 0 or readout[-1] >= oversampled_width:
            raise UserError(
                f"{path}: {num_samples} samples with center_sample {center} do not fit into the encoded matrix of "
                f"{oversampled_width} along the readout"
            )

        limits = encoding.encodingLimits
        center_line = getattr(getattr(limits, "kspace_encoding_step_1", None), "center", width // 2)
        center_line = _whole(path, "encodingLimits.kspace_encoding_step_1.center", center_line, least=0)
        first_line = width // 2 - center_line
        lines = heads["idx"]["kspace_encode_step_1"].astype(int) + first_line
        if lines.min() < 0 or lines.max() >= width:
            raise UserError(
                f"{path}: lines {lines.min() - first_line} to {lines.max() - first_line} around center {center_line} "
                f"do not fit into the encoded matrix of {width} along the phase encode"
            )
        counter, num_phases = _time(path, limits, heads, undersampled)
        num_bytes = 8 * int(heads["active_channels"][0]) * oversampled_width * width * num_phases
        check_declared(f"{path}: k-space of a slice", num_bytes, path.stat().st_size)
        check_memory(f"{path}: k-space of a slice", num_bytes)
        return Layout(
            matrix=(height, width),
            num_phases=num_phases,
            time_counter=counter,
            oversampled_width=oversampled_width,
            samples=slice(pre, num_samples - post),
            readout=readout,
            first_line=first_line,
            # Removal of the oversampling keeps the points where they are, also where it leaves a broken number of them.
            pixel_spacing_mm=(fov["encodedSpace", "x"] / oversampled_width, fov["encodedSpace", "y"] / width),
        )

    @property
    def sampled_along_readout(self) -> np.ndarray:
        """(H,), bool: False where an asymmetric echo holds no sample."""
        height = self.matrix[0]
        position = self.oversampled_width // 2 + (np.arange(height) - height // 2) * self.oversampled_width / height
        return (position >= self.readout[0]) & (position <= self.readout[-1])


def _fields_of_view(path: Path, encoding: Any) -> Dict[Tuple[str, str], float]:
    """In mm, by space and axis."""
    return {
        (name, axis): _length(
            path, f"{name}.fieldOfView_mm.{axis}", getattr(getattr(encoding, name).fieldOfView_mm, axis)
        )
        for name in ("encodedSpace", "reconSpace")
        for axis in ("x", "y")
    }


def _time(path: Path, limits: Any, heads: np.ndarray, undersampled: bool) -> Tuple[str, int]:
    """The counter of cardiac phases, and how many there are."""
    phases, repetitions = (int(heads["idx"][counter].max()) + 1 for counter in ("phase", "repetition"))
    limit: Optional[Any] = getattr(limits, "phase", None)
    # What a fully sampled scan announces should be there; then a phase missing at the end is noticed too.
    announced = 0
    if limit is not None and not undersampled:
        announced = _whole(path, "encodingLimits.phase.maximum", limit.maximum, least=0) + 1
    if max(phases, announced) == 1:
        if repetitions == 1:
            raise UserError(f"{path}: no cardiac phases: found 1 in idx.phase and idx.repetition, allowed 2 or more")
        return "repetition", repetitions
    if repetitions > 1:
        raise UserError(
            f"{path}: found {phases} phases and {repetitions} repetitions, allowed more than one of one of them"
        )
    return "phase", max(phases, announced)
