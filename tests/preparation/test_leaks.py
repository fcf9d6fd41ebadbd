"""Files that are one, or of one examination, though they count as several."""

import json
import shlex

import h5py
import numpy as np
import pytest

from meddlr_greedy import prepare
from meddlr_greedy.errors import UserError
from meddlr_greedy.preparation.leaks import shared_scans, shared_studies
from meddlr_greedy.preparation.splits import ScanInfo
from tests.helpers.scanners import write_dicom, write_nifti


def whole(**sides):
    return [(side, name, (0, 1)) for side, names in sides.items() for name in names]


DIGESTS = {"a": "1", "b": "2", "c": "1", "d": "", "e": ""}


def test_the_same_content_is_told_of():
    assert shared_scans(DIGESTS, whole(train="abce", test="d")) == [
        "'a', 'c' have the same content, and count as 2 scans"
    ]
    assert shared_scans({"a": "1", "b": "2"}, whole(train="a", test="b")) == []


@pytest.mark.parametrize("sides", [{"train": "abde", "val": "c"}, {"val": "a", "test": "cbde"}])
def test_the_same_content_beside_training_is_told_of(sides):
    (note,) = shared_scans(DIGESTS, whole(**sides))
    assert note.endswith(f"count as 2 scans, which are in {' and '.join(sides)}")


def test_the_same_content_in_train_and_test_is_refused():
    with pytest.raises(UserError, match="--split: found the same data in train and in test: 'c' and 'a' .*leave one"):
        shared_scans(DIGESTS, whole(train="bcd", test="ae"))


def test_blocks_of_slices_share_no_slice():
    blocks = [("train", "a", (0,)), ("train", "c", (0, 1)), ("test", "a", (2,)), ("test", "c", (2,))]
    (note,) = shared_scans(DIGESTS, blocks)
    assert note.endswith("count as 2 scans")
    with pytest.raises(UserError, match="'c' and 'a'"):
        shared_scans(DIGESTS, [*blocks, ("test", "a", (1,))])


def test_studies_of_several_subjects():
    scans = {
        name: ScanInfo(subject, 2, study)
        for name, subject, study in (
            ("a", "x", "S"),
            ("b", "y", "S"),
            ("c", "x", "T"),
            ("d", "z", "U"),
            ("e", "z", ""),
            ("f", "w", ""),
        )
    }
    (note,) = shared_studies(scans, whole(train="ac", val="bd", test="ef"))
    assert (
        note.startswith("'a', 'b' are of one study (S) and of 2 subjects, on several sides") and "--subject-p" in note
    )
    assert shared_studies(scans, whole(train="abc", val="def")) == []
    assert shared_studies({**scans, "b": ScanInfo("x", 2, "S")}, whole(train="a", val="b")) == []


# ---- the command


def test_copies_of_a_file(tmp_path, capsys):
    magnitude = np.random.default_rng(0).uniform(1, 2, (1, 2, 24, 20)).astype(np.float32)
    for name in ("one", "copy"):
        write_nifti(tmp_path / f"{name}.nii", magnitude)
    write_nifti(tmp_path / "other.nii", magnitude + 1)
    command = f"images {tmp_path} --output {tmp_path}/out --calib 12 --split"
    with pytest.raises(SystemExit) as end:
        prepare.main(shlex.split(f"{command} 1 0 2"))
    assert end.value.code == 2 and not (tmp_path / "out" / "scans").exists()
    assert "'copy' and 'one' have the same content" in capsys.readouterr().err.splitlines()[-1]
    prepare.main(shlex.split(f"{command} one,copy none other"))
    assert "note: 'copy', 'one' have the same content, and count as 2 scans\n" in capsys.readouterr().out


def test_studies_are_kept_and_told_of(tmp_path, capsys):
    magnitude = np.random.default_rng(0).integers(1, 200, (1, 2, 24, 20)).astype(np.uint16)
    study = {"StudyInstanceUID": lambda s, t: "1.2.3"}
    write_dicom(tmp_path / "in" / "one", magnitude, "P1", **study)
    write_dicom(tmp_path / "in" / "two", magnitude + 2, "P2", **study)
    write_dicom(tmp_path / "in" / "three", magnitude + 4, "P3")
    inputs = " ".join(str(tmp_path / "in" / name) for name in ("one", "two", "three"))
    prepare.main(shlex.split(f"images {inputs} --output {tmp_path}/out --calib 12 --split 1 1 1"))
    assert "note: 'one', 'two' are of one study (1.2.3) and of 2 subjects" in capsys.readouterr().out


def test_a_data_set_to_test_on_alone(tmp_path, capsys):
    output = tmp_path / "held"
    sizes = "--slices 1 --frames 2 --matrix 16 16 --coils 2 --calib 16"
    prepare.main(shlex.split(f"phantom --output {output} --subjects 3 {sizes} --split 0 0 1"))
    assert "0 train, 0 val, 3 test slices" in capsys.readouterr().out
    assert [path.name for path in (output / "annotations").iterdir()] == ["test.json"]
    images = json.loads((output / "annotations" / "test.json").read_text())["images"]
    assert len({image["subject_id"] for image in images}) == 3
    for image in images:
        with h5py.File(output / image["file_name"]) as file:
            assert "target" in file
