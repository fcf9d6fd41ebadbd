"""Where the scans of a data set come from: a registered reader, and what it is given."""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence

from meddlr_greedy import readers as _  # noqa: F401 (they register)
from meddlr_greedy.errors import UserError, check
from meddlr_greedy.files import printable, reading
from meddlr_greedy.readers.raw_scan import RawScan, plain_text
from meddlr_greedy.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["Source", "registered_readers", "sha256_of"]


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
        from meddlr_greedy.preparation.checks import checked_scan  # numpy waits until the options are known to be right

        scan = checked_scan(self.reader, path, self.options)
        scan = replace(
            scan,
            subject_id=plain_text(scan.subject_id) or self.reader.subject_by_path(path),
            simulated=self.reader.simulates,
        )
        if self.subject_pattern is not None:
            subject = self._matched(path)
            if not subject:
                raise UserError(f"--subject-pattern: '{self.subject_pattern}' finds no subject in {path}")
            dicom = {**scan.dicom, "PatientID": subject} if scan.dicom else {}  # the other ID is not to be kept
            return replace(scan, subject_id=subject, dicom=dicom)
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
        unused = {name for name in self.reader.added if self.options.get(name) is None}
        options = {
            name: _as_json(name, value)
            for name, value in self.options.items()
            if name not in (*self.reader.locations, *unused)
        }
        return {"reader": self.reader.command, "options": options}

    def fingerprint(self, path: Path) -> Dict[str, Any]:
        """Tells one scan from another, and whether its content was replaced: neither size nor date tells that."""
        if not self.reader.reads_files:
            return {"source": printable(path.name)}
        with reading(path):
            return {"source": printable(path.name), "sha256": sha256_of(self.reader.files(path))}


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


def sha256_of(files: Iterable[Path]) -> str:
    """Of the content of files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
