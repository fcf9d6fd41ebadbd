"""Where scans come from: what tells one from another, and which options a reader may have."""

import shlex

import numpy as np
import pytest

from meddlr_greedy import prepare
from tests.helpers.heart import read_scans
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
