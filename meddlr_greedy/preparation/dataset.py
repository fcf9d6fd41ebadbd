"""From a source of scans to a data set: <output>/scans/<name>.h5 and <output>/annotations/<split>.json."""

import functools
import os
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import h5py

from meddlr_greedy.errors import UserError, check, log_causes
from meddlr_greedy.files import (
    PARTIAL,
    UniqueNames,
    WriteError,
    check_not_read,
    remove_partial_files,
    writing,
    written_atomically,
)
from meddlr_greedy.locks import LOCK_FILES, LOG_FILE, locked
from meddlr_greedy.ops.axes import CINE_AXES
from meddlr_greedy.preparation.annotations import ScanEntry, annotations
from meddlr_greedy.preparation.leaks import shared_scans, shared_studies
from meddlr_greedy.preparation.progress import ProgressReport
from meddlr_greedy.preparation.scan_task import ScanTask, write_file
from meddlr_greedy.preparation.settings import Preparation
from meddlr_greedy.preparation.sources import Source, sha256_of
from meddlr_greedy.preparation.splits import SLICE_BLOCKS, SPLITS, ScanInfo, shared_subjects, split_scans
from meddlr_greedy.preparation.workers import in_parallel
from meddlr_greedy.readers.raw_scan import stem

__all__ = ["prepare_dataset"]

_DESCRIPTION = "Prepared multi-coil"  # what all annotations begin with
_FORMAT = 2  # raised when the same parameters come to give other data, so that old files are not taken for new
_MOST_SHOWN = 5  # names in a message


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
    _check_inputs_are_elsewhere(folder, source)
    paths = source.find(folder)
    if not paths:
        raise UserError(f"found no file to prepare in {', '.join(map(str, source.inputs))}")
    report = ProgressReport(progress, len(paths))
    with _alone_in(folder):
        scans = _open_all(source, paths, jobs, report, folder / LOG_FILE)
        # A scan that cannot be used keeps its place: the split of the others is the same with and without it.
        infos = {name: scan.info or ScanInfo(source.subject_by_path(scan.path), 0) for name, scan in scans.items()}
        _check_one_kind(scans)
        blocks, split_by = split_scans(split, infos, split_seed)
        report.note(source.left_out(paths))
        report.note(shared_scans({name: scan.content.get("sha256", "") for name, scan in scans.items()}, blocks))
        if source.reader.reads_files:
            report.note([*shared_studies(infos, blocks), *shared_subjects(infos, blocks, split_by)])
        parameters = _parameters(source, preparation)
        tasks = list(_tasks(folder, source, preparation, scans, blocks, split_by, parameters))
        _check_no_output_is_read(tasks, source, paths)
        waiting = [task for task in tasks if not task.is_done(overwrite)]
        failed = _write_all(folder, waiting, jobs, report)
        done = [task for task in tasks if task.output not in failed]
        if done:
            _write_annotations(folder, done, split_by, parameters)
    report.kept(Path(output), len(tasks) - len(waiting), len(tasks))
    report.finish()
    return Path(output)


def _parameters(source: Source, preparation: Preparation) -> Dict[str, Any]:
    """What all files of the data set are a function of, beside their scans."""
    coil_maps = {"coil_maps": preparation.coil_maps.parameters}
    return {"format": _FORMAT, **source.parameters, **asdict(preparation), **coil_maps}


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder}: found a file, allowed a folder")
    with writing(folder, "--output"):
        content = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        stored = [path.read_text(errors="replace") for path in folder.glob("annotations/[!.]*")]
    own = {"scans", "annotations", LOG_FILE}
    foreign = [name for name in content if name not in own and not name.startswith((PARTIAL, *LOCK_FILES))]
    if not all(_DESCRIPTION in text for text in stored):
        foreign = foreign or ["annotations"]
    if foreign:
        more = f" and {len(foreign) - _MOST_SHOWN} more" if len(foreign) > _MOST_SHOWN else ""
        shown = ", ".join(foreign[:_MOST_SHOWN])
        raise UserError(f"--output: {folder}: found {shown}{more}, allowed a new folder or a prepared one")


def _check_inputs_are_elsewhere(folder: Path, source: Source) -> None:
    for given in source.inputs if source.reader.reads_files else ():
        path = Path(given).resolve()
        if folder == path or folder in path.parents:
            raise UserError(f"--output: {folder}: holds the input {given}, allowed a folder that holds no input")


