"""The writer of data sets: what is kept and replaced, what is skipped, and what is written."""

import json
import os
import shlex
import shutil

import h5py
import numpy as np
import pytest

from meddlr_greedy import prepare
from meddlr_greedy.data.scan_file import read_header
from meddlr_greedy.errors import UserError
from meddlr_greedy.preparation import scan_task
from meddlr_greedy.preparation.dataset import _scan_names
from meddlr_greedy.preparation.settings import CoilMaps
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from meddlr_greedy.readers.simulation.beating_heart import beating_heart
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import kt_mask, prepare_phantom, prepared, read, read_scans
from tests.helpers.scanners import Mrd, write_dicom, write_mrd, write_nifti


@pytest.fixture(scope="session")
def acquired(tmp_path_factory, heart):
    """Two good files, one of NaN, one truncated, one undersampled, and one that is no scan."""
    folder = tmp_path_factory.mktemp("acquired")
    one = heart.coil_images[:1]
    write_mrd(folder / "good.h5", one)
    write_mrd(folder / "other_good.h5", one)
    write_mrd(folder / "nan.h5", one, Mrd(broken="nan"))
    write_mrd(folder / "us_narrow.h5", one, Mrd(sampled=kt_mask()))
    content = (folder / "good.h5").read_bytes()
    (folder / "truncated.h5").write_bytes(content[: len(content) // 2])
    (folder / "text.h5").write_text("hello")
    with h5py.File(shutil.copy(folder / "good.h5", folder / "header.h5"), "a") as file:
        file["dataset/xml"][0] = file["dataset/xml"][0].decode().replace("<x>128</x>", "<x>128,5</x>")
    return folder


@pytest.fixture(scope="session")
def subjects(tmp_path_factory):
    """Five small subjects as NIfTI files."""
    folder = tmp_path_factory.mktemp("subjects")
    for i in range(5):
        data = [beating_heart((24, 20), 2, 0.5, np.random.default_rng(i)) for _ in range(i % 2 + 1)]
        write_nifti(folder / f"S{i}.nii", np.stack(data))
    return folder


def test_several_subjects(subjects, tmp_path, capsys):
    output = tmp_path / "out"
    command = f"images {subjects} --output {output} --split 0.6 0.2 0.2 --calib 12 --jobs 2"
    prepare.main(shlex.split(command))
    assert "4 train, 2 val, 1 test slices of (H, W, T, C) = (24, 20, 2, 8)" in capsys.readouterr().out
    found = {}
    for split in ("train", "val", "test"):
        annotation = json.loads((output / "annotations" / f"{split}.json").read_text())
        assert annotation["info"]["split_by"] == "subjects"
        for image in annotation["images"]:
            assert image["kspace_size"] == list(read_header(str(output / image["file_name"])).shape)
            found.setdefault(split, []).append(image["subject_id"])
    assert found == {"train": ["S0", "S1", "S2"], "val": ["S3"], "test": ["S4"]}
    assert sorted(path.name for path in output.iterdir()) == ["annotations", "scans"]

    # Run again it keeps what is there; one file less is made again; other options are refused.
    (output / "scans" / "S2.h5").unlink()
    before = {path: path.stat().st_mtime_ns for path in (output / "scans").iterdir()}
    prepare.main(shlex.split(command))
    assert "4 of 5 files were there; kept" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before and (output / "scans" / "S2.h5").exists()
    for other in ("--maps 1 --crop 0.5", "--soft-maps"):
        with pytest.raises(SystemExit):
            prepare.main(shlex.split(f"{command} {other}"))
        assert "S0.h5: found, made of another file or with other options" in capsys.readouterr().err
    parameters = json.loads(read(output / "scans" / "S0.h5")[1]["parameters"])
    assert parameters["coil_maps"] == {"num_maps": 1, "calib_width": 12, "crop": 0.8}
    prepare.main(shlex.split(command + " --crop 0.5 --overwrite"))
    assert '"crop": 0.5' in read(output / "scans" / "S0.h5")[1]["parameters"]


@pytest.mark.parametrize(
    "kind,subject,options,told",
    [
        ("dicom", "", "", True),
        ("dicom", "P7", "", False),
        ("dicom", "", "--subject-pattern (scan)", False),
        ("nifti", "", "", True),
        ("ismrmrd", "", "--coils 4", True),
        ("ismrmrd", "P7", "--coils 4", False),
    ],
)
def test_a_file_that_names_no_subject_is_told_of_once(heart, magnitude, tmp_path, capsys, kind, subject, options, told):
    source = tmp_path / {"dicom": "scan", "nifti": "scan.nii", "ismrmrd": "scan.h5"}[kind]
    if kind == "dicom":
        write_dicom(source, magnitude, subject)
    elif kind == "nifti":
        write_nifti(source, magnitude)
    else:
        write_mrd(source, heart.coil_images, Mrd(subject=subject))
    command = "ismrmrd" if kind == "ismrmrd" else "images"
    prepare.main(shlex.split(f"{command} {source} --output {tmp_path}/out --split 1 1 0 {options}"))
    assert capsys.readouterr().out.count(f"{source}: no patient ID in it; taken for a subject, 'scan'") == told


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bad_file_is_skipped_and_the_others_are_there(acquired, tmp_path, capsys, jobs):
    files = " ".join(
        str(acquired / name) for name in ("good.h5", "nan.h5", "header.h5", "truncated.h5", "other_good.h5")
    )
    with pytest.raises(SystemExit) as exit_:
        prepare.main(shlex.split(f"ismrmrd {files} --coils 4 --split 2 2 1 --jobs {jobs} --output {tmp_path}/out"))
    assert exit_.value.code == 2
    errors = [line for line in capsys.readouterr().err.split("\n") if "error: " in line]
    assert len(errors) == 4
    assert "nan.h5: slice 0: found NaN" in errors[2]
    opening = " ".join(errors[:2])
    assert (
        "truncated.h5: truncated" in opening
        and "header.h5: header: encodedSpace.matrixSize.x: found '128,5'" in opening
    )
    assert errors[3].endswith("error: 3 of 5 files could not be used, see above")
    assert sorted(path.name for path in (tmp_path / "out" / "scans").iterdir()) == ["good.h5", "other_good.h5"]
    # The split is that of all five, in order of their names: good, header | nan, other_good | truncated.
    listed = {
        path.stem: json.loads(path.read_text())["images"] for path in (tmp_path / "out" / "annotations").iterdir()
    }
    found = {split: [image["subject_id"] for image in scans] for split, scans in listed.items()}
    assert found == {"train": ["good"], "val": ["other_good"]}


def test_an_anonymized_folder_is_skipped_and_the_others_are_there(magnitude, tmp_path, capsys):
    write_dicom(tmp_path / "anonymized", magnitude[:1], "", TriggerTime=lambda s, t: None)
    write_nifti(tmp_path / "good.nii", magnitude[:1])
    sources = f"{tmp_path}/anonymized {tmp_path}/good.nii"
    with pytest.raises(SystemExit):
        prepare.main(shlex.split(f"images {sources} --split 2 0 0 --output {tmp_path}/out"))
    assert [path.name for path in (tmp_path / "out" / "scans").iterdir()] == ["good.h5"]
    assert "error: 1 of 2 files could not be used" in capsys.readouterr().err


def test_a_scan_in_several_files_is_told_of_and_counted_once(acquired, heart, tmp_path, capsys):
    four_slices = np.concatenate([heart.coil_images, heart.coil_images])
    write_mrd(tmp_path / "bad.h5", four_slices, Mrd(subject="P", broken="nan"))
    write_mrd(tmp_path / "fine.h5", heart.coil_images[:1], Mrd(subject="P"))
    files = f"{tmp_path}/bad.h5 {tmp_path}/fine.h5"
    with pytest.raises(SystemExit):
        prepare.main(shlex.split(f"ismrmrd {files} --coils 4 --split 0-0 1-3 4-4 --output {tmp_path}/out"))
    assert "error: 1 of 2 files could not be used" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("errno = 28, No space left")])
