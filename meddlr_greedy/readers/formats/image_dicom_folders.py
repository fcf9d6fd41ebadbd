"""The paths of scans in DICOM files.

A path stands for a scan. It is the folder, where that holds one scan; else ``<folder>/<name>``, which is no file, but
the name of the scan in that folder. An enhanced file, which holds many images, may stand in the place of the folder.
"""

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Set, Tuple

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.readers.formats.image_dicom_files import dicom_files, holds_image, named, read_dicom
from meddlr_greedy.readers.formats.image_dicom_frames import (
    ATTRIBUTES,
    Frame,
    NoSliceError,
    Series,
    frames_of,
    is_enhanced,
    series_of,
)
from meddlr_greedy.readers.formats.image_dicom_scans import Scan, scans_among

__all__ = ["Content", "content_of", "place_of", "scan_at", "scan_paths"]

_KNOWN_FOLDERS = 256  # whose contents are kept, since each is asked for several times


class Content(NamedTuple):
    """What a folder of DICOM files, or one of these files, holds.

    Attributes:
        scans: By their names.
        left_out: What of its images is in no scan, and why.
        no_images: DICOM files that hold none.
        refused: Why there is no scan though there are images; "" where there is one, or no image.
    """

    scans: Dict[str, Scan]
    left_out: Tuple[str, ...]
    no_images: Tuple[Path, ...]
    refused: str

    def notes(self, place: Path) -> List[str]:
        """What a user should know of the folder or file that holds this."""
        notes = [f"{place}: left out, {text}" for text in self.left_out]
        if self.no_images:
            notes.append(f"{place}: left out, no images: {named(self.no_images)}")
        if len(self.scans) > 1:
            names = ", ".join(f"{name} is {scan.series}" for name, scan in self.scans.items())
            notes.append(f"{place}: holds {len(self.scans)} scans: {names}")
        return notes


def place_of(path: Path) -> Tuple[Path, str]:
    """The folder or file in which a scan lies, and its name there; "" where no other scan does.

    Names of scans hold no dot, and there is no file of that name.
    """
    return (path, "") if path.exists() or path.suffix else (path.parent, path.name)


def scan_paths(given: Path) -> List[Path]:
    """The paths of the scans that a folder, a DICOM file or the path of a scan stands for.

    A file of one image stands for the scan of its folder to which it belongs. Of files that are damaged, and of a file
    that belongs to no scan, the path itself is returned: :func:`scan_at` tells what is wrong.
    """
    place, name = place_of(given)
    if not place.exists():
        return []
    try:
        if given.is_file():
            return _paths_of_file(given) or [given]
        return [path for found, path in _paths(place).items() if name in ("", found)]
    except UserError:
        return [given] if given.exists() else []


def scan_at(path: Path) -> Scan:
    """The scan that a path stands for.

    Raises:
        UserError: It stands for none or for several, or a file is damaged.
    """
    if path.is_file() and not _holds_frames(path):
        paths = _paths_of_file(path)
        if not paths:
            told = content_of(path.parent)
            raise UserError(f"{path}: in no cine series of magnitude ({'; '.join(told.left_out) or told.refused})")
        return scan_at(paths[0])
    place, name = place_of(path)
    content = content_of(place)
    if name in content.scans:
        return content.scans[name]
    if name:
        raise UserError(f"{path}: no such file or folder, and no scan in a folder")
    if len(content.scans) > 1:
        raise UserError(
            f"{path}: found the scans {', '.join(content.scans)}, allowed one: {place / min(content.scans)}"
        )
    for scan in content.scans.values():
        return scan._replace(notes=(*content.notes(place), *scan.notes))
    raise UserError(content.refused or f"{place}: found no DICOM image in it")


def _paths(place: Path) -> Dict[str, Path]:
    scans = content_of(place).scans
    return {name: place / name if len(scans) > 1 else place for name in scans}


def _paths_of_file(file: Path) -> List[Path]:
    if _holds_frames(file):
        return list(_paths(file).values())
    scans = content_of(file.parent).scans
    return [path for name, path in _paths(file.parent).items() if file in scans[name].files]


def _holds_frames(file: Path) -> bool:
    return is_enhanced(read_dicom(file, ATTRIBUTES))


# --- What is in a folder ---


def content_of(place: Path) -> Content:
    """The scans in a folder of DICOM files, or in one of these files.

    Raises:
        UserError: A file is damaged, or lacks what others of its series have.
    """
    with reading(place):
        files = [place] if place.is_file() else [path for path in sorted(place.iterdir()) if path.is_file()]
        states = [(file.name, file.stat()) for file in files]
    return _content(place, tuple((name, state.st_size, state.st_mtime_ns) for name, state in states))


@lru_cache(maxsize=_KNOWN_FOLDERS)
def _content(place: Path, states: Tuple) -> Content:  # noqa: ARG001 (files in another state are other content)
    frames: List[Frame] = []
    no_images: List[Path] = []
    no_slices: Dict[Path, Tuple[Series, NoSliceError]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that break DICOM's rules; those that are used are checked
        for path in [place] if place.is_file() else dicom_files(place):
            read = read_dicom(path, ATTRIBUTES)
            if not holds_image(read):
                no_images.append(path)
                continue
            try:
                frames.extend(frames_of(path, read))
            except NoSliceError as error:
                no_slices[path] = series_of(path, read), error
    _check_series(place, [frame.series for frame in frames], no_slices)
    scans, left_out = scans_among(place, frames)
    if no_slices:
        left_out.append(f"no magnitude images whose place is known: {named(list(no_slices))}")
    refused = ""
    if not scans and not frames and no_slices:
        refused = str(next(iter(no_slices.values()))[1])
    elif not scans and frames:
        refused = f"{place}: found no cine series of magnitude, but {'; '.join(left_out)}"
    return Content(scans, tuple(left_out), tuple(no_images), refused)


def _check_series(place: Path, found: Sequence[Series], no_slices: Dict[Path, Tuple[Series, NoSliceError]]) -> None:
    """Each series is of one patient, and all of its images have a place, or none has.

    A file without series may be one that was cut off.
    """
    patients: Dict[Tuple[object, ...], Set[str]] = {}
    for series in found:
        patients.setdefault(series.key, set()).add(series.patient)
    for names in patients.values():
        if len(names) > 1:
            raise UserError(f"{place}: found {len(names)} patients in one series, allowed one")
    for series, error in no_slices.values():
        if series.key in patients or (found and not series.uid):
            raise error