def _check_no_output_is_read(tasks: Sequence[ScanTask], source: Source, paths: Sequence[Path]) -> None:
    if source.reader.reads_files:
        read = (file for path in paths for file in source.reader.files(path))
        check_not_read("--output", (task.output for task in tasks), read)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Inside the block this command alone writes in the folder; at the end nothing half-written or empty is left."""
    with locked(folder, "--output"):
        log_causes(folder / LOG_FILE)
        own = (folder / "scans", folder / "annotations")
        remove_partial_files(*own)  # of a command that was killed
        try:
            yield
        finally:
            remove_partial_files(*own)  # of a process of --jobs that was
            for empty in own:
                with suppress(OSError):
                    empty.rmdir()


# --- Looking at the scans ---


class ScanReport(NamedTuple):
    """What the plan needs to know of a scan; ``info`` is ``None`` where it cannot be opened."""

    path: Path
    info: Optional[ScanInfo] = None
    undersampled: bool = False
    is_cine: bool = True
    content: Dict[str, Any] = {}  # what tells it from others: names and digests of its file and of those beside it

    @property
    def usable(self) -> bool:
        return self.info is not None


def _open_all(
    source: Source, paths: Sequence[Path], jobs: int, report: ProgressReport, log: Path
) -> Dict[str, ScanReport]:
    """Name of the scan -> what is in it, in order of ``paths``."""
    reports = {path: ScanReport(path) for path in paths}
    with report.follow(len(paths), "opening", "scans") as progress:
        for path, result in in_parallel(functools.partial(_scan_report, source), paths, jobs, log=log):
            progress.update()
            if isinstance(result, UserError):
                report.failure(path, result)
            else:
                reports[path] = result
    if not any(scan.usable for scan in reports.values()):
        report.finish()
    return {name: reports[path] for path, name in _scan_names(paths, source.reader.named_after).items()}


def _scan_report(source: Source, path: Path) -> ScanReport:
    scan = source.open_scan(path)
    content = source.fingerprint(path)
    if scan.mask_file is not None:  # other masks for the same data have the same size
        content["mask"] = {"name": scan.mask_file.name, "sha256": sha256_of([scan.mask_file])}
    if scan.other_files:
        content["other files"] = [{"name": file.name, "sha256": sha256_of([file])} for file in scan.other_files]
    info = ScanInfo(scan.subject_id, scan.num_slices, scan.dicom.get("StudyInstanceUID", ""))
    return ScanReport(path, info, scan.undersampled, scan.is_cine, content)


def _scan_names(
    paths: Sequence[Path], named_after: Callable[[Path], Tuple[Path, str]] = lambda path: (path, "")
) -> Dict[Path, str]:
    """A file name for each scan, no two of which are one.

    It is the scan's stem and, where scans share it, as many folders above it as tell them apart. Of scans in one folder
    the whole name of the file does.

    Args:
        paths: The scans.
        named_after: As :meth:`Reader.named_after`.
    """
    files = {path: named_after(path) for path in paths}
    names = {
        path: (stem(file) if file.name not in ("", "..") else file.resolve().name) + ending
        for path, (file, ending) in files.items()
    }
    folders = {path: file.resolve().parent for path, (file, _) in files.items()}

    def shared(by_folder: bool) -> List[Path]:
        groups: Dict[str, List[Path]] = {}
        for path, name in names.items():
            groups.setdefault(name.casefold(), []).append(path)
        same = [group for group in groups.values() if len(group) > 1]
        return [path for group in same if not by_folder or len({folders[p] for p in group}) > 1 for path in group]

    for depth in range(1, max((len(folder.parts) for folder in folders.values()), default=0)):
        for path in shared(by_folder=True):
            parts = folders[path].parts[1:]  # without the root
            if depth <= len(parts):
                names[path] = f"{parts[-depth]}_{names[path]}"
    for path in shared(by_folder=False):
        file, _ = files[path]
        names[path] += file.name[len(stem(file)) :]
    unique = UniqueNames()
    return {path: unique(name) for path, name in names.items()}


def _check_one_kind(scans: Dict[str, ScanReport]) -> None:
    usable = [scan for scan in scans.values() if scan.usable]
    static = [scan.path for scan in usable if not scan.is_cine]
    if 0 < len(static) < len(usable):
        more = f" and {len(static) - _MOST_SHOWN} more" if len(static) > _MOST_SHOWN else ""
        raise UserError(
            f"found {len(usable) - len(static)} cine and {len(static)} static files "
            f"({', '.join(map(str, static[:_MOST_SHOWN]))}{more}), allowed one kind in a data set"
        )
    num_undersampled = sum(scan.undersampled for scan in usable)
    if 0 < num_undersampled < len(usable):
        raise UserError(
            f"found {len(usable) - num_undersampled} fully sampled and {num_undersampled} undersampled files, allowed "
            "one kind in a data set"
        )


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
        yield ScanTask(
            source=source,
            path=scan.path,
            preparation=preparation,
            output=folder / "scans" / f"{name}{suffix}.h5",
            subject_id=scan.info.subject_id,
            split=split,
            slices=slices,
            parameters={**parameters, **scan.content},
        )


def _write_all(folder: Path, tasks: Sequence[ScanTask], jobs: int, report: ProgressReport) -> Set[Path]:
    """Writes all files but those that cannot be made, which it returns."""
    if any(task.output.exists() for task in tasks):
        _remove_annotations(folder, SPLITS)
    failed, num_done = set(), 0
    # Closed, so that nothing more is begun where this ends early.
    with (
        report.follow(sum(len(task.slices) for task in tasks), folder.name, "slices") as progress,
        closing(in_parallel(write_file, tasks, jobs, progress.update, folder / LOG_FILE)) as results,
    ):
        for task, result in results:
            num_done += len(task.slices)
            progress.update(num_done - progress.done)  # what another process has done, or a failure has left out
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
    kind = "cine" if 1 + len(size) == CINE_AXES else "2D"
    contents = annotations(entries, f"{_DESCRIPTION} {kind}", split_by, parameters)
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