def test_a_full_disk_is_one_line_and_nothing_is_half_written(acquired, tmp_path, capsys, monkeypatch, error):
    def full(*arguments):
        raise error

    monkeypatch.setattr(h5py.Dataset, "__setitem__", full)
    files = f"{acquired}/good.h5 {acquired}/other_good.h5"
    with pytest.raises(SystemExit) as exit_:
        prepare.main(shlex.split(f"ismrmrd {files} --coils 4 --split 1 1 0 --output {tmp_path}/out"))
    errors = [line for line in capsys.readouterr().err.split("\n") if "error: " in line]
    assert exit_.value.code == 2 and len(errors) == 1 and "good.h5: cannot be written" in errors[0]
    assert "No space left" in errors[0] and not (tmp_path / "out").exists()


def test_an_interrupted_run_goes_on(acquired, tmp_path, monkeypatch):
    files = [acquired / "good.h5", acquired / "other_good.h5"]
    converted, convert = [], scan_task.slice_arrays

    def interrupted(scan, *arguments):
        converted.append(scan.path.name)
        if len(converted) == 2:
            raise KeyboardInterrupt
        return convert(scan, *arguments)

    monkeypatch.setattr(scan_task, "slice_arrays", interrupted)
    arguments = (tmp_path / "out", IsmrmrdReader(), *files)
    with pytest.raises(KeyboardInterrupt):
        prepared(*arguments, split=("1", "1", "0"))
    assert [path.name for path in (tmp_path / "out").rglob("*.h5")] == ["good.h5"]
    assert len(prepared(*arguments, split=("1", "1", "0"))) == 2
    assert converted == ["good.h5", "other_good.h5", "other_good.h5"]


