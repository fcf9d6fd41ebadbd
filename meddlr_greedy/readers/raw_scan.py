"""What every reader hands over: Cartesian k-space of one scan, slice by slice, and which of it was sampled."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.headers.placement import SAME_PLACE_MM, Placement, check_placement
from meddlr_greedy.headers.study import ATTRIBUTE, check_study
from meddlr_greedy.limits import MOST_SLICES, check_memory, is_length

__all__ = [
    "Calibration",
    "RawScan",
    "RawSlice",
    "are_neighbors",
    "check_scan",
    "check_slice",
    "complete",
    "find_files",
    "not_zero",
    "plain_text",
    "ranges",
    "remove_oversampling",
    "slice_spacing",
    "stem",
]

_NOT_PLAIN = re.compile("[\\x00-\\x1f\\x7f\\ud800-\\udfff]")
_FEW_ZEROS = 0.9  # a sampled line may hold zeros by chance; below this it was sampled in part
_HINT = "allowed every line of every phase; for data undersampled on purpose give --undersampled"
_MOST_MISSING = 0.25  # of all lines; where more is missing, it was not lost but never meant to be sampled


class Calibration(NamedTuple):
    """The center of k-space, acquired for coil maps and not for the image.

    Attributes:
        kspace: (H, W, C), complex64: centered, on the grid of the image's k-space, of the same coils.
        sampled: (H, W), bool.
    """

    kspace: np.ndarray
    sampled: np.ndarray


@dataclass(frozen=True)
class RawSlice:
    """One slice as it was measured.

    Args:
        kspace: (H, W, T, C), complex64, zero where not sampled; of a static scan T is 1.
        sampled: (H or 1, W, T), bool.
        calibration: What coil maps are estimated of where the image's own lines leave gaps in the center.
    """

    kspace: np.ndarray
    sampled: np.ndarray
    calibration: Optional[Calibration] = None


@dataclass(frozen=True)
class RawScan:
    """One file (or folder of images), opened: what is known without reading its data.

    Args:
        path: The file.
        subject_id: Whom it shows; scans of one subject are never on two sides of a split.
        num_slices: Number of slices S.
        load_slice: Reads one slice, by its index from 0.
        names_subject: Whether the file says whom it shows; else ``subject_id`` is its name.
        is_cine: Whether it is a series; a static scan becomes 2D images.
        simulated: Whether its k-space is simulated. :class:`meddlr_greedy.preparation.sources.Source` sets it.
        undersampled: Whether it was acquired so, on purpose: it keeps its sampling mask and has no target.
        mask_file: Of what was sampled, where it is a file of its own.
        other_files: Further files that tell something of it. A scan made with others counts as another one.
        pixel_spacing_mm: Along readout and phase encode, where known.
        slice_spacing_mm: From the center of a slice to that of the next, of a single one its thickness, where known.
        frame_time_ms: Time between cardiac phases, where known.
        placement: Where the slices lie in the patient, where known.
        dicom: What is kept of the study, see :mod:`meddlr_greedy.headers.study`.
        notes: What a user should know of this file.
    """

    path: Path
    subject_id: str
    num_slices: int
    load_slice: Callable[[int], RawSlice]
    names_subject: bool = True
    is_cine: bool = True
    simulated: bool = False
    undersampled: bool = False
    mask_file: Optional[Path] = None
    other_files: Tuple[Path, ...] = ()
    pixel_spacing_mm: Optional[Tuple[float, float]] = None
    slice_spacing_mm: Optional[float] = None
    frame_time_ms: Optional[float] = None
    placement: Optional[Placement] = None
    dicom: Mapping[str, Any] = field(default_factory=dict)
    notes: Tuple[str, ...] = ()


def check_scan(scan: RawScan) -> None:
    """Checks what a reader says of a scan, whatever its format.

    Raises:
        UserError: There are no slices or absurdly many, a spacing or the frame time cannot be one, the placement is
            none of these slices, or what is kept of the study cannot be.
    """
    if not 1 <= scan.num_slices <= MOST_SLICES:
        raise UserError(f"{scan.path}: found {scan.num_slices} slices, allowed 1 to {MOST_SLICES}")
    for name, found in (
        ("pixel spacing in mm", scan.pixel_spacing_mm),
        ("slice spacing in mm", scan.slice_spacing_mm),
        ("frame time in ms", scan.frame_time_ms),
    ):
        for value in found if isinstance(found, tuple) else () if found is None else (found,):
            if not is_length(value):
                raise UserError(f"{scan.path}: {name}: found {value:g}, allowed a positive number in proportion")
    wrong = check_placement(scan.placement.as_attributes() if scan.placement else {}, scan.num_slices)
    if wrong:
        raise UserError(f"{scan.path}: {wrong}")
    wrong = check_study(scan.dicom)
    if wrong:
        raise UserError(f"{scan.path}: {ATTRIBUTE}: {wrong}")


def check_slice(where: str, raw: RawSlice, is_cine: bool = True) -> None:
    """Checks the arrays that a reader gives for a slice, whatever its format.

    Args:
        where: The file and slice, for messages.
        raw: The slice.
        is_cine: Whether it may have several cardiac phases.

    Raises:
        UserError: Their types or shapes are not those of :class:`RawSlice`, or k-space is not finite.
    """
    kspace, sampled = raw.kspace, raw.sampled
    if kspace.dtype != np.complex64 or kspace.ndim != 4 or 0 in kspace.shape:
        raise UserError(f"{where}: k-space: found {kspace.dtype} of shape {kspace.shape}, allowed complex64 of 4 axes")
    if not is_cine and kspace.shape[2] != 1:
        raise UserError(f"{where}: k-space: found {kspace.shape[2]} cardiac phases, allowed 1 in a static scan")
    height, *others = kspace.shape[:3]
    if sampled.dtype != bool or sampled.shape not in ((1, *others), (height, *others)):
        raise UserError(
            f"{where}: sampled: found {sampled.dtype} of shape {sampled.shape}, allowed bool (H or 1, W, T) of k-space "
            f"{kspace.shape}"
        )
    if raw.calibration is not None:
        plane = (*kspace.shape[:2], kspace.shape[3])
        found = [(array.dtype, array.shape) for array in raw.calibration]
        if found != [(np.dtype(np.complex64), plane), (np.dtype(bool), plane[:2])]:
            raise UserError(f"{where}: calibration: found {found}, allowed complex64 {plane} and bool {plane[:2]}")
    check_memory(where, 4 * kspace.nbytes)
    if not np.isfinite(kspace).all():
        raise UserError(f"{where}: found NaN or infinite values in k-space, allowed finite ones")


def plain_text(text: str) -> str:
    """A text that can be written anywhere: bytes of a path that are not UTF-8, and control characters, become "%FF"."""
    return _NOT_PLAIN.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", text)


def stem(path: Path) -> str:
    """The name of a folder, or of a file without what tells its format."""
    name = path.name if path.is_dir() else re.sub(r"\.(nii\.gz|[^.]+)$", "", path.name, flags=re.IGNORECASE)
    return plain_text(name)


def find_files(
    inputs: Sequence[str], suffixes: Tuple[str, ...], skip: Optional[Callable[[Path], bool]] = None
) -> List[Path]:
    """The files given, and those of these suffixes in the folders given.

    Args:
        inputs: Files and folders.
        suffixes: In lower case.
        skip: Tells which files in folders are left out.

    Raises:
        UserError: An input does not exist, or a folder holds no such file.
    """
    found: Dict[Path, None] = {}
    for given in map(Path, inputs):
        if given.is_dir():
            files = [p for p in sorted(given.rglob("*")) if p.name.lower().endswith(suffixes) and p.is_file()]
            files = [path for path in files if skip is None or not skip(path)]
            if not files:
                raise UserError(f"{given}: found no {', '.join(suffixes)} file in this folder")
            found.update(dict.fromkeys(files))
        elif given.is_file():
            found[given] = None
        else:
            raise UserError(f"{given}: no such file or folder")
    return list(found)


def not_zero(kspace: np.ndarray) -> np.ndarray:
    """What was sampled of k-space (H, W, T, C), where nothing else tells.

    Returns:
        Bool; (1, W, T) where it is whole lines, (H, W, T) otherwise.
    """
    sampled = (kspace != 0).any(axis=-1)
    share = sampled.mean(axis=0)
    return share[None] > 0 if ((share == 0) | (share > _FEW_ZEROS)).all() else sampled


def remove_oversampling(readouts: np.ndarray, width: int) -> np.ndarray:
    """Keeps the central ``width`` of the N image points of centered readouts (..., N), and their intensities."""
    import torch  # only here: readers are asked for their options, too

    from meddlr_greedy.ops.fft import centered_fft, centered_ifft

    image = centered_ifft(torch.from_numpy(readouts), dims=(-1,))
    first = readouts.shape[-1] // 2 - width // 2
    return centered_fft(image[..., first : first + width], dims=(-1,)).numpy()


def slice_spacing(places: np.ndarray) -> Optional[float]:
    """Distance of slices from one to the next, from their places along the normal in mm; ``None`` where it varies.

    Args:
        places: Of slices in order of their places, up or down.
    """
    distances = np.diff(places)
    distances = -distances if distances.size and distances[0] < 0 else distances
    # Written so that NaN has no spacing.
    if distances.size and distances.min() > SAME_PLACE_MM and np.ptp(distances) <= SAME_PLACE_MM:
        return float(distances.mean())
    return None


def are_neighbors(slices: Sequence[int]) -> bool:
    """Whether no slice is left out, so that the spacing of the scan is that of these."""
    return all(after == before + 1 for before, after in zip(slices[:-1], slices[1:]))


def complete(raw: RawSlice, missing: str, where: str) -> Tuple[RawSlice, List[str]]:
    """A slice that should be fully sampled, with every line there is in any cardiac phase in all of them.

    Lines at the edge of k-space that no phase has are partial Fourier or zero padding: they stay zero. A static scan is
    a series of one phase.

    Args:
        raw: The slice.
        missing: "refuse", or "fill": a missing line, or a whole missing phase, is taken from the nearest phase that
            has it, around the cardiac cycle (of two the earlier).
        where: The file and slice, for messages.

    Returns:
        The slice, and what there is to tell about it.

    Raises:
        UserError: where something is missing and ``missing`` is "refuse", or it looks undersampled.
    """
    lines = raw.sampled.any(axis=0)  # (W, T)
    # The end of a line may be missing (asymmetric echo, corners of k-space), but nothing in between.
    begins = np.diff(raw.sampled, axis=0, prepend=False) & raw.sampled
    if (begins.sum(axis=0) > 1).any():
        raise UserError(f"{where}: found lines with holes along the readout, {_HINT}")
    acquired = np.flatnonzero(lines.any(axis=1))
    if not acquired.size:
        raise UserError(f"{where}: found nothing but zeros in k-space")
    expected = np.arange(acquired[0], acquired[-1] + 1)
    never = np.setdiff1d(expected, acquired)
    if never.size:
        lack = "in no cardiac phase" if lines.shape[1] > 1 else "missing"
        raise UserError(f"{where}: lines {ranges(never)} are {lack}, {_HINT}")
    absent = ~lines[expected]
    if not absent.any():
        partial = len(expected) < len(lines)
        return raw, [f"{where}: lines {ranges(expected)} of {len(lines)} sampled"] if partial else []
    found = "; ".join(
        f"phase {phase} is missing"
        if absent[:, phase].all()
        else f"phase {phase} lacks lines {ranges(expected[absent[:, phase]])}"
        for phase in np.flatnonzero(absent.any(axis=0))
    )
    if absent.mean() > _MOST_MISSING:
        raise UserError(f"{where}: {absent.mean():.0%} of the lines are missing, {_HINT}")
    if missing != "fill":
        raise UserError(f"{where}: {found}; {_HINT}, or --missing fill to take them from the nearest phase")

    kspace, sampled, num_phases = raw.kspace.copy(), raw.sampled.copy(), lines.shape[1]
    for line, phase in zip(*np.nonzero(absent)):
        having = np.flatnonzero(~absent[line])
        behind = (phase - having) % num_phases
        nearest = having[np.lexsort((behind, np.minimum(behind, num_phases - behind)))[0]]
        for array, source in ((kspace, raw.kspace), (sampled, raw.sampled)):
            array[:, expected[line], phase] = source[:, expected[line], nearest]
    filled = replace(raw, kspace=kspace, sampled=sampled)
    return filled, [f"{where}: {found}; filled from the nearest phase"]


def ranges(numbers: Union[Sequence[int], np.ndarray]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
