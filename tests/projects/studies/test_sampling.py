"""The command that draws masks."""

import pytest

from meddlr_greedy.data.kt_mask import kt_mask_names
from projects.cine.studies import sampling


def test_command_draws_and_tells(tmp_path, capsys):
    sampling.main(["--lines", "48", "--frames", "6", "--accelerations", "4", "--seeds", "3", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    for name in kt_mask_names():
        assert f"| {name} " in printed and "4.00 to 4.00" in printed
    assert (tmp_path / "sampling.png").stat().st_size > 1000
    for wrong, words in (
        (["--accelerations", "60"], "ACCELERATIONS"),
        (["--partial-echo", "0.5"], "--partial-echo: 0.5"),
        (["--frames", "0"], "--frames: 0"),
        (["--calibration-size", "20"], "CALIBRATION_SIZE"),
    ):
        with pytest.raises(SystemExit) as end:
            sampling.main(["--lines", "48", "--output", str(tmp_path / "none"), *wrong])
        assert end.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