def written(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*")}


TINY = {"matrix": (16, 16), "coils": 2, "subjects": 2, "slices": 1, "frames": 2, "coil_maps": CoilMaps(calib_width=16)}


@pytest.mark.parametrize("was_there", [False, True])
def test_what_breaks_off_is_no_data_set_until_it_is_whole(tmp_path, monkeypatch, was_there):
    folder = tmp_path / "data"
    if was_there:
        prepare_phantom(folder, **TINY, split=("1", "1", "0"))
        assert len(list(folder.glob("annotations/*.json"))) == 2
    slice_arrays, calls = scan_task.slice_arrays, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return slice_arrays(*arguments)

    monkeypatch.setattr(scan_task, "slice_arrays", interrupted)
    fine = {**TINY, "noise": 0, "split": ("1", "0", "1"), "overwrite": True}
    with pytest.raises(KeyboardInterrupt):
        prepare_phantom(folder, **fine)
    files = ["subject000.h5", "subject001.h5"] if was_there else ["subject000.h5"]
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == files
    prepare_phantom(folder, **fine)
    assert len(calls) == 3 and sorted(read_scans(folder)) == ["subject000", "subject001"]
    assert sorted(path.name for path in folder.glob("annotations/*")) == ["test.json", "train.json"]


def test_the_same_data_set_is_kept(tmp_path, capsys):
    folder = prepare_phantom(tmp_path / "a", **TINY, split=("1", "1", "0"))
    before = written(folder)
    for overwrite in (False, True):
        prepare_phantom(folder, **TINY, split=("1", "1", "0"), overwrite=overwrite, progress=True)
        assert "2 of 2 files were there; kept" in capsys.readouterr().out
    files = [path for path in before if path.suffix == ".h5"]
    assert {path: written(folder)[path] for path in files} == {path: before[path] for path in files}


def test_another_data_set_is_kept_unless_overwritten(tmp_path):
    fine = {**TINY, "matrix": (20, 16)}
    folder = prepare_phantom(tmp_path / "a", **TINY, split=("1", "1", "0"))
    before = written(folder)
    message = "subject000.h5: found, made of another file or with other options.*--overwrite"
    with pytest.raises(UserError, match=message):
        prepare_phantom(folder, **fine, split=("1", "1", "0"))
    assert written(folder) == before

    prepare_phantom(folder, **fine, split=("1", "0", "1"), overwrite=True)
    scans = read_scans(folder)
    assert list(scans) == ["subject000", "subject001"]
    assert {scan["kspace"].shape for scan in scans.values()} == {(1, 20, 16, 2, 2)}
    assert sorted(path.name for path in folder.iterdir()) == ["annotations", "scans"]
    assert sorted(path.name for path in folder.glob("annotations/*")) == ["test.json", "train.json"]
    assert list(tmp_path.iterdir()) == [folder]


def test_another_split_of_the_same_files_needs_new_annotations_alone(tmp_path):
    folder = prepare_phantom(tmp_path / "a", **TINY, split=("1", "1", "0"))
    before = written(folder / "scans")
    prepare_phantom(folder, **TINY, split=("1", "0", "1"))
    assert written(folder / "scans") == before
    assert sorted(path.name for path in folder.glob("annotations/*")) == ["test.json", "train.json"]


@pytest.mark.parametrize("foreign", ["train", "train/measured.h5", "notes.txt", "annotations/train.json"])
def test_what_was_not_prepared_is_never_overwritten(tmp_path, foreign):
    path = tmp_path / "a" / foreign
    path.parent.mkdir(parents=True)
    path.write_text('{"images": []}')
    for overwrite in (False, True):
        with pytest.raises(UserError, match=f"found {foreign.split('/')[0]}, allowed a new folder"):
            prepare_phantom(tmp_path / "a", **TINY, split=("1", "1", "0"), overwrite=overwrite)
    assert path.read_text() == '{"images": []}'


def test_the_phantom_can_be_prepared_in_the_folder_where_the_command_runs(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    prepare_phantom(".", **TINY, split=("1", "1", "0"))
    assert list(read_scans(tmp_path / "a")) == ["subject000", "subject001"]


WRONG = [
    ("ismrmrd {dir}/good.h5 --coils 0", "--coils: found 0, allowed at least 1"),
    ("ismrmrd {dir}/good.h5 --coils 4 --compression none", "--coils: found 4, allowed only with --compression"),
    ("ismrmrd {dir}/good.h5 --maps 3", "--maps: found 3, allowed 1 or 2"),
    ("ismrmrd {dir}/good.h5 --crop 1", "--crop: found 1.0, allowed 0 to below 1"),
    ("ismrmrd {dir}/good.h5 --calib 5", "--calib: found 5, allowed 6"),
    ("ismrmrd {dir}/good.h5 --jobs 0", "--jobs: found 0, allowed at least 1"),
    ("ismrmrd {dir}/good.h5 --frame-time 0", "--frame-time: found (0.0,), allowed above 0"),
    ("ismrmrd {dir}/good.h5 --subject-pattern (", "--subject-pattern: found '(', no regular expression"),
    ("ismrmrd {dir}/good.h5 --subject-pattern good", "--subject-pattern: found 'good', allowed a regular expression"),
    ("ismrmrd {dir}/good.h5 --subject-pattern P(X)", "'P(X)' finds no subject in"),
    ("ismrmrd {dir}/good.h5 --output {dir}/text.h5", "text.h5: found a file, allowed a folder"),
    ("ismrmrd {dir}/good.h5 --output {dir}", "allowed a new folder or a prepared one"),
    (
        "ismrmrd {dir}/good.h5 {dir}/other_good.h5 --subject-pattern (good).h5 --split good other_good none",
        "--split: found subject 'good' on two sides, train and val; allowed one",
    ),
    ("ismrmrd {dir}/good.h5 {dir}/us_narrow.h5", "found 1 fully sampled and 1 undersampled files, allowed one kind"),
    ("phantom --output ''", "--output: found '', allowed the folder of a data set"),
    ("phantom --output {dir}/text.h5", "text.h5: found a file, allowed a folder"),
    ("phantom --output {dir}/text.h5/data", "text.h5/data: cannot be written"),
    ("phantom --output /proc/data", "--output: /proc/data: cannot be written"),
]


@pytest.mark.parametrize("arguments,message", WRONG)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments, message, acquired, tmp_path, capsys):
    split = " --split 1 0 0" if "--split" not in arguments and "phantom" not in arguments else ""
    expect_prepare_error(arguments + split, message, acquired, tmp_path, capsys)


# --- Names, contents and results ---


@pytest.mark.parametrize(
    "files, names",
    [
        (["a/s.nii", "a/s.nii.gz"], ["s.nii", "s.nii.gz"]),
        (["a/s.nii", "a/s.nii.gz", "b/s.nii"], ["a_s.nii", "a_s.nii.gz", "b_s"]),
        (["a/x/s.nii", "b/x/s.nii", "b/y/s.nii"], ["a_x_s", "b_x_s", "y_s"]),
        (["a/S.nii", "a/s.nii", "a/t.npy"], ["S.nii", "s.nii-2", "t"]),
        (["a_b/c.nii", "a/b_c.nii", "c.nii"], ["a_b_c", "b_c", "{root}_c"]),
        (["a/.hidden.nii", "a/..nii"], ["_hidden", "_"]),
        ([f"a/{'x' * 240}.nii", f"a/{'x' * 240}.npy"], None),
        (["a/\udcff.nii", "a/\udcfe.nii"], ["%FF", "%FE"]),
        (["/a/s.nii", "/b/s.nii", "/s.nii"], ["a_s", "b_s", "s"]),
    ],
)
def test_scans_have_names_of_their_own(tmp_path, files, names):
    found = list(_scan_names([tmp_path / file for file in files]).values())
    assert len({name.casefold() for name in found}) == len(files)
    for name in found:
        assert "/" not in name and not name.startswith(".") and len(name.encode()) < 200
    if names is not None:
        assert found == [name.format(root=tmp_path.name) for name in names]


def test_two_formats_of_one_name_become_two_scans(magnitude, tmp_path):
    small = np.ascontiguousarray(magnitude[:1, :2, 20:44, 14:34])
    for number, name in enumerate(("s.nii", "s.nii.gz")):
        write_nifti(tmp_path / name, small + number)
    options = f"--output {tmp_path}/out --subject-pattern (nii.*) --split 1 1 0 --coils 2"
    prepare.main(shlex.split(f"images {tmp_path}/s.nii {tmp_path}/s.nii.gz {options}"))
    assert sorted(read_scans(tmp_path / "out")) == ["s.nii", "s.nii.gz"]


def test_other_values_of_measured_data_of_the_same_size_are_noticed(heart, tmp_path, capsys):
    source = write_mrd(tmp_path / "scan.h5", heart.coil_images)
    command = shlex.split(f"ismrmrd {source} --coils 4 --output {tmp_path}/out --split 1 1 0")
    prepare.main(command)
    status = source.stat()
    content = source.read_bytes()
    (last,) = [content.rindex(value) for value in [content[len(content) // 2 :][:16]]]
    source.write_bytes(content[:last] + bytes([content[last] ^ 1]) + content[last + 1 :])
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))  # nor does the date tell
    assert source.stat().st_size == status.st_size
    with pytest.raises(SystemExit):
        prepare.main(command)
    assert "found, made of another file or with other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    "scale, message",
    [
        (1e25, "scan.h5: no coil maps can be made of it"),
        (None, "scan.h5: prepared: slice 0: maps holds nothing but zeros"),
    ],
)
def test_what_comes_out_is_checked(heart, tmp_path, capsys, scale, message):
    """Values that overflow where they are squared, and noise alone, are refused."""
    images = heart.coil_images[:, :2]
    if scale is None:
        rng = np.random.default_rng(0)
        shape = (2, 2, 10, *images.shape[3:])  # of more coils than lines of the calibration region can span
        images = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    source = write_mrd(tmp_path / "scan.h5", images * (scale or 1))
    options = "--split 1 1 0 --compression none --crop 0.99"
    expect_prepare_error(f"ismrmrd {source} {options}", message, tmp_path, tmp_path, capsys)


def test_a_long_folder_is_not_listed(tmp_path, capsys):
    folder = tmp_path / "full"
    folder.mkdir()
    for number in range(30):
        (folder / f"file{number:02d}").touch()
    with pytest.raises(SystemExit):
        prepare.main(["phantom", "--output", str(folder)])
    assert "found file00, file01, file02, file03, file04 and 25 more, allowed a new" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", [1, 2])
def test_causes_are_in_the_log_of_the_data_set(acquired, tmp_path, jobs):
    files = f"{acquired}/good.h5 {acquired}/truncated.h5"
    with pytest.raises(SystemExit):
        prepare.main(shlex.split(f"ismrmrd {files} --coils 4 --split 2 0 0 --jobs {jobs} --output {tmp_path}/out"))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert f"error: {acquired}/truncated.h5: truncated" in log and "Traceback (most recent call last)" in log
    prepare.main(shlex.split(f"ismrmrd {acquired}/good.h5 --coils 4 --split 1 0 0 --output {tmp_path}/out"))
