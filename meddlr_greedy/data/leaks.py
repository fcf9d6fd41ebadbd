"""Whether what a training is scored on is known to it: scans, and subjects, on both sides of its data sets.

Names of data sets do not tell: the same scanner file may have been prepared into two of them. So scans are compared by
what their files say: the content that they were made of, and which slices of it, whom they show and in which study.
"""

import filecmp
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import h5py
import numpy as np
from meddlr.data import DatasetCatalog

from meddlr_greedy.errors import UserError
from meddlr_greedy.headers.study import study_of

__all__ = ["Identity", "check_held_out", "shared_scans"]

_HEAD = 2**16  # bytes of a file that tell most files apart


class Identity(NamedTuple):
    """What is known of a scan of a data set; what is not known is empty."""

    path: str
    folder: str  #: the data set's, without the split
    subject: str  #: as in the annotation, else in the file
    study: str
    content: str  #: tells which data the file was made of
    slices: Optional[FrozenSet[int]]  #: of these data; ``None``: all

    @classmethod
    def of(cls, scan: Dict[str, Any]) -> "Identity":
        """Looks at a scan in meddlr's format; a file that cannot be read is one of which little is known."""
        path, attributes = str(scan["file_name"]), _attributes(str(scan["file_name"]))
        subject = scan.get("subject_id", attributes.get("subject_id", ""))
        slices = np.asarray(attributes.get("slices", [])).reshape(-1)
        return cls(
            path=path,
            folder=str(scan.get("_dataset", "")),
            subject=_text(subject),
            study=_study_id(path, attributes),
            content=_content(_text(attributes.get("parameters", ""))),
            slices=frozenset(slices.tolist()) if slices.size else None,
        )

    @property
    def name(self) -> str:
        """The scan's name in its data set."""
        return Path(self.path).stem

    def same_data(self, other: "Identity") -> bool:
        """Whether a slice of this scan is also one of the other."""
        if self.content or other.content:
            apart = self.slices is not None and other.slices is not None and not self.slices & other.slices
            return self.content == other.content and not apart
        return _same_file(self.path, other.path)


def check_held_out(train: Sequence[str], val: Sequence[str], test: Sequence[str]) -> List[str]:
    """Compares the data sets of a training.

    Args:
        train: Data sets as in ``DATASETS.TRAIN``.
        val: As in ``DATASETS.VAL``.
        test: As in ``DATASETS.TEST``.

    Returns:
        List[str]: What there is to tell, a line each: scans that are both trained on and validated on, or both
        validated and tested on, and subjects of VAL and TEST that are in TRAIN.

    Raises:
        UserError: A scan is in TRAIN and in TEST.
    """
    sides = {"TRAIN": _identities(train), "VAL": _identities(val), "TEST": _identities(test)}
    pairs = shared_scans(sides["TRAIN"], sides["TEST"])
    if pairs:
        raise UserError(
            f"DATASETS: {_in_both(pairs, 'TRAIN', 'TEST')}; allowed are data sets that have no scan in common (a"
            " network can be scored on what it was trained on by meddlr-greedy eval)"
        )
    told = [
        f"DATASETS: {_in_both(pairs, one, other)}: {meaning}"
        for one, other, meaning in (
            ("TRAIN", "VAL", "the best checkpoint is chosen by data that it was trained on"),
            ("VAL", "TEST", "the best checkpoint is chosen by data that it is tested on"),
        )
        if (pairs := shared_scans(sides[one], sides[other]))
    ]
    held_out = [*sides["VAL"], *sides["TEST"]]
    return [*told, *_shared_subjects(sides["TRAIN"], held_out), *_shared_ids(sides["TRAIN"], held_out)]


def shared_scans(some: Sequence[Identity], others: Sequence[Identity]) -> List[Tuple[Identity, Identity]]:
    """Pairs of scans that hold the same data, of each scan of ``others`` one at most."""
    by_key: Dict[str, List[Identity]] = {}
    for scan in some:
        by_key.setdefault(_key(scan), []).append(scan)
    pairs = []
    for scan in others:
        same = [own for own in by_key.get(_key(scan), ()) if own.same_data(scan)]
        pairs += [(same[0], scan)] if same else []
    return pairs


