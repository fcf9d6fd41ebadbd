"""Scans of a data set that are one, or of one examination, though they count as several.

What subjects have to say of that is in :mod:`meddlr_greedy.preparation.splits`. Scans of different data sets are
compared where a training names them (:mod:`meddlr_greedy.data.leaks`).
"""

from typing import Dict, List, Mapping, Sequence, Set, Tuple

from meddlr_greedy.errors import UserError
from meddlr_greedy.preparation.splits import ScanInfo

__all__ = ["shared_scans", "shared_studies"]

Blocks = Sequence[Tuple[str, str, Tuple[int, ...]]]


def shared_scans(digests: Mapping[str, str], blocks: Blocks) -> List[str]:
    """What there is to tell of files with the same content.

    Args:
        digests: Name of a scan -> digest of its content, empty where it is not known.
        blocks: Of :func:`~meddlr_greedy.preparation.splits.split_scans`.

    Raises:
        UserError: A slice of such files is in train and in test: no score on it would mean anything.
    """
    notes = []
    for names in _groups(digests).values():
        sides: Dict[int, Dict[str, str]] = {}  # slice -> side -> name of the scan
        for side, name, slices in blocks:
            for i in slices if name in names else ():
                sides.setdefault(i, {}).setdefault(side, name)
        for found in sides.values():
            if {"train", "test"} <= set(found):
                raise UserError(
                    f"--split: found the same data in train and in test: '{found['train']}' and '{found['test']}' have"
                    " the same content; allowed is each scan once (leave one out), or all of them on one side (--split"
                    " or --subject-pattern)"
                )
        torn = next((" and ".join(found) for found in sides.values() if len(found) > 1), "")
        notes.append(
            f"{_listed(names)} have the same content, and count as {len(names)} scans"
            + (f", which are in {torn}" if torn else "")
        )
    return notes


def shared_studies(scans: Mapping[str, ScanInfo], blocks: Blocks) -> List[str]:
    """What there is to tell of files of one examination that are on several sides, as of different subjects.

    Args:
        scans: By name.
        blocks: Of :func:`~meddlr_greedy.preparation.splits.split_scans`.
    """
    sides: Dict[str, Set[str]] = {name: set() for name in scans}
    for side, name, _ in blocks:
        sides[name].add(side)
    notes = []
    for study, names in _groups({name: scan.study_id for name, scan in scans.items()}).items():
        subjects = {scans[name].subject_id for name in names}
        if len(subjects) > 1 and len(set.union(*(sides[name] for name in names))) > 1:
            notes.append(
                f"{_listed(names)} are of one study ({study}) and of {len(subjects)} subjects, on several sides of the"
                " split; if they are one person, --subject-pattern makes them one subject"
            )
    return notes


def _groups(ids: Mapping[str, str]) -> Dict[str, List[str]]:
    """ID -> the names that have it, of those IDs that several have."""
    groups: Dict[str, List[str]] = {}
    for name, found in ids.items():
        groups.setdefault(found, []).append(name)
    return {found: names for found, names in groups.items() if found and len(names) > 1}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
