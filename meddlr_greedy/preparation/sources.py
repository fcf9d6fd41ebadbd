"""Where the scans of a data set come from: a registered reader, and what it is given."""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np

from meddlr_greedy.errors import UserError, check
from meddlr_greedy.files import printable, reading
from meddlr_greedy.preparation import readers as _  # noqa: F401 (they register)
from meddlr_greedy.preparation.raw_scan import RawScan, RawSlice, check_scan, check_slice, plain_text
from meddlr_greedy.preparation.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["Source", "files_of", "registered_readers", "sha256_of"]


def registered_readers() -> Dict[str, Reader]:
    """The registered readers by their sub-commands, in the order of registration.

    Raises:
        UserError: Two readers have the same sub-command.
    """
    readers: Dict[str, Reader] = {}
    for name, reader_class in READER_REGISTRY:
        reader = reader_class()
        other = readers.setdefault(reader.command, reader)
        if other is not reader:
            raise UserError(f"{name}: found the sub-command '{reader.command}', which {type(other).__name__} has too")
    return readers


@dataclass(frozen=True)
class Source:
    """Where the scans of a data set come from; can be sent to another process.

    Args:
        reader: The reader.
        inputs: For its ``find``: files and folders, or names.
        options: For its ``open_scan``.
        subject_pattern: Regular expression whose first group, found in the path of a file, is the subject. By default
            the subject is what the file says, else the file's name.

    Raises:
        UserError: An option or the pattern is not allowed, or the value of an option cannot be stored as JSON.
    """

    reader: Reader
    inputs: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    subject_pattern: Optional[str] = None

    def __post_init__(self):
        if self.subject_pattern is not None:
            _check_pattern(self.subject_pattern)
        options = {name: value for name, value in self.options.items() if name != "undersampled"}
        self.reader.check_options(**options)
        self.parameters  # noqa: B018 (refuses what cannot be stored, before anything is prepared)

    def find(self, output: Path) -> List[Path]:
        """The scans, without those in the folder ``output``, which may lie beside the inputs."""
        paths = self.reader.find([str(given) for given in self.inputs])
        if self.reader.reads_files:
            paths = [path for path in paths if output not in path.resolve().parents]
        return paths

    def left_out(self, found: Sequence[Path]) -> List[str]:
        """What a user should know of files among the inputs that are no scans; ``found`` are those that are."""
        return self.reader.left_out([str(given) for given in self.inputs], found)

    def open_scan(self, path: Path) -> RawScan:
        """Opens one of the scans that :meth:`find` returned.

        Raises:
            UserError: It cannot be used, or the pattern finds no subject in its path.
        """
        # Values that are not finite are refused where they arise, or later.
        with reading(path), np.errstate(all="ignore"):
            scan = self.reader.open_scan(path, **self.options)
            check_scan(scan)
        scan = replace(
            scan,
            subject_id=plain_text(scan.subject_id) or self.reader.subject_by_path(path),
            study_id=plain_text(scan.study_id).strip(),
            simulated=self.reader.simulates,
            load_slice=_reading_slices(path, scan.load_slice),
        )
        if self.subject_pattern is not None:
            subject = self._matched(path)
            if not subject:
                raise UserError(f"--subject-pattern: '{self.subject_pattern}' finds no subject in {path}")
            return replace(scan, subject_id=subject)
        if scan.names_subject:
            return scan
        note = f"{path}: no patient ID in it; taken for a subject, '{scan.subject_id}' (see --subject-pattern)"
        return replace(scan, notes=(*scan.notes, note))

    def subject_by_path(self, path: Path) -> str:
        """The subject of a scan by its path alone."""
        return self._matched(path) or self.reader.subject_by_path(path)

    def _matched(self, path: Path) -> str:
        found = re.search(self.subject_pattern, str(path)) if self.subject_pattern else None
        return plain_text(found.group(1) or "") if found else ""

    @property
    def parameters(self) -> Dict[str, Any]:
        """What all scans are a function of, as it is stored with them in JSON."""
        options = {
            name: _as_json(name, value) for name, value in self.options.items() if name not in self.reader.locations
        }
        return {"reader": self.reader.command, "options": options}

    def fingerprint(self, path: Path) -> Dict[str, Any]:
        """Tells one scan from another, and whether its content was replaced: neither size nor date tells that."""
        if not self.reader.reads_files:
            return {"source": printable(path.name)}
        with reading(path):
            return {"source": printable(path.name), "sha256": sha256_of(path)}


def _reading_slices(path: Path, load_slice: Callable[[int], RawSlice]) -> Callable[[int], RawSlice]:
    """``load_slice``, whose failures are told in one line that names the file."""

    def load(slice_id: int) -> RawSlice:
        with reading(path), np.errstate(all="ignore"):
            raw = load_slice(slice_id)
            check_slice(f"{path}: slice {slice_id}", raw)
            return raw

    return load


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"--subject-pattern: found '{pattern}', no regular expression ({error})") from error
    check(groups >= 1, "--subject-pattern", f"'{pattern}'", "a regular expression with a group, e.g. '(P\\d+)'")


def _as_json(name: str, value: Any) -> Any:
    """The value of an option; paths become texts."""

    def as_text(part: Any) -> str:
        if isinstance(part, PurePath):
            return str(part)
        raise UserError(
            f"--{name.replace('_', '-')}: found a value of type {type(part).__name__}, which cannot be stored with the "
            "scans; allowed numbers, texts, paths, and lists of these (see Reader.add_options)"
        )

    return json.loads(json.dumps(value, default=as_text))


def files_of(path: Path) -> List[Path]:
    """The file, or all files in the folder, sorted."""
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def sha256_of(path: Path) -> str:
    """Of the content of a file, or of all files in a folder."""
    digest = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