def _in_both(pairs: Sequence[Tuple[Identity, Identity]], one: str, other: str) -> str:
    first, second = (scan.path for scan in pairs[0])
    where = first if first == second else f"{first} and {second}"
    return f"{len(pairs)} scan{'s are' if len(pairs) > 1 else ' is'} in {one} and in {other} (first {where})"


def _shared_subjects(train: Sequence[Identity], held_out: Sequence[Identity]) -> Iterator[str]:
    """A line about subjects of one data set that are on both sides."""
    some, others = ({(scan.folder, scan.subject) for scan in side if scan.subject} for side in (train, held_out))
    shared = sorted(some & others)
    if shared:
        folder, subject = shared[0]
        yield (
            f"DATASETS: {len(shared)} of {len(others)} subjects of VAL and TEST are in TRAIN too (first '{subject}' of"
            f" '{folder}'): scores on them are not those of unseen subjects"
        )


def _shared_ids(train: Sequence[Identity], held_out: Sequence[Identity]) -> Iterator[str]:
    """A line about scans of different data sets that have an ID in common: they may, or may not, be of one person."""
    known: Dict[Tuple[str, str], List[Identity]] = {}
    for scan in train:
        for key in _ids(scan):
            known.setdefault(key, []).append(scan)
    found = [match for scan in held_out if (match := _first_match(scan, known))]
    if found:
        kind, own, scan = found[0]
        yield (
            f"DATASETS: {len(found)} of {len(held_out)} scans of VAL and TEST have the {kind} of a scan of TRAIN in"
            f" another data set (first {own.path} and {scan.path}): if they are of one person, scores on them are not"
            " those of unseen subjects"
        )


def _first_match(
    scan: Identity, known: Dict[Tuple[str, str], List[Identity]]
) -> Optional[Tuple[str, Identity, Identity]]:
    for kind, value in _ids(scan):
        for own in known.get((kind, value), ()):
            if own.folder != scan.folder:
                return kind, own, scan
    return None


def _ids(scan: Identity) -> List[Tuple[str, str]]:
    ids = [("subject ID", scan.subject), ("study ID", scan.study), ("name", scan.name)]
    return [(kind, value) for kind, value in ids if value]


def _identities(names: Sequence[str]) -> List[Identity]:
    return [Identity.of(scan) for name in names for scan in DatasetCatalog.get(name)]


def _key(scan: Identity) -> str:
    """Equal for scans that hold the same data; others seldom have the same."""
    if scan.content:
        return scan.content
    try:
        with open(scan.path, "rb") as file:
            head = hashlib.sha256(file.read(_HEAD)).hexdigest()
        return f"{os.path.getsize(scan.path)} {head}"
    except OSError:
        return os.path.realpath(scan.path)


def _same_file(path: str, other: str) -> bool:
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return filecmp.cmp(path, other, shallow=False)
    except OSError:
        return False


def _attributes(path: str) -> Dict[str, Any]:
    try:
        with h5py.File(path, "r") as file:
            return dict(file.attrs)
    except Exception:  # noqa: BLE001 (what is damaged is refused where it is used)
        return {}


def _study_id(path: str, attributes: Dict[str, Any]) -> str:
    try:
        return str(study_of(path, attributes).get("StudyInstanceUID", ""))
    except UserError:  # what is damaged is refused where it is used
        return ""


def _content(parameters: str) -> str:
    """Of what ``meddlr-greedy prepare`` wrote beside a scan: the digest of its file, or how it was simulated."""
    try:
        found = json.loads(parameters)
    except (ValueError, RecursionError):
        return ""
    digest = found.get("sha256") if isinstance(found, dict) else None
    return digest if isinstance(digest, str) else parameters


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
