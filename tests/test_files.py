"""Files that are there whole or not at all."""

import os
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import (
    PARTIAL,
    UniqueNames,
    WriteError,
    check_not_read,
    check_room,
    folder_written_atomically,
    remove_partial_files,
    safe_name,
    writing,
    written_atomically,
)


@pytest.mark.parametrize("durable", [False, True])
def test_the_old_content_stays_until_the_new_is_whole(tmp_path, durable):
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_atomically(path, durable) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with written_atomically(path, durable) as partial:
        assert partial.suffix == path.suffix
        partial.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


# As h5py 3 raises it where the disk is full: on writing, and on closing.
HDF5_ERROR = "(file write failed: filename = 'a.h5', errno = 28, error message = 'No space left on device', buf = 0x5)"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(f"Can't synchronously write data {HDF5_ERROR}"),
        RuntimeError(f"Can't decrement id ref count {HDF5_ERROR}"),
    ],
    ids=["system", "hdf5", "hdf5 closing"],
)
@pytest.mark.parametrize("option, given", [("", "out/a.h5"), ("--output", "--output: out/a.h5")])
def test_a_full_disk_is_one_line(error, option, given):
    with pytest.raises(WriteError) as raised, writing("out/a.h5", option):
        raise error
    assert str(raised.value) == f"{given}: cannot be written (No space left on device)"


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory"), UserError("wrong"), WriteError("inner"), ValueError("other")]
)
def test_what_is_no_failure_of_writing_passes(error):
    with pytest.raises(type(error)) as raised, writing("a.h5"):
        raise error
    assert raised.value is error


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file/folder: cannot be written"), writing(tmp_path / "file" / "folder"):
        (tmp_path / "file" / "folder").mkdir()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_room_is_asked_for_before(tmp_path):
    path = tmp_path / "large"
    check_room(path, 1000)
    assert path.stat().st_size == 1000
    with pytest.raises(OSError):
        check_room(path, 2**62)
    with pytest.raises(WriteError, match=r"^--output: .*cannot be written"), writing(tmp_path, "--output"):
        check_room(path, 2**62)


# --- Names and places ---


def test_usual_names_stay_as_they_are():
    for name in ("P001", "s.nii", "Jürgen Müller (2)", "a-b_c+d", "x$y"):
        assert safe_name(name) == name


@pytest.mark.parametrize(
    "text", ["../../evil", "..", "", "/", "a\\b", "\0", "x" * 500, "ä" * 200, "\udcff", " . ", ".x"]
)
def test_any_text_becomes_a_file_name(tmp_path, text):
    name = safe_name(text)
    (tmp_path / f"{PARTIAL}12345678-{name}_train.h5").touch()
    (tmp_path / f"{name}_train.h5").touch()
    assert not name.startswith(".") and len(list(tmp_path.iterdir())) == 2


def test_names_are_given_once():
    unique = UniqueNames()
    names = [unique(text) for text in ("a", "A", "a", "a-2", "\u00e9", "e\u0301", "x" * 500, "x" * 501)]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(names)
    assert names[:2] == ["a", "A-2"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_input_by_another_name_is_an_input(tmp_path, link):
    (tmp_path / "a").touch()
    link(tmp_path / "a", tmp_path / "b")
    check_not_read("--output", [tmp_path / "c"], [tmp_path / "a"])
    for output in ("a", "b", "./a"):
        with pytest.raises(UserError, match="--output: .*is the input"):
            check_not_read("--output", [f"{tmp_path}/{output}"], [tmp_path / "a"])


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_that_holds_an_input_is_not_replaced(tmp_path, link):
    (tmp_path / "out" / "deep").mkdir(parents=True)
    given = tmp_path / "out" / "deep" / "a"
    if link:
        (tmp_path / "a").touch()
        given.symlink_to(tmp_path / "a")
    else:
        given.touch()
    check_not_read("--output", [tmp_path / "out" / "other"], [given])
    with pytest.raises(UserError, match=f"--output: {tmp_path}/out: holds the input {given}"):
        check_not_read("--output", [tmp_path / "out"], [given])


@pytest.mark.parametrize("before", ["nothing", "folder", "file"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_is_written_whole_or_not_at_all(tmp_path, before, fails):
    path = tmp_path / "folder"
    if before == "folder":
        path.mkdir()
        (path / "old").touch()
    elif before == "file":
        path.touch()
    names = sorted(p.name for p in tmp_path.rglob("*"))
    with suppress(ValueError), folder_written_atomically(path) as partial:
        (partial / "new").touch()
        assert sorted(p.name for p in tmp_path.rglob("*") if PARTIAL not in str(p)) == names
        if fails:
            raise ValueError
    assert sorted(p.name for p in tmp_path.rglob("*")) == (names if fails else ["folder", "new"])


def test_a_folder_comes_back_where_the_new_one_gets_no_name(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    replace, moved = os.replace, []

    def once(source, target):
        if Path(target) == path and not moved:
            moved.append(source)
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(OSError, match="Input/output"), folder_written_atomically(path) as partial:
        (partial / "new").touch()
    assert moved and sorted(p.name for p in tmp_path.rglob("*")) == ["folder", "old"]


def test_folders_half_written_are_removed_and_links_alone(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "kept").touch()
    (tmp_path / f"{PARTIAL}a").mkdir()
    (tmp_path / f"{PARTIAL}a" / "x").touch()
    (tmp_path / f"{PARTIAL}b").symlink_to(tmp_path / "else")
    (tmp_path / f"{PARTIAL}c").touch()
    remove_partial_files(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["else", "kept"]


def test_the_temporary_name_of_a_long_name_is_no_longer(tmp_path):
    path = tmp_path / ("ä" * 120 + ".txt")
    with written_atomically(path) as partial:
        partial.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_torch_that_cannot_write_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(WriteError, match="a.pth: cannot be written"), writing("a.pth"):
        torch.save({"x": torch.zeros(100000)}, "/dev/full")
