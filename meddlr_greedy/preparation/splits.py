"""Which subjects go to train, val and test."""

import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from meddlr_greedy.errors import UserError, check

__all__ = ["SLICE_BLOCKS", "SPLITS", "ScanInfo", "parse_split", "shared_subjects", "split_scans"]

SPLITS = ("train", "val", "test")
#: How a split is marked where there is one subject only.
SLICE_BLOCKS = "slice blocks of one subject"
_MOST_DIGITS = 9  # of a count, or of a number in a range
_MANY_FILES = 4  # of one subject, and times as many as others have: one ID may stand for several people


class ScanInfo(NamedTuple):
    """What a split needs to know of a scan."""

    subject_id: str
    num_slices: int
    study_id: str = ""  #: of the examination, where the file says it


def split_scans(
    split: Optional[Sequence[str]],
    scans: Dict[str, ScanInfo],
    seed: Optional[int] = None,
) -> Tuple[List[Tuple[str, str, Tuple[int, ...]]], str]:
    """Which scans, and which of their slices, go to train, val and test.

    Args:
        split: Three specifications: counts or ranges of subjects in order of their names, as for :func:`parse_split`;
            fractions, in sum 1, ``("0", "0", "1")`` for all on one side; or names of subjects or scans, separated by
            commas, ``"none"`` for none. ``None`` gives about 70, 10 and 20 %.
        scans: By name.
        seed: Shuffles the subjects before they are counted; ``None`` leaves them in order of their names.

    Returns:
        (split, name of the scan, slices) of each file to write, and what the split is by: "subjects" or, where there is
        one subject only, :data:`SLICE_BLOCKS`.

    Raises:
        UserError: where the split does not fit, or puts a subject on two sides.
    """
    subjects = sorted({scan.subject_id for scan in scans.values()})
    members = _named_subjects(split, scans)
    if members is not None:
        check(seed is None, "--split-seed", seed, "only where subjects are counted")
    else:
        if len(subjects) == 1 and not _is_whole(split):
            check(seed is None, "--split-seed", seed, "only with several subjects")
            return _slice_blocks(split, scans), SLICE_BLOCKS
        counts = _counts(split, len(subjects))
        indices = parse_split(counts, len(subjects), "subjects")
        if seed is not None:
            check(all(n.isdecimal() for n in counts or ()), "--split-seed", seed, "only where subjects are counted")
            subjects = [subjects[i] for i in np.random.default_rng(seed).permutation(len(subjects))]
        members = {name: [subjects[i] for i in found] for name, found in indices.items()}
    side = {subject: name for name, found in members.items() for subject in found}
    return [
        (side[scan.subject_id], name, tuple(range(scan.num_slices)))
        for name, scan in scans.items()
        if scan.subject_id in side
    ], "subjects"


def _is_whole(split: Optional[Sequence[str]]) -> bool:
    """Whether all subjects go to one side: "0 0 1" are fractions, or the counts of one subject."""
    return split is not None and sorted(split) == ["0", "0", "1"]


def _named_subjects(split: Optional[Sequence[str]], scans: Dict[str, ScanInfo]) -> Optional[Dict[str, List[str]]]:
    """Subjects of each side, where the split names subjects or scans; ``None`` where it does not."""
    subject_of = {name: scan.subject_id for name, scan in scans.items()}
    subject_of.update({subject: subject for subject in subject_of.values()})
    parts = [[] if spec == "none" else spec.split(",") for spec in split or ()]
    names = sum(parts, [])
    if not any(name in subject_of for name in names) or all(name.isdecimal() for name in split or ()):
        return None
    unknown = [name for name in names if name not in subject_of]
    if unknown:
        raise UserError(f"--split: found '{unknown[0]}', allowed {', '.join(sorted({*subject_of.values()}))}")
    side: Dict[str, str] = {}
    for split_name, found in zip(SPLITS, parts):
        for name in found:
            other = side.setdefault(subject_of[name], split_name)
            if other != split_name:
                raise UserError(
                    f"--split: found subject '{subject_of[name]}' on two sides, {other} and {split_name}; allowed one"
                )
    return {split_name: [s for s, found in side.items() if found == split_name] for split_name in SPLITS}


def _counts(split: Optional[Sequence[str]], num_items: int) -> Optional[Sequence[str]]:
    """Fractions as counts; anything else as it is."""
    is_fraction = re.compile(r"\d*\.\d+|[01]").fullmatch
    if split is None or not all(map(is_fraction, split)):
        return split
    if all(spec.isdecimal() for spec in split) and not _is_whole(split):
        return split
    fractions = [float(spec) for spec in split]
    check(abs(sum(fractions) - 1) < 1e-6, "--split", " ".join(split), "fractions whose sum is 1")
    bounds = np.round(np.cumsum([0, *fractions]) * num_items).astype(int)
    return [str(n) for n in np.diff(bounds)]


