"""No file, however it was changed, ends a command otherwise than well or in one line."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from meddlr_greedy.errors import UserError
from tests.fuzz import run
from tests.fuzz.targets import Target
from tests.helpers.jobs import start_job  # noqa: F401 (a fixture)


def fuzz(arguments):
    """The fuzzer, in a process that is forked where everything has been imported."""
    sys.argv[1:] = arguments
    run.main()


@pytest.mark.parametrize(
    ("count", "arguments"),
    [
        (100, ["--seed", "0"]),
        pytest.param(10_000, ["--seed", "1"], marks=pytest.mark.stress),
        pytest.param(50, ["--seed", "2", "--commands"], marks=pytest.mark.stress),
    ],
)
def test_changed_files_are_read_or_refused(start_job, count, arguments):  # noqa: F811
    job = start_job(1, fuzz, ["--count", str(count), *arguments])
    assert job.wait(7200) == [0] and job.text().endswith(f"{count} inputs, 0 faults\n"), job.text()[-5000:]


def raise_two(folder):
    print("error: another", file=sys.stderr)
    raise UserError("one")


def use_processor(folder):
    while True:
        pass


#: What is to be said of a reader -> what it does.
FAULTS = {
    "status 1": lambda folder: {}["key"],
    "longer": use_processor,
    "wrote": lambda folder: (folder / "beside").write_text(""),
    "2 lines": raise_two,
    "GB": lambda folder: bytes([1]) * 1_400_000_000,
    "signal": lambda folder: os.abort(),
}


def make(folder):
    folder.mkdir(parents=True)
    (folder / "a").write_text("x")


def find_faults():
    for expected, read in FAULTS.items():
        run.SECONDS = 2 if read is use_processor else 60  # the others end by themselves, on a loaded machine later
        run.TARGETS[:] = [Target(expected, make, [("a", [])], read, None)]
        with tempfile.TemporaryDirectory() as scratch:
            (found,) = run.fuzz(range(1), 0, Path(scratch))
        assert expected in found["fault"], (expected, found)


def test_a_fault_is_found(start_job):  # noqa: F811
    """A reader that raises something of its own, hangs, writes beside its output or prints two lines is reported."""
    job = start_job(1, find_faults)
    assert job.wait() == [0], job.text()[-3000:]
