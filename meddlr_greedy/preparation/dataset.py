"""From opened scans to a data set: coil compression, ESPIRiT maps, target, files, splits."""

import functools
import hashlib
import json
import os
import sys
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import h5py
import numpy as np
from tqdm import tqdm

from meddlr_greedy.data.scan_file import write_scan
from meddlr_greedy.errors import UserError, check
from meddlr_greedy.files import WriteError, writing, written_atomically
from meddlr_greedy.preparation.annotations import ScanEntry, annotations
from meddlr_greedy.preparation.readers.scan import RawScan, are_neighbors, stem
from meddlr_greedy.preparation.slice import Preparation, slice_arrays
from meddlr_greedy.preparation.sources import SOURCES, compile_pattern, open_scan, subject_of_path
from meddlr_greedy.preparation.splits import SLICE_BLOCKS, SPLITS, ScanInfo, split_scans
from meddlr_greedy.preparation.workers import in_parallel

__all__ = ["prepare_dataset"]

_DESCRIPTION = "Prepared multi-coil cine"
_FORMAT = 1  # raised when the same parameters come to give other data, so that old files are not taken for new


# --- One file ---


@dataclass(frozen=True)
class _Task:
    """One file to write."""

    source: Path
    opener: Callable[[Path], RawScan]  # can be sent to another process
    preparation: Preparation
    output: Path
    subject_id: str
    split: str
    slices: Tuple[int, ...]
    parameters: Dict[str, Any]  # everything that the content is a function of

    @property
    def attributes(self) -> Dict[str, Any]:
        return {
            "subject_id": self.subject_id,
            "slices": list(self.slices),
            "parameters": json.dumps(self.parameters, sort_keys=True),
        }


def _convert(task: _Task, on_slice: Callable[[], Any] = lambda: None) -> List[str]:
    """Writes one file, whole or not at all; returns what there is to tell about it."""
    scan = task.opener(task.source)
    notes = list(scan.notes)

    def slices() -> Iterator[Dict[str, np.ndarray]]:
        for slice_id in task.slices:
            arrays, told = slice_arrays(scan, slice_id, task.preparation)
            notes.extend(told)
            yield arrays
            on_slice()

    given = task.preparation
    attributes = {
        **task.attributes,
        "pixel_spacing_mm": scan.pixel_spacing_mm or given.pixel_spacing_mm,
        "slice_spacing_mm": scan.slice_spacing_mm if are_neighbors(task.slices) else None,
        "frame_time_ms": scan.frame_time_ms or given.frame_time_ms,
    }
    write_scan(task.output, len(task.slices), slices(), attributes)
    return notes


def _is_done(task: _Task, overwrite: bool) -> bool:
    """Whether the file of this task is there; a UserError where another one is, which may not be replaced."""
    if not task.output.exists():
        return False
    try:
        with h5py.File(task.output, "r") as file:
            found = {name: np.asarray(file.attrs[name]).tolist() for name in task.attributes}
    except (OSError, KeyError):
        found = {}
    if found == task.attributes:
        return True
    if not overwrite:
        raise UserError(
            f"{task.output}: found, made of another file or with other options; allowed a new --output, or --overwrite"
        )
    return False


# --- The data set ---


