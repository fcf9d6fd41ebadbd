"""The command that prepares data sets: its options, and readers of other packages."""

import shlex
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from meddlr_greedy import prepare
from meddlr_greedy.preparation import coil_maps
from meddlr_greedy.preparation.sources import registered_readers
from meddlr_greedy.readers.reader import Reader
from tests.helpers.heart import ifft, read, read_scans
from tests.helpers.plugin import importable


def test_phantom_and_images(tmp_path, capsys):
    shared = "--matrix 16 16 --coils 2 --split 1 0 0 --calib 16"
    prepare.main(shlex.split(f"phantom --output {tmp_path}/beat --subjects 1 --slices 1 --frames 2 {shared}"))
    assert "1 train, 0 val, 0 test slices of (H, W, T, C) = (16, 16, 2, 2)" in capsys.readouterr().out

    np.save(tmp_path / "series.npy", np.ones((4, 3, 64, 32), np.float32))
    prepare.main(shlex.split(f"images {tmp_path}/series.npy --output {tmp_path}/series --noise 0 --coils 2"))
    (scan, *_) = read_scans(tmp_path / "series").values()
    assert scan["kspace"].shape[1:] == (64, 32, 3, 2)


@pytest.mark.parametrize("given", ["", "--crop 0.1 --calib 24", "--crop 0.1 --calib 24 --soft-maps"])
def test_map_sets_and_their_options_are_passed_on(tmp_path, monkeypatch, given):
    calls = []

    def two_maps(kspace_calib, calib_width, **arguments):
        calls.append({"calib_width": calib_width, **arguments})
        maps = np.zeros((*kspace_calib.shape[1:], len(kspace_calib), 2), np.complex64)
        maps[..., 0, 0] = maps[..., 1, 1] = 1
        return maps

    monkeypatch.setattr(coil_maps, "espirit_maps", two_maps)
    np.save(tmp_path / "S1.npy", np.ones((2, 2, 32, 30), np.float32))
    prepare.main(shlex.split(f"images {tmp_path}/S1.npy --output {tmp_path}/out --split 1 1 0 --maps 2 {given}"))
    expected = {"calib_width": 24, "crop": 0.1} if given else {"calib_width": 20, "crop": 0.8}
    expected["soft"] = "--soft-maps" in given
    assert calls == [{**expected, "num_maps": 2}] * 2
    arrays, _ = read(tmp_path / "out" / "scans" / "S1_train.h5")
    assert arrays["maps"].shape[-2:] == (8, 2) and arrays["target"].shape[-1] == 2
    coil_images = ifft(arrays["kspace"], (1, 2))
    np.testing.assert_allclose(arrays["target"], coil_images[..., :2], atol=1e-4 * np.abs(coil_images).max())


@pytest.mark.parametrize("command", registered_readers())
def test_help_has_an_example_of_each_sub_command(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        prepare.main([command, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    example = text[text.index(f"\n    meddlr-greedy prepare {command}") :].split("\n\n")[0]
    assert "--output datasets/" in example


def test_readers_import_their_libraries_when_they_are_used():
    code = "import sys; from meddlr_greedy import prepare; print({'ismrmrd', 'pydicom', 'nibabel'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# --- Readers of other packages ---


@pytest.fixture
def own_reader(tmp_path):
    """The package "own_reader", which is the example of :class:`Reader`."""
    lines = Reader.__doc__.split("::\n", 1)[1].split("\n    Coil compression")[0]
    (tmp_path / "own_reader.py").write_text(textwrap.dedent(lines))
    with importable(tmp_path, forget=["own_reader"]):
        yield "own_reader"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_reader_of_another_package_is_a_sub_command(own_reader, tmp_path, jobs):
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((2, 1, 24, 20, 3, 4)) + 1j * rng.standard_normal((2, 1, 24, 20, 3, 4))
    for name, scan in zip("ab", kspace):
        np.save(tmp_path / f"{name}.npy", scan)
    options = "--split 2 0 0 --compression none --crop 0"
    files = f"{tmp_path}/a.npy {tmp_path}/b.npy"
    command = f"--imports {own_reader} numpy {files} --scale 2 --output {tmp_path}/out --jobs {jobs} {options}"
    prepare.main(shlex.split(command))
    for scan, expected in zip(read_scans(tmp_path / "out").values(), kspace):
        np.testing.assert_array_equal(scan["kspace"], (2 * expected).astype(np.complex64))


@pytest.mark.parametrize("place", ["", "numpy", "numpy {files}", "numpy {files} --scale 2"])
def test_imports_stand_anywhere(own_reader, tmp_path, place):
    np.save(tmp_path / "a.npy", np.ones((2, 24, 20, 3, 4)))
    line = f"numpy {tmp_path}/a.npy --scale 2 --output {tmp_path}/out --split 1 1 0 --compression none --crop 0"
    before = place.format(files=f"{tmp_path}/a.npy")
    assert line.startswith(before)
    prepare.main(shlex.split(f"{before} --imports {own_reader} {line[len(before) :]}"))
    assert list(read_scans(tmp_path / "out")) == ["a_train", "a_val"]


def test_a_sub_command_of_two_readers_is_refused(own_reader, tmp_path, capsys):
    text = (tmp_path / "own_reader.py").read_text()
    (tmp_path / "own_reader.py").write_text(text.replace('command = "numpy"', 'command = "images"'))
    with pytest.raises(SystemExit) as exit_:
        prepare.main(["--imports", own_reader, "images", "x.npy", "--output", "out"])
    assert exit_.value.code == 2
    assert "NumpyReader: found the sub-command 'images', which ImagesReader has too" in capsys.readouterr().err


@pytest.mark.parametrize("package,message", [("no_such_package", "no_such_package"), ("broken_reader", "hello")])
def test_a_package_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, capsys, package, message):
    (tmp_path / "broken_reader.py").write_text("raise RuntimeError('hello')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit) as exit_:
        prepare.main(["--imports", package, "phantom", "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith("error: --imports") and message in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()
