"""Where scans come from: what tells one from another, and which options a reader may have."""

import argparse
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from meddlr_greedy import prepare
from meddlr_greedy.errors import UserError
from meddlr_greedy.preparation.sources import Source
from meddlr_greedy.readers.phantom import PhantomReader
from tests.helpers.heart import prepare_simulated, read_scans
from tests.helpers.scanners import write_dicom

FRAME = (24, 20)


def _turn_a_frame(path):
    """Turns the last frame of a file upside down; the file keeps its size."""
    content, num_bytes = path.read_bytes(), 2 * FRAME[0] * FRAME[1]
    frame = np.frombuffer(content[-num_bytes:], np.uint16)
    path.write_bytes(content[:-num_bytes] + frame[::-1].tobytes())


@pytest.mark.parametrize("kind", ["npy", "dicom"])
def test_images_replaced_by_others_of_equal_size_are_noticed(magnitude, tmp_path, capsys, kind):
    small = np.ascontiguousarray(magnitude[:, :2, 20:44, 14:34])
    source = tmp_path / "a.npy" if kind == "npy" else tmp_path / "a"
    if kind == "npy":
        np.save(source, small)
    else:
        write_dicom(source, small, "")
    command = shlex.split(f"images {source} --output {tmp_path}/out --split 1 1 0 --coils 2")
    prepare.main(command)
    first = read_scans(tmp_path / "out")
    capsys.readouterr()
    prepare.main(command)
    assert "2 of 2 files were there; kept" in capsys.readouterr().out

    _turn_a_frame(source if kind == "npy" else sorted(source.iterdir())[-1])
    with pytest.raises(SystemExit) as end:
        prepare.main(command)
    assert end.value.code == 2
    assert "found, made of another file or with other options" in capsys.readouterr().err
    prepare.main([*command, "--overwrite"])
    second = read_scans(tmp_path / "out")
    assert list(second) == list(first) == ["a_train", "a_val"]
    assert any(not np.array_equal(first[name]["kspace"], second[name]["kspace"]) for name in first)


class PhantomWithOptions(PhantomReader):
    """A reader with options of types of its own."""

    locations = ("cache",)

    def check_options(self, sensor=None, cache=None, **options):
        super().check_options(**options)

    def open_scan(self, path, sensor=None, cache=None, **options):
        return super().open_scan(path, **options)


TINY = {"matrix": (16, 16), "coils": 2, "slices": 1, "frames": 2}


def test_an_option_can_be_a_path(tmp_path):
    for place in ("here", "there"):
        options = {**TINY, "sensor": [Path("a") / "b"], "cache": argparse.Namespace(place=place)}
        source = Source(PhantomWithOptions(), ["P1"], options)
        prepare_simulated(tmp_path / "out", source, ("1", "0", "0"))
    (scan,) = read_scans(tmp_path / "out").values()
    stored = json.loads(scan["attributes"]["parameters"])["options"]
    assert stored == {**TINY, "matrix": [16, 16], "sensor": ["a/b"]}


def test_an_option_that_cannot_be_stored_is_refused():
    options = {**TINY, "sensor": [argparse.Namespace()]}
    with pytest.raises(UserError, match="--sensor: found a value of type Namespace, .*; allowed numbers, texts, paths"):
        Source(PhantomWithOptions(), ["P1"], options)
