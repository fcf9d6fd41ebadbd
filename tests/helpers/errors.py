"""What the commands say of a mistake."""

import re
import shlex

import pytest

from meddlr_greedy import prepare
from meddlr_greedy.train_net import main


def without_progress(text):
    """What stderr holds beside lines that tell how far something is, such as "training: 2 of 5 iterations in 00:01"."""
    return "\n".join(line for line in text.strip().splitlines() if not re.match(r"[\w ]+: \d+ of \d+ \w+", line))


def expect_error(capsys, config, *opts, words=(), out=None):
    with pytest.raises(SystemExit) as end:
        main(["--config-file", str(config), *map(str, opts)])
    error = without_progress(capsys.readouterr().err)
    assert end.value.code == 2
    assert error.startswith("error: ") and "\n" not in error
    for word in words:
        assert str(word) in error, error
    if out is not None:
        assert not list(out.glob("*.pth*"))


def expect_prepare_error(arguments, message, folder, tmp_path, capsys):
    """``prepare`` ends with one line and status 2, and writes nothing, neither in ``folder`` nor as its output."""
    output = "" if "--output" in arguments else f" --output {tmp_path}/out"
    arguments = arguments.replace("(", r"\(").replace(")", r"\)")
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        prepare.main(shlex.split(arguments.format(dir=folder) + output))
    errors = [line for line in capsys.readouterr().err.split("\n") if "error: " in line]
    assert exit_.value.code == 2
    assert len(errors) == 1 and message in errors[0], errors
    assert not (tmp_path / "out").exists() and sorted(folder.rglob("*")) == before
