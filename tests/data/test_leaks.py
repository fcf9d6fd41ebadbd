"""Scans and subjects on both sides of the data sets of a training."""

import json
import shutil

import h5py
import pytest

from meddlr_greedy.data import leaks
from meddlr_greedy.data.leaks import check_held_out
from meddlr_greedy.errors import UserError


@pytest.fixture
def sets(monkeypatch, tmp_path):
    """sets(name=[scan, ...]): data sets of scan files, each given by what its attributes and its annotation say."""
    catalog = {}
    monkeypatch.setattr(leaks, "DatasetCatalog", catalog)

    def add(**named):
        for name, scans in named.items():
            folder = name.rpartition("_")[0]
            catalog[name] = [write(tmp_path / folder, folder, **scan) for scan in scans]
        return tmp_path

    return add


def write(folder, dataset, name="scan", content=None, slices=None, study=None, subject=None, listed=None, data=0):
    path = folder / f"{name}.h5"
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = [data] * 100
        parameters = {"reader": "ismrmrd", "sha256": content} if content else None
        given = {
            "subject_id": subject,
            "dicom": json.dumps({"StudyInstanceUID": study}) if study else None,
            "slices": slices,
            "parameters": json.dumps(parameters) if parameters else None,
        }
        file.attrs.update({key: value for key, value in given.items() if value is not None})
    return {"file_name": str(path), "_dataset": dataset, **({"subject_id": listed} if listed else {})}


def test_data_sets_that_share_nothing(sets):
    sets(a_train=[{"content": "1", "subject": "P1"}], a_val=[{"name": "v", "subject": "P2", "data": 1}])
    sets(b_test=[{"name": "t", "content": "2", "subject": "P3", "study": "1.2.3"}], c_test=[{"name": "u", "data": 2}])
    assert check_held_out(["a_train"], ["a_val"], ["b_test", "c_test"]) == []


@pytest.mark.parametrize(
    "one, other, shared",
    [
        ({"content": "1"}, {"content": "1"}, True),
        ({"content": "1", "slices": [0, 1]}, {"content": "1", "slices": [1, 2]}, True),
        ({"content": "1", "slices": [0, 1]}, {"content": "1"}, True),
        ({"content": "1", "slices": [0, 1]}, {"content": "1", "slices": [2, 3]}, False),  # blocks of slices
        ({"content": "1"}, {"content": "2"}, False),
        ({"content": "1"}, {}, False),
        ({}, {}, True),  # copies
        ({}, {"data": 1}, False),
    ],
)
def test_the_same_scan_in_train_and_test_is_refused(sets, one, other, shared):
    root = sets(a_train=[{"name": "x", **one}], b_test=[{"name": "y", **other}])
    if not shared:
        assert check_held_out(["a_train"], [], ["b_test"]) == []
        return
    with pytest.raises(UserError) as error:
        check_held_out(["a_train"], [], ["b_test"])
    assert f"DATASETS: 1 scan is in TRAIN and in TEST (first {root}/a/x.h5 and {root}/b/y.h5); allowed" in str(
        error.value
    )


def test_one_file_in_two_data_sets_is_known_by_its_place(sets, tmp_path):
    sets(a_train=[{"name": "x"}, {"name": "z", "data": 1}])
    leaks.DatasetCatalog["b_test"] = [{**scan, "_dataset": "b"} for scan in leaks.DatasetCatalog["a_train"]]
    with pytest.raises(UserError, match=r"2 scans are in TRAIN and in TEST \(first .*/a/x\.h5\);"):
        check_held_out(["a_train"], [], ["b_test"])
    (tmp_path / "a" / "x.h5").write_bytes(b"no HDF5, and refused where it is used")
    (tmp_path / "a" / "z.h5").unlink()
    with pytest.raises(UserError, match="2 scans are in TRAIN"):
        check_held_out(["a_train"], [], ["b_test"])


def test_copies_are_compared_to_the_last_byte(sets, tmp_path):
    root = sets(a_train=[{"name": "x"}], b_test=[{"name": "y"}])
    for path, last in ((root / "a" / "x.h5", b"1"), (root / "b" / "y.h5", b"2")):
        path.write_bytes(path.read_bytes() + bytes(2**17) + last)
    assert check_held_out(["a_train"], [], ["b_test"]) == []
    shutil.copy(root / "a" / "x.h5", root / "b" / "y.h5")
    with pytest.raises(UserError, match="1 scan is in TRAIN"):
        check_held_out(["a_train"], [], ["b_test"])


def test_simulated_scans_are_known_by_how_they_were_made(sets):
    root = sets(a_train=[{"name": "x"}], b_test=[{"name": "y", "data": 1}], c_test=[{"name": "z", "data": 2}])
    for path, seed in (("a/x", 1), ("b/y", 1), ("c/z", 2)):
        with h5py.File(root / f"{path}.h5", "a") as file:
            file.attrs["parameters"] = json.dumps({"reader": "phantom", "source": "s0", "seed": seed})
    assert check_held_out(["a_train"], [], ["c_test"]) == []
    with pytest.raises(UserError, match="1 scan is in TRAIN and in TEST"):
        check_held_out(["a_train"], [], ["c_test", "b_test"])


def test_the_same_scan_in_what_chooses_the_checkpoint_is_told(sets):
    sets(a_train=[{"name": "x", "content": "1"}], b_val=[{"name": "y", "content": "1"}, {"name": "z", "content": "2"}])
    sets(c_test=[{"name": "w", "content": "2"}])
    first, second = check_held_out(["a_train"], ["b_val"], ["c_test"])
    assert first.startswith("DATASETS: 1 scan is in TRAIN and in VAL") and "that it was trained on" in first
    assert second.startswith("DATASETS: 1 scan is in VAL and in TEST") and "that it is tested on" in second


@pytest.mark.parametrize("key", ["subject", "listed"])
def test_subjects_of_one_data_set_on_both_sides_are_told(sets, key):
    sets(own_train=[{"name": "a", key: "P0", "data": 1}, {"name": "b", key: "P1", "data": 2}, {"name": "c", "data": 3}])
    sets(own_test=[{"name": "d", key: "P1", "data": 4}, {"name": "e", key: "P2", "data": 5}])
    assert check_held_out(["own_train"], [], ["own_test"]) == [
        "DATASETS: 1 of 2 subjects of VAL and TEST are in TRAIN too (first 'P1' of 'own'): scores on them are not those"
        " of unseen subjects"
    ]


@pytest.mark.parametrize(
    "one, other, kind",
    [
        ({"name": "x", "subject": "P1"}, {"name": "y", "subject": "P1"}, "subject ID"),
        ({"name": "x", "subject": "P1", "study": "1.2.3"}, {"name": "y", "subject": "Q", "study": "1.2.3"}, "study ID"),
        ({"name": "x", "subject": "P1"}, {"name": "x", "subject": "Q"}, "name"),
        ({"name": "x"}, {"name": "y"}, None),
    ],
)
def test_ids_that_data_sets_share_are_told(sets, one, other, kind):
    root = sets(a_train=[one], b_test=[{**other, "data": 1}, {"name": "z", "data": 2}])
    found = check_held_out(["a_train"], [], ["b_test"])
    assert len(found) == (kind is not None)
    if kind:
        assert f"1 of 2 scans of VAL and TEST have the {kind} of a scan of TRAIN in another data set" in found[0]
        assert f"(first {root}/a/x.h5 and {root}/b/{other['name']}.h5)" in found[0]
