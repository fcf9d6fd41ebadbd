"""From a source of scans to a data set: <output>/scans/<name>.h5 and <output>/annotations/<split>.json."""

import functools
import hashlib
import os
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import h5py

from meddlr_greedy.errors import UserError, check
from meddlr_greedy.files import WriteError, writing, written_atomically
from meddlr_greedy.preparation.annotations import ScanEntry, annotations
from meddlr_greedy.preparation.progress import ProgressReport
from meddlr_greedy.preparation.raw_scan import stem
from meddlr_greedy.preparation.scan_task import ScanTask, write_file
from meddlr_greedy.preparation.slice import Preparation
from meddlr_greedy.preparation.sources import Source
from meddlr_greedy.preparation.splits import SLICE_BLOCKS, SPLITS, ScanInfo, split_scans
from meddlr_greedy.preparation.workers import in_parallel

__all__ = ["prepare_dataset"]

_DESCRIPTION = "Prepared multi-coil cine"
_FORMAT = 2  # raised when the same parameters come to give other data, so that old files are not taken for new


def prepare_dataset(
    output: os.PathLike,
    source: Source,
    preparation: Optional[Preparation] = None,
    split: Optional[Sequence[str]] = None,
    split_seed: Optional[int] = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Writes a data set; files of it that are there already, made of the same data with the same options, are kept.

    Args:
        output: Folder of the data set, ``<root>/<name>``.
        source: Where the scans come from.
        preparation: What is done with k-space; by default ``Preparation()``.
        split: As for :func:`split_scans`.
        split_seed: Shuffles the subjects.
        jobs: Processes that prepare scans at the same time.
        overwrite: Whether files made of other data or with other options are replaced. Annotations are removed before
            the first of them is, so that no data set holds files of two kinds.
        progress: Whether to show progress bars, and what the user should know about the scans.

    Returns:
        ``output``.

    Raises:
        UserError: An argument is not allowed, the output cannot be written, or a scan cannot be used. In the last case
            the other scans have been prepared, and each that cannot be used has been reported on stderr in one line.
    """
    check(os.fspath(output) != "", "--output", "''", "the folder of a data set")
    check(jobs >= 1, "--jobs", jobs, "at least 1")
    folder, preparation = Path(output).resolve(), preparation or Preparation()
    _check_folder(folder)
    paths = source.find(folder)
    report = ProgressReport(progress, len(paths))
    scans = _open_all(source, paths, jobs, report)
    if not any(scan.usable for scan in scans.values()):
        report.finish()
        raise UserError(f"found no file to prepare in {', '.join(map(str, source.inputs))}")
    # A scan that cannot be used keeps its place: the split of the others is the same with and without it.
    infos = {name: scan.info or ScanInfo(source.subject_by_path(scan.path), 0) for name, scan in scans.items()}
    blocks, split_by = split_scans(split, infos, split_seed, train_needed=not _are_undersampled(scans))
    coil_maps = {"coil_maps": preparation.coil_maps.parameters}
    parameters = {"format": _FORMAT, **source.parameters, **asdict(preparation), **coil_maps}
    tasks = list(_tasks(folder, source, preparation, scans, blocks, split_by, parameters))
    waiting, was_there = [task for task in tasks if not task.is_done(overwrite)], folder.exists()
    try:
        failed = _write_all(folder, waiting, jobs, report)
        done = [task for task in tasks if task.output not in failed]
        if done:
            _write_annotations(folder, done, split_by, parameters)
    finally:
        for empty in (folder / "scans", folder / "annotations", *([] if was_there else [folder])):
            with suppress(OSError):
                empty.rmdir()
    report.kept(Path(output), len(tasks) - len(waiting), len(tasks))
    report.finish()
    return Path(output)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder}: found a file, allowed a folder")
    content = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    stored = [path.read_text(errors="replace") for path in folder.glob("annotations/*")]
    if not {*content} <= {"scans", "annotations"} or not all(_DESCRIPTION in text for text in stored):
        raise UserError(f"--output: {folder}: found {', '.join(content)}, allowed a new folder or a prepared one")


# --- Looking at the scans ---


class ScanReport(NamedTuple):
    """What the plan needs to know of a scan; ``info`` is ``None`` where it cannot be opened."""

    path: Path
    info: Optional[ScanInfo] = None
    undersampled: bool = False
    mask: Optional[Dict[str, str]] = None  # name and content of its file

    @property
    def usable(self) -> bool:
        return self.info is not None


def _open_all(source: Source, paths: Sequence[Path], jobs: int, report: ProgressReport) -> Dict[str, ScanReport]:
    """Name of the scan -> what is in it, in order of ``paths``."""
    reports = {path: ScanReport(path) for path in paths}
    with report.bar(len(paths), "opening", "scan") as bar:
        for path, result in in_parallel(functools.partial(_scan_report, source), paths, jobs):
            bar.update()
            if isinstance(result, UserError):
                report.failure(path, result)
            else:
                reports[path] = result
    return {name: reports[path] for path, name in _scan_names(paths).items()}


def _scan_report(source: Source, path: Path) -> ScanReport:
    scan = source.open_scan(path)
    mask = None
    if scan.mask_file is not None:  # other masks for the same data have the same size
        mask = {"name": scan.mask_file.name, "sha256": hashlib.sha256(scan.mask_file.read_bytes()).hexdigest()}
    return ScanReport(path, ScanInfo(scan.subject_id, scan.num_slices), scan.undersampled, mask)


def _scan_names(paths: Sequence[Path]) -> Dict[Path, str]:
    """A name for each scan: its stem and, where scans share it, as many folders above it as tell them apart."""
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


def _are_undersampled(scans: Dict[str, ScanReport]) -> bool:
    kinds = [scan.undersampled for scan in scans.values() if scan.usable]
    if len(set(kinds)) > 1:
        raise UserError(
            f"found {len(kinds) - sum(kinds)} fully sampled and {sum(kinds)} undersampled files, allowed one kind in a "
            "data set"
        )
    return kinds[0]


# --- Writing the files ---


def _tasks(
    folder: Path,
    source: Source,
    preparation: Preparation,
    scans: Dict[str, ScanReport],
    blocks: Sequence[Tuple[str, str, Tuple[int, ...]]],
    split_by: str,
    parameters: Dict[str, Any],
) -> Iterator[ScanTask]:
    """The files of the scans that can be used."""
    for split, name, slices in blocks:
        scan = scans[name]
        if scan.info is None:
            continue
        suffix = f"_{split}" if split_by == SLICE_BLOCKS else ""
        mask = {"mask": scan.mask} if scan.mask else {}
        yield ScanTask(
            source=source,
            path=scan.path,
            preparation=preparation,
            output=folder / "scans" / f"{name}{suffix}.h5",
            subject_id=scan.info.subject_id,
            split=split,
            slices=slices,
            parameters={**parameters, **mask, **source.fingerprint(scan.path)},
        )


def _write_all(folder: Path, tasks: Sequence[ScanTask], jobs: int, report: ProgressReport) -> Set[Path]:
    """Writes all files but those that cannot be made, which it returns."""
    if any(task.output.exists() for task in tasks):
        _remove_annotations(folder, SPLITS)
    failed, num_done = set(), 0
    # Closed, so that nothing more is begun where this ends early.
    with (
        report.bar(sum(len(task.slices) for task in tasks), folder.name, "slice") as bar,
        closing(in_parallel(write_file, tasks, jobs, bar.update)) as results,
    ):
        for task, result in results:
            num_done += len(task.slices)
            bar.update(num_done - bar.n)  # what another process has done, or a failure has left out
            if isinstance(result, WriteError):
                raise result
            if isinstance(result, UserError):
                failed.add(task.output)
                report.failure(task.path, result)
            else:
                report.note(result)
    return failed


# --- Annotations ---


def _write_annotations(folder: Path, tasks: Sequence[ScanTask], split_by: str, parameters: Dict[str, Any]) -> None:
    entries: List[ScanEntry] = []
    for task in tasks:
        with h5py.File(task.output, "r") as file:
            size = file["kspace"].shape[1:]
        file_name = task.output.relative_to(folder).as_posix()
        entries.append(ScanEntry(task.split, file_name, task.subject_id, task.slices, size))
    contents = annotations(entries, _DESCRIPTION, split_by, parameters)
    _remove_annotations(folder, [split for split in SPLITS if f"{split}.json" not in contents])
    with writing(folder):
        (folder / "annotations").mkdir(exist_ok=True)
        for name, text in contents.items():
            with written_atomically(folder / "annotations" / name) as partial:
                partial.write_text(text)


def _remove_annotations(folder: Path, splits: Sequence[str]) -> None:
    with writing(folder):
        for split in splits:
            (folder / "annotations" / f"{split}.json").unlink(missing_ok=True)