def prepare_dataset(
    output: os.PathLike,
    source: str,
    inputs: Sequence[Union[str, os.PathLike]],
    preparation: Optional[Preparation] = None,
    options: Optional[Dict[str, Any]] = None,
    split: Optional[Sequence[str]] = None,
    split_seed: Optional[int] = None,
    subject_pattern: Optional[str] = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Writes a data set of measured cine, or of cine simulated from images.

    Args:
        output: Folder of the data set, ``<root>/<name>``.
        source: One of :data:`SOURCES`.
        inputs: Files and folders.
        preparation: What is done with k-space; by default ``Preparation()``.
        options: For the source's ``open_scan``.
        split: As for :func:`split_scans`.
        split_seed: Shuffles the subjects.
        subject_pattern: Regular expression whose first group, found in the path of a file, is the subject.
        jobs: Processes that read files at the same time.
        overwrite: Whether files made of other inputs or with other options are replaced.
        progress: Whether to show a progress bar, and to tell what files are like.

    Returns:
        ``output``.

    Raises:
        UserError: where an argument is not allowed, the output cannot be written, or a file could not be used; the
            others are then there, and those that could not be used have been reported on stderr, one line each.
    """
    check(os.fspath(output) != "", "--output", "''", "the folder of a data set")
    check(jobs >= 1, "--jobs", jobs, "at least 1")
    folder, preparation = Path(output).resolve(), preparation or Preparation()
    _check_folder(folder)
    pattern = compile_pattern(subject_pattern)
    opener = functools.partial(open_scan, source, options or {}, pattern)
    paths = SOURCES[source].find([os.fspath(given) for given in inputs])
    paths = [path for path in paths if folder not in path.resolve().parents]  # the output may lie beside the inputs
    tell = _Teller(progress, single=len(paths) == 1)

    scans = _look_at_all(opener, paths, jobs, tell)
    if not any(scan.usable for scan in scans.values()):
        tell.finish(len(paths))
        raise UserError(f"found no file to prepare in {', '.join(map(str, inputs))}")
    # A file that cannot be used keeps its place: the split of the others is the same with and without it.
    by_path = functools.partial(subject_of_path, source, pattern)
    infos = {name: scan.info or ScanInfo(by_path(scan.path), 0) for name, scan in scans.items()}
    blocks, split_by = split_scans(split, infos, split_seed, train_needed=not _are_undersampled(scans))
    given = {**asdict(preparation), "coil_maps": preparation.coil_maps.parameters}
    parameters = {"format": _FORMAT, "reader": source, **given, **_plain(options or {})}
    tasks = []
    for split_name, name, slices in blocks:
        path = scans[name].path
        if not scans[name].usable:
            continue
        suffix = f"_{split_name}" if split_by == SLICE_BLOCKS else ""
        tasks.append(
            _Task(
                source=path,
                opener=opener,
                preparation=preparation,
                output=folder / "scans" / f"{name}{suffix}.h5",
                subject_id=infos[name].subject_id,
                split=split_name,
                slices=slices,
                parameters={
                    **parameters,
                    **({"mask": scans[name].mask} if scans[name].mask else {}),
                    "source": path.name,
                    "bytes": _size(path),
                },
            )
        )

    waiting, was_there = [task for task in tasks if not _is_done(task, overwrite)], folder.exists()
    try:
        failed = _convert_all(waiting, jobs, tell, folder.name)
        done = [task for task in tasks if task.output not in failed]
        if done:
            _write_annotations(folder, done, split_by, parameters)
    finally:
        for empty in (folder / "scans", *([] if was_there else [folder])):
            with suppress(OSError):
                empty.rmdir()
    if progress and len(waiting) < len(tasks):
        print(f"{output}: {len(tasks) - len(waiting)} of {len(tasks)} files were there; kept")
    tell.finish(len(paths))
    return Path(output)


class _Looked(NamedTuple):
    """What the plan needs to know of a file; ``info`` is ``None`` where it cannot be opened."""

    path: Path
    info: Optional[ScanInfo] = None
    undersampled: bool = False
    mask: Optional[Dict[str, str]] = None  # name and content of its file

    @property
    def usable(self) -> bool:
        return self.info is not None


def _look_at_all(
    opener: Callable[[Path], RawScan], paths: Sequence[Path], jobs: int, tell: "_Teller"
) -> Dict[str, _Looked]:
    """Name of the scan -> what is in the file, in order of ``paths``."""
    looked = {path: _Looked(path) for path in paths}
    with tqdm(total=len(paths), desc="opening", unit="file", disable=not tell.progress) as bar:
        for path, result in in_parallel(functools.partial(_look, opener), paths, jobs):
            bar.update()
            if isinstance(result, UserError):
                tell.failure(path, result)
            else:
                looked[path] = result
    return {name: looked[path] for path, name in _scan_names(paths).items()}


def _look(opener: Callable[[Path], RawScan], path: Path) -> _Looked:
    scan = opener(path)
    mask = None
    if scan.mask_file is not None:  # other masks for the same data have the same size
        mask = {"name": scan.mask_file.name, "sha256": hashlib.sha256(scan.mask_file.read_bytes()).hexdigest()}
    return _Looked(path, ScanInfo(scan.subject_id, scan.num_slices), scan.undersampled, mask)


def _are_undersampled(scans: Dict[str, _Looked]) -> bool:
    kinds = [scan.undersampled for scan in scans.values() if scan.usable]
    if len(set(kinds)) > 1:
        raise UserError(
            f"found {len(kinds) - sum(kinds)} fully sampled and {sum(kinds)} undersampled files, allowed one kind in a "
            "data set"
        )
    return kinds[0]


def _convert_all(tasks: Sequence[_Task], jobs: int, tell: "_Teller", name: str) -> Set[Path]:
    """Writes all files but those that cannot be made, which it returns."""
    failed = set()
    num_slices = sum(len(task.slices) for task in tasks)
    bar = tqdm(total=num_slices, desc=name, unit="slice", disable=not (tell.progress and tasks))
    # Closed, so that nothing more is begun where this ends early.
    with bar, closing(in_parallel(_convert, tasks, jobs, bar.update)) as results:
        for task, result in results:
            if isinstance(result, WriteError):
                raise result
            if isinstance(result, UserError):
                failed.add(task.output)
                tell.failure(task.source, result)
            else:
                tell.notes(result)
    return failed


def _scan_names(paths: Sequence[Path]) -> Dict[Path, str]:
    """A name for each file: its stem and, where files share it, as many folders above it as tell them apart."""
    names = {path: stem(path) for path in paths}
    for depth in range(1, max((len(path.resolve().parts) for path in paths), default=0)):
        counts: Dict[str, int] = {}
        for name in names.values():
            counts[name] = counts.get(name, 0) + 1
        shared = [path for path, name in names.items() if counts[name] > 1]
        if not shared:
            break
        for path in shared:
            names[path] = f"{path.resolve().parts[-1 - depth]}_{names[path]}"
    return names


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder: tells whether a file was replaced, without reading it."""
    return sum(p.stat().st_size for p in path.iterdir() if p.is_file()) if path.is_dir() else path.stat().st_size


def _plain(options: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in options.items() if name != "masks"}  # where masks lie does not matter


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder}: found a file, allowed a folder")
    content = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if not content <= {"scans", "annotations"}:
        raise UserError(
            f"--output: {folder}: found {', '.join(sorted(content))}, allowed a new folder or a prepared one"
        )


