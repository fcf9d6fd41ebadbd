"""What every reader hands over: Cartesian k-space of one scan, slice by slice, and which of it was sampled."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.fft import centered_fft, centered_ifft

__all__ = [
    "SAME_PLACE_MM",
    "RawScan",
    "RawSlice",
    "are_neighbors",
    "complete",
    "find_files",
    "remove_oversampling",
    "slice_spacing",
    "stem",
]

#: Slices nearer than this are one.
SAME_PLACE_MM = 0.1
_MOST_MISSING = 0.25  # of all lines; where more is missing, it was not lost but never meant to be sampled


@dataclass(frozen=True)
class RawSlice:
    """k-space (H, W, T, C), complex64, zero where not sampled; ``sampled`` (H or 1, W, T), bool."""

    kspace: np.ndarray
    sampled: np.ndarray


@dataclass(frozen=True)
class RawScan:
    """One file (or folder of images), opened: what is known without reading its data.

    Args:
        path: The file.
        subject_id: Whom it shows; scans of one subject are never on two sides of a split.
        num_slices: Number of slices S.
        load_slice: Reads one slice, by its index from 0.
        names_subject: Whether the file says whom it shows; else ``subject_id`` is its name.
        simulated: Whether its k-space is simulated. :class:`meddlr_greedy.preparation.sources.Source` sets it.
        undersampled: Whether it was acquired so, on purpose: it keeps its sampling mask and has no target.
        mask_file: Of what was sampled, where it is a file of its own.
        pixel_spacing_mm: Along readout and phase encode, where known.
        slice_spacing_mm: From the center of a slice to that of the next, where known.
        frame_time_ms: Time between cardiac phases, where known.
        notes: What a user should know of this file.
    """

    path: Path
    subject_id: str
    num_slices: int
    load_slice: Callable[[int], RawSlice]
    names_subject: bool = True
    simulated: bool = False
    undersampled: bool = False
    mask_file: Optional[Path] = None
    pixel_spacing_mm: Optional[Tuple[float, float]] = None
    slice_spacing_mm: Optional[float] = None
    frame_time_ms: Optional[float] = None
    notes: Tuple[str, ...] = ()


def stem(path: Path) -> str:
    """The name of a folder, or of a file without what tells its format."""
    return path.name if path.is_dir() else re.sub(r"\.(nii\.gz|[^.]+)$", "", path.name, flags=re.IGNORECASE)


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


def remove_oversampling(readouts: np.ndarray, width: int) -> np.ndarray:
    """Keeps the central ``width`` of the N image points of centered readouts (..., N), and their intensities."""
    image = centered_ifft(torch.from_numpy(readouts), dims=(-1,))
    first = readouts.shape[-1] // 2 - width // 2
    return centered_fft(image[..., first : first + width], dims=(-1,)).numpy()


def slice_spacing(places: np.ndarray) -> Optional[float]:
    """Distance of slices from one to the next, from their places along the normal in mm; ``None`` where it varies."""
    distances = np.abs(np.diff(places))
    if not distances.size or distances.min() <= SAME_PLACE_MM or np.ptp(distances) > SAME_PLACE_MM:
        return None
    return float(distances.mean())


def are_neighbors(slices: Sequence[int]) -> bool:
    """Whether no slice is left out, so that the spacing of the scan is that of these."""
    return all(after == before + 1 for before, after in zip(slices[:-1], slices[1:]))


def complete(raw: RawSlice, missing: str, where: str) -> Tuple[RawSlice, List[str]]:
    """A slice that should be fully sampled, with every line there is in any cardiac phase in all of them.

    Lines at the edge of k-space that no phase has are partial Fourier or zero padding: they stay zero.

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
    acquired = np.flatnonzero(lines.any(axis=1))
    if not acquired.size:
        raise UserError(f"{where}: found nothing but zeros in k-space")
    expected = np.arange(acquired[0], acquired[-1] + 1)
    hint = "allowed every line of every phase; for data undersampled on purpose give --undersampled"
    never = np.setdiff1d(expected, acquired)
    if never.size:
        raise UserError(f"{where}: lines {_ranges(never)} are in no cardiac phase, {hint}")
    absent = ~lines[expected]
    if not absent.any():
        partial = len(expected) < len(lines)
        return raw, [f"{where}: lines {_ranges(expected)} of {len(lines)} sampled"] if partial else []
    found = "; ".join(
        f"phase {phase} is missing"
        if absent[:, phase].all()
        else f"phase {phase} lacks lines {_ranges(expected[absent[:, phase]])}"
        for phase in np.flatnonzero(absent.any(axis=0))
    )
    if absent.mean() > _MOST_MISSING:
        raise UserError(f"{where}: {absent.mean():.0%} of the lines are missing, {hint}")
    if missing != "fill":
        raise UserError(f"{where}: {found}; {hint}, or --missing fill to take them from the nearest phase")

    kspace, sampled, num_phases = raw.kspace.copy(), raw.sampled.copy(), lines.shape[1]
    for line, phase in zip(*np.nonzero(absent)):
        having = np.flatnonzero(~absent[line])
        behind = (phase - having) % num_phases
        nearest = having[np.lexsort((behind, np.minimum(behind, num_phases - behind)))[0]]
        for array, source in ((kspace, raw.kspace), (sampled, raw.sampled)):
            array[:, expected[line], phase] = source[:, expected[line], nearest]
    return RawSlice(kspace, sampled), [f"{where}: {found}; filled from the nearest phase"]


def _ranges(numbers: np.ndarray) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
