"""Where acquisitions of an ISMRMRD file lie in k-space, and where its slices lie in the scanner."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
from ismrmrd import constants

from meddlr_greedy.errors import UserError
from meddlr_greedy.headers.placement import SAME_PLACE_MM, Placement
from meddlr_greedy.limits import check_declared, check_memory
from meddlr_greedy.readers.formats.ismrmrd_header import Encoding, Header

__all__ = [
    "READOUT_FIELDS",
    "Layout",
    "dwell_time",
    "encoding_of",
    "flagged",
    "listed",
    "ordered_slices",
    "placement_of",
]

#: Of an acquisition's header: how its samples lie along the readout.
READOUT_FIELDS = ("number_of_samples", "center_sample", "discard_pre", "discard_post")
_SAME_DIRECTION = 1e-3
_SAME_DWELL = 1e-3  # relative; scanners compute it in single precision


def flagged(heads: np.ndarray, *flags: str) -> np.ndarray:
    """Which acquisitions have one of the flags, by their names in ``ismrmrd.constants``."""
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


def encoding_of(path: Path, header: Header, heads: np.ndarray) -> Encoding:
    """The encoding of acquisitions, after a look at what is not 2D Cartesian."""
    spaces = np.unique(heads["encoding_space_ref"])
    if len(spaces) > 1 or spaces[0] >= header.num_encodings:
        raise UserError(f"{path}: found encoding spaces {listed(spaces)}, allowed one, described in the header")
    encoding = header.encoding(int(spaces[0]))
    encoding.check_cartesian()
    if encoding.trajectory is None and heads["trajectory_dimensions"].any():
        raise UserError(f"{path}: header: trajectory: found nothing, with coordinates in k-space; allowed cartesian")
    for counter, meaning in (("kspace_encode_step_2", "3D"), ("contrast", "echoes"), ("set", "flow encodings")):
        values = np.unique(heads["idx"][counter])
        if len(values) > 1:
            raise UserError(f"{path}: found {len(values)} values of idx.{counter} ({meaning}), allowed one")
    if flagged(heads, "ACQ_IS_REVERSE").any():
        raise UserError(f"{path}: found reversed readouts (EPI), allowed readouts of one direction")
    return encoding


@dataclass(frozen=True)
class Layout:
    """Where acquisitions lie in k-space (H, W)."""

    matrix: Tuple[int, int]
    oversampled_width: int
    samples: slice  # of an acquisition, those that count
    readout: range  # where they lie in the oversampled readout
    first_line: int  # where kspace_encode_step_1 = 0 lies in W; may be negative
    pixel_spacing_mm: Tuple[float, float]

    @staticmethod
    def of(path: Path, encoding: Encoding, heads: np.ndarray, num_phases: int = 1) -> "Layout":
        """The layout of a group of acquisitions, by the XML header and their own.

        Args:
            path: The file, for messages.
            encoding: Their encoding.
            heads: Their headers.
            num_phases: Cardiac phases, which have to fit into memory.

        Raises:
            UserError: Headers disagree, or hold numbers that make no sense.
        """
        oversampled_width, width = encoding.matrix
        height = encoding.height(oversampled_width)
        samples, readout = _readout(path, oversampled_width, heads)
        center_line = width // 2 if encoding.center_line is None else encoding.center_line
        first_line = width // 2 - center_line
        lines = heads["idx"]["kspace_encode_step_1"].astype(int) + first_line
        if lines.min() < 0 or lines.max() >= width:
            raise UserError(
                f"{path}: lines {lines.min() - first_line} to {lines.max() - first_line} around center {center_line} "
                f"do not fit into the encoded matrix of {width} along the phase encode"
            )
        num_bytes = 8 * int(heads["active_channels"][0]) * oversampled_width * width * num_phases
        check_declared(f"{path}: k-space of a slice", num_bytes, path.stat().st_size)
        check_memory(f"{path}: k-space of a slice", num_bytes)
        return Layout(
            matrix=(height, width),
            oversampled_width=oversampled_width,
            samples=samples,
            readout=readout,
            first_line=first_line,
            # Removal of the oversampling keeps the points where they are, also where it leaves a broken number of them.
            pixel_spacing_mm=(encoding.fov_mm[0] / oversampled_width, encoding.fov_mm[1] / width),
        )

    @property
    def sampled_along_readout(self) -> np.ndarray:
        """(H,), bool: False where an asymmetric echo holds no sample."""
        height = self.matrix[0]
        position = self.oversampled_width // 2 + (np.arange(height) - height // 2) * self.oversampled_width / height
        return (position >= self.readout[0]) & (position <= self.readout[-1])


def _readout(path: Path, oversampled_width: int, heads: np.ndarray) -> Tuple[slice, range]:
    """Which samples of each acquisition count, and where they lie in the oversampled readout."""
    for field in READOUT_FIELDS:
        values = np.unique(heads[field])
        if len(values) > 1:
            raise UserError(f"{path}: readouts differ: {field}: found {listed(values[:5])}, allowed one value")
    dwell_time(path, heads)
    num_samples, center, pre, post = (int(heads[field][0]) for field in READOUT_FIELDS)
    first = oversampled_width // 2 - center
    readout = range(first + pre, first + num_samples - post)
    if not readout or readout[0] < 0 or readout[-1] >= oversampled_width:
        raise UserError(
            f"{path}: {num_samples} samples with center_sample {center} do not fit into the encoded matrix of "
            f"{oversampled_width} along the readout"
        )
    return slice(pre, num_samples - post), readout
