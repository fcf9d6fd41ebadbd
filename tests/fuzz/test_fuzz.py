"""No file, however it was changed, ends a command otherwise than well or in one line."""

import subprocess
import sys

import pytest

from tests.helpers.runs import ROOT


def fuzz(*arguments):
    command = [sys.executable, "-m", "tests.fuzz.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("count", "arguments"),
    [
        (100, ["--seed", "0"]),
        pytest.param(10_000, ["--seed", "1"], marks=pytest.mark.stress),
        pytest.param(50, ["--seed", "2", "--commands"], marks=pytest.mark.stress),
    ],
)
def test_changed_files_are_read_or_refused(count, arguments):
    ended = fuzz("--count", str(count), *arguments)
    assert ended.stdout.endswith(f"{count} inputs, 0 faults\n"), ended.stdout[-5000:] + ended.stderr[-3000:]


def test_a_fault_is_found(tmp_path):
    """A reader that raises something of its own, hangs, writes beside its output or prints two lines is reported."""
    script = """
import os, sys, tempfile
from pathlib import Path
from meddlr_greedy.errors import UserError
from tests.fuzz import run
from tests.fuzz.targets import Target

def raise_two(folder):
    print("error: another", file=sys.stderr)
    raise UserError("one")

def use_processor(folder):
    while True:
        pass

faults = {
    "status 1": lambda folder: {}["key"],
    "longer": use_processor,
    "wrote": lambda folder: (folder / "beside").write_text(""),
    "2 lines": raise_two,
    "GB": lambda folder: bytes([1]) * 1_400_000_000,
    "signal": lambda folder: os.abort(),
}
run.SECONDS = 4
for expected, read in faults.items():
    make = lambda folder: (folder.mkdir(parents=True), (folder / "a").write_text("x"))
    target = Target(expected, make, [("a", [])], read, None)
    run.TARGETS[:] = [target]
    with tempfile.TemporaryDirectory() as scratch:
        (found,) = run.fuzz(range(1), 0, Path(scratch))
    assert expected in found["fault"], (expected, found)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