def _slice_blocks(split: Optional[Sequence[str]], scans: Dict[str, ScanInfo]) -> List[Tuple[str, str, Tuple[int, ...]]]:
    """The slices of all scans of one subject, counted through."""
    all_slices = [(name, i) for name, scan in scans.items() for i in range(scan.num_slices)]
    blocks = []
    indices = parse_split(_counts(split, len(all_slices)), len(all_slices), "slices")
    for split_name, members in indices.items():
        block: Dict[str, List[int]] = {}
        for i in members:
            block.setdefault(all_slices[i][0], []).append(all_slices[i][1])
        blocks += [(split_name, name, tuple(slices)) for name, slices in block.items()]
    return blocks


def parse_split(split: Optional[Sequence[str]], num_items: int, what: str) -> Dict[str, List[int]]:
    """Which subjects or slices go to train, val and test.

    Args:
        split: Three specifications in this order. Either three counts, ``("14", "2", "4")``: consecutive blocks, in
            sum ``num_items``. Or three lists of ranges, both ends included, ``("0-6,13-19", "7-8", "9-12")``,
            ``"none"`` for an empty one; what is left out is not used (a slice beside a block, say, since neighbors
            resemble each other). ``None`` gives counts of about 70, 10 and 20 %.
        num_items: Number of subjects or slices.
        what: "subjects" or "slices", for messages.

    Returns:
        Indices of each split.

    Raises:
        UserError: where it cannot be read, does not fit or overlaps, or takes nothing.
    """
    if split is None:
        held_out = [max(1, round(0.1 * num_items)), max(1, round(0.2 * num_items))]
        if num_items <= sum(held_out):
            raise UserError(f"--split: {num_items} {what} are too few for the default; allowed e.g. --split 1 0 0")
        split = [str(n) for n in (num_items - sum(held_out), *held_out)]
    found = " ".join(map(str, split))[:200]
    try:
        train, val, test = split
        if any(len(number) > _MOST_DIGITS for number in re.findall(r"\d+", " ".join(split))):
            raise UserError(f"--split: found {found}, allowed {what} 0 to {num_items - 1}, or counts of them")
        if all(spec.isdecimal() for spec in split):
            bounds = np.cumsum([0, *map(int, split)])
            if bounds[-1] != num_items:
                raise UserError(f"--split: found {found} (sum {bounds[-1]}), allowed a sum of {num_items} {what}")
            members = [list(range(a, b)) for a, b in zip(bounds[:-1], bounds[1:])]
        else:
            ranges = [_parse_ranges(spec) for spec in (train, val, test)]
            if any(part[-1] >= num_items for parts in ranges for part in parts):
                raise UserError(f"--split: found {found}, allowed {what} 0 to {num_items - 1}")
            members = [[i for part in parts for i in part] for parts in ranges]
    except (ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"--split: found {found}, allowed three counts (14 2 4) or three lists of ranges (0-6,13-19 7-8 9-12)"
        ) from error
    used = sum(members, [])
    if len(set(used)) < len(used):
        raise UserError(f"--split: found {found}, allowed ranges that do not overlap")
    if not used:
        raise UserError(f"--split: found {found}, allowed at least one of the {what}")
    return dict(zip(SPLITS, members))


def _parse_ranges(spec: str) -> List[range]:
    """``"0-2,5-5"`` to the ranges of 0, 1, 2 and of 5."""
    if spec == "none":
        return []
    parts = []
    for part in spec.split(","):
        first, last = map(int, part.split("-"))
        if last < first:
            raise ValueError(part)
        parts.append(range(first, last + 1))
    return parts


def shared_subjects(
    scans: Dict[str, ScanInfo], blocks: Sequence[Tuple[str, str, Tuple[int, ...]]], split_by: str
) -> List[str]:
    """What there is to tell of subjects of suspiciously many files: data without identity often have one ID for all.

    Args:
        scans: By name.
        blocks: Of :func:`split_scans`.
        split_by: Of :func:`split_scans`.
    """
    names: Dict[str, List[str]] = {}
    for name, scan in scans.items():
        names.setdefault(scan.subject_id, []).append(name)
    notes = []
    for subject, found in names.items():
        others = [len(members) for other, members in names.items() if other != subject]
        if len(found) < 2 or (others and len(found) < _MANY_FILES * np.median([1, *others])):
            continue
        note = f"{len(found)} of {len(scans)} files share one ID, '{subject}', and count as one subject"
        if split_by == SLICE_BLOCKS:
            sides = {name: " and ".join(side for side, of, _ in blocks if of == name) for name in found}
            torn = [f"'{name}' in {side}" for name, side in sides.items() if " and " in side]
            note += ", split by slices" + (f" ({', '.join(torn[:3])})" if torn else "")
        notes.append(f"{note}; if they are several people, --subject-pattern tells them apart by their paths")
    return notes
