"""Which subjects and slices go to train, val and test."""

import re

import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.preparation.splits import ScanInfo, parse_split, shared_subjects, split_scans


@pytest.mark.parametrize(
    "split,num_items,expected",
    [
        (("14", "2", "4"), 20, (range(14), range(14, 16), range(16, 20))),
        (("0-1,4-5", "2-2", "none"), 6, ([0, 1, 4, 5], [2], [])),
        (("1", "0", "0"), 1, ([0], [], [])),
        (None, 9, (range(6), [6], [7, 8])),
        (None, 20, (range(14), [14, 15], range(16, 20))),
    ],
)
def test_parse_split(split, num_items, expected):
    assert list(parse_split(split, num_items, "slices").values()) == [list(members) for members in expected]


@pytest.mark.parametrize(
    "split,message",
    [
        (("1", "1", "1"), "sum 3.* allowed a sum of 5 slices"),
        (("0-2", "2-3", "none"), "do not overlap"),
        (("0-2", "3-5", "none"), "slices 0 to 4"),
        (("none", "none", "none"), "at least one of the slices"),
        (("2-1", "none", "none"), "three counts"),
        (("0.7", "0.1", "0.2"), "three counts"),
        (("5",), "three counts"),
        (("99999999999", "0", "0"), "found 99999999999 0 0, allowed slices 0 to 4, or counts of them"),
        (("999999999", "0", "0"), "sum 999999999.* allowed a sum of 5 slices"),
        (("0-999999999", "none", "none"), "allowed slices 0 to 4"),
        (("9" * 5000, "0", "0"), "allowed slices 0 to 4, or counts of them"),
    ],
)
def test_splits_that_cannot_be_parsed(split, message):
    with pytest.raises(UserError, match=message):
        parse_split(split, 5, "slices")


SCANS = {
    "a1": ScanInfo("A", 2),
    "a2": ScanInfo("A", 1),
    "b": ScanInfo("B", 3),
    "c": ScanInfo("C", 1),
    "d": ScanInfo("D", 1),
}


@pytest.mark.parametrize(
    "split,expected",
    [
        (None, "AAB|C|D"),
        (("2", "1", "1"), "AAB|C|D"),
        (("0.5", "0.25", "0.25"), "AAB|C|D"),
        (("0.5", "0.5", "0"), "AAB|CD|"),
        (("1-1", "none", "0-0"), "B||AA"),
        (("D,a2", "none", "B"), "AAD||B"),
        (("0", "0", "1"), "||AABCD"),
        (("0", "1", "0"), "|AABCD|"),
        (("1", "0", "0"), "AABCD||"),
        (("0", "0", "4"), "||AABCD"),
        (("none", "1-1", "2-3"), "|B|CD"),
    ],
)
def test_splits_by_subject(split, expected):
    blocks, split_by = split_scans(split, SCANS)
    sides = [
        "".join(SCANS[name].subject_id for side, name, _ in blocks if side == of) for of in ("train", "val", "test")
    ]
    assert "|".join(sides) == expected and split_by == "subjects"
    assert all(slices == tuple(range(SCANS[name].num_slices)) for _, name, slices in blocks)


def test_the_split_seed_shuffles_subjects():
    sides = {seed: tuple(split_scans(("2", "1", "1"), SCANS, seed)[0]) for seed in range(8)}
    assert len(set(sides.values())) > 2
    assert sides[3] == tuple(split_scans(("0.5", "0.25", "0.25"), SCANS, 3)[0])
    for blocks in sides.values():
        subjects = {side: {SCANS[name].subject_id for s, name, _ in blocks if s == side} for side, _, _ in blocks}
        assert sum(map(len, subjects.values())) == 4


def test_one_subject_is_split_into_blocks_of_slices():
    scans = {"a1": ScanInfo("A", 2), "a2": ScanInfo("A", 3)}
    expected = [("train", "a1", (0, 1)), ("train", "a2", (0,)), ("val", "a2", (1,)), ("test", "a2", (2,))]
    assert split_scans(("3", "1", "1"), scans) == (expected, "slice blocks of one subject")
    assert split_scans(("0.6", "0.2", "0.2"), scans)[0] == expected
    assert split_scans(("1", "0", "0"), scans) == ([("train", "a1", (0, 1)), ("train", "a2", (0, 1, 2))], "subjects")
    assert split_scans(("0", "0", "1"), scans) == ([("test", "a1", (0, 1)), ("test", "a2", (0, 1, 2))], "subjects")
    assert split_scans(("0", "2", "3"), scans)[0] == [("val", "a1", (0, 1)), ("test", "a2", (0, 1, 2))]
    assert split_scans(("A", "none", "none"), scans)[1] == "subjects"


@pytest.mark.parametrize(
    "split,seed,message",
    [
        (("A,B", "C", "a2"), None, "subject 'A' on two sides, train and test"),
        (("a1", "a2", "none"), None, "subject 'A' on two sides, train and val"),
        (("A", "E", "none"), None, "found 'E', allowed A, B, C, D"),
        (("0.5", "0.2", "0.2"), None, "allowed fractions whose sum is 1"),
        (("1", "1", "1"), None, "sum 3.* allowed a sum of 4 subjects"),
        (("A", "B", "C"), 1, "--split-seed: found 1, allowed only where subjects are counted"),
        (("0-0", "1-1", "none"), 1, "--split-seed: found 1, allowed only where subjects are counted"),
    ],
)
def test_wrong_splits(split, seed, message):
    with pytest.raises(UserError, match=message):
        split_scans(split, SCANS, seed)


@pytest.mark.parametrize(
    "subjects,split,expected",
    [
        ("AAA", ("2", "2", "2"), "3 of 3 files share one ID, 'A', .* split by slices; .* --subject-pattern"),
        ("AAA", ("3", "2", "1"), "split by slices .'1' in train and val, '2' in val and test.; if they are several"),
        ("AAA", ("1", "0", "0"), "count as one subject; if they are several people, --subject-pattern"),
        ("AAAAB", ("1", "1", "0"), "4 of 5 files share one ID, 'A'"),
        ("AABBC", ("1", "1", "1"), None),
        ("A", ("1", "1", "0"), None),
    ],
)
def test_an_id_of_many_files_is_told_of(subjects, split, expected):
    scans = {str(i): ScanInfo(subject, 2) for i, subject in enumerate(subjects)}
    notes = shared_subjects(scans, *split_scans(split, scans))
    assert len(notes) == (expected is not None)
    assert expected is None or re.search(expected, notes[0])