def _write_annotations(folder: Path, tasks: Sequence[_Task], split_by: str, parameters: Dict[str, Any]) -> None:
    entries = []
    for task in tasks:
        with h5py.File(task.output, "r") as file:
            size = file["kspace"].shape[1:]
        file_name = task.output.relative_to(folder).as_posix()
        entries.append(ScanEntry(task.split, file_name, task.subject_id, task.slices, size))
    contents = annotations(entries, _DESCRIPTION, split_by, parameters)
    with writing(folder):
        (folder / "annotations").mkdir(exist_ok=True)
        for split in SPLITS:
            path = folder / "annotations" / f"{split}.json"
            if path.name in contents:
                with written_atomically(path) as partial:
                    partial.write_text(contents[path.name])
            else:
                path.unlink(missing_ok=True)


class _Teller:
    """Tells about files, beside a progress bar, and at the end how many could not be used."""

    def __init__(self, progress: bool, single: bool):
        self.progress, self._single = progress, single
        self._failures: List[UserError] = []
        self._told: Set[str] = set()

    def notes(self, notes: Sequence[str]) -> None:
        for note in notes if self.progress else ():
            if note not in self._told:  # several blocks of slices may be of one file
                tqdm.write(f"note: {note}")
            self._told.add(note)

    def failure(self, path: Path, error: UserError) -> None:
        error = error if str(path) in str(error) else UserError(f"{path}: {error}")
        self._failures.append(error)
        if not self._single:  # otherwise it is the line at the end
            tqdm.write(f"error: {error}", file=sys.stderr)

    def finish(self, num_files: int) -> None:
        """Raises a UserError where a file could not be used."""
        if self._failures and self._single:
            raise self._failures[0]
        if self._failures:
            raise UserError(f"{len(self._failures)} of {num_files} files could not be used, see above")
