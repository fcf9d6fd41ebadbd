"""Which scans the images of a folder are: of several series and views, some of them in parts, some acquired twice.

A *part* is what one series has of one view: images of one kind, orientation, matrix, pixel spacing and direction of
phase encoding. Parts of phase images are left out, and parts with one image at each place, which are no cine.

Scanners export a stack of slices as one series, or as one series for each slice. So parts of several series come
together where nothing but their places tells them apart: they have patient, study, view and description in common.
Numbers in a description do not count, since it may number the slices ("sax_b7").

Where two such parts have a place in common, there are two cases. As many phases, at trigger times that are the same up
to a tenth of the cycle: the slice was acquired again, because a breath-hold had failed, say. The later one is taken,
and a note tells of the other. Else it is another acquisition (under stress, say), which becomes a scan of its own: a
part goes to the first scan in which its places are free.
"""

import re
from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, TypeVar

import numpy as np

from meddlr_greedy.headers.placement import SAME_PLACE_MM
from meddlr_greedy.readers.formats.image_dicom_files import listed, named
from meddlr_greedy.readers.formats.image_dicom_frames import Frame, Series

__all__ = ["Scan", "scans_among", "slices_of"]

_SAME_DIRECTION = 1e-3
_SAME_SPACING = 1e-3  # relative; exported numbers are rounded
_SAME_TIMES = 0.1  # of the last trigger time; the heart does not beat evenly
_LONGEST_NAME = 40

_T = TypeVar("_T")
_Slice = Tuple[float, List[Frame]]  # its place along the normal in mm


class Scan(NamedTuple):
    """A cine series of magnitude: its images in order of their files, and what a user should know of it."""

    frames: Tuple[Frame, ...]
    notes: Tuple[str, ...] = ()

    @property
    def files(self) -> List[Path]:
        """The files of its images."""
        return _files(self.frames)

    @property
    def series(self) -> Series:
        """The first of its series."""
        return min(self.frames, key=_when).series


def scans_among(place: Path, frames: Iterable[Frame]) -> Tuple[Dict[str, Scan], List[str]]:
    """Sorts images into scans.

    Args:
        place: Where they are, for notes.
        frames: The images, in order of their files.

    Returns:
        The scans by their names: by number of the series or, where there is none, its description. And what is left
        out of them, and why.
    """
    left_out: Dict[str, List[Path]] = {}
    series: Dict[Tuple[object, ...], List[Frame]] = {}
    for frame in frames:
        series.setdefault(frame.series.key, []).append(frame)
    parts = []
    for part in (part for images in series.values() for part in _grouped(images, _same_view)):
        kind, slices = part[0].kind, slices_of(part)
        if kind == "magnitude" and max(len(images) for _, images in slices) > 1:
            parts.append(part)
        else:
            why = "one cardiac phase" if kind == "magnitude" else f"{kind} images"
            left_out.setdefault(why, []).extend(_files(part))
    scans = [scan for same in _grouped(parts, _same_protocol) for scan in _stacks(place, same)]
    return _with_names(place, scans), [f"{why}: {named(sorted(set(files)))}" for why, files in left_out.items()]


def slices_of(frames: Sequence[Frame], normal: Optional[np.ndarray] = None) -> List[_Slice]:
    """The images of each slice, in order of the slices' places along their normal, with these places in mm."""
    normal = frames[0].normal if normal is None else normal
    places = np.array([normal @ np.array(frame.position_mm) for frame in frames])
    order = np.argsort(places, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(places[order]) > SAME_PLACE_MM) + 1)
    return [(float(places[group].mean()), [frames[i] for i in group]) for group in groups]


def _grouped(items: Iterable[_T], same: Callable[[_T, _T], bool]) -> List[List[_T]]:
    """Groups of items that are the same as the first one of the group."""
    groups: List[List[_T]] = []
    for item in items:
        for group in groups:
            if same(group[0], item):
                group.append(item)
                break
        else:
            groups.append([item])
    return groups


def _same_view(first: Frame, second: Frame) -> bool:
    return (
        (first.kind, first.shape, first.phase_along_columns) == (second.kind, second.shape, second.phase_along_columns)
        and all(abs(a - b) <= _SAME_SPACING * a for a, b in zip(first.spacing_mm, second.spacing_mm))
        and all(abs(a - b) <= _SAME_DIRECTION for a, b in zip(first.orientation, second.orientation))
    )


def _same_protocol(first: List[Frame], second: List[Frame]) -> bool:
    a, b = first[0].series, second[0].series
    names = [re.sub(r"\d+", "", series.description).casefold() for series in (a, b)]
    return (a.patient, a.study, names[0]) == (b.patient, b.study, names[1]) and _same_view(first[0], second[0])


def _same_times(first: Sequence[Frame], second: Sequence[Frame]) -> bool:
    if len(first) != len(second):
        return False
    a, b = (np.sort([frame.trigger_ms or 0 for frame in images]) for images in (first, second))
    return bool(np.abs(a - b).max() <= _SAME_TIMES * max(np.abs(a).max(), np.abs(b).max()))


def _stacks(place: Path, parts: List[List[Frame]]) -> List[Scan]:
    """The scans that parts of one protocol make up."""
    stacks: List[List[_Slice]] = []
    notes: List[List[str]] = []
    for part in sorted(parts, key=_acquired):
        slices = slices_of(part, parts[0][0].normal)
        for stack, told in zip(stacks, notes):
            met = [(old, new) for old in stack for new in slices if abs(old[0] - new[0]) <= SAME_PLACE_MM]
            if all(_same_times(old[1], new[1]) for old, new in met):
                again = {id(old): old[1] for old, _ in met}
                stack[:] = [old for old in stack if id(old) not in again] + slices
                for old in again.values():
                    told.append(
                        f"{place}: left out, {old[0].series} was acquired again as {part[0].series}: "
                        f"{named(_files(old))}"
                    )
                break
        else:
            stacks.append(slices)
            notes.append([])
    scans = []
    for stack, told in zip(stacks, notes):
        frames = sorted((frame for _, images in stack for frame in images), key=lambda frame: frame[:2])
        series = list(dict.fromkeys(str(frame.series) for frame in sorted(frames, key=_when)))
        if len(series) > 1:
            told.append(f"{place}: one scan of several series: {listed(series)}")
        scans.append(Scan(tuple(frames), tuple(told)))
    return scans


def _acquired(part: Sequence[Frame]) -> Tuple[str, int]:
    number = part[0].series.number
    return min(frame.acquired for frame in part), -1 if number is None else number


def _when(frame: Frame) -> Tuple[int, str, Path]:
    """Orders images as their series are numbered."""
    return -1 if frame.series.number is None else frame.series.number, frame.acquired, frame.path


def _files(frames: Sequence[Frame]) -> List[Path]:
    return sorted({frame.path for frame in frames})


def _with_names(place: Path, scans: Sequence[Scan]) -> Dict[str, Scan]:
    """Scans by names that can be parts of file names, hold no dot, and name no file there."""
    ordered = sorted(scans, key=lambda scan: min(map(_when, scan.frames)))
    names = [_name(scan.series) for scan in ordered]
    with_names = {}
    for i, (name, scan) in enumerate(zip(names, ordered)):
        full = f"{name}-{names[: i + 1].count(name)}" if names.count(name) > 1 else name
        while (place / full).exists():
            full += "_"
        with_names[full] = scan
    return with_names


def _name(series: Series) -> str:
    if series.number is not None:
        return f"s{series.number:04d}"
    return re.sub("[^A-Za-z0-9]+", "_", series.description)[:_LONGEST_NAME].strip("_") or "scan"
