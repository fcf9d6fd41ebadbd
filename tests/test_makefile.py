"""``make`` with several Pythons: what it would install, when it does so again, and which it refuses."""

import os
import shutil
import subprocess

import pytest

from tests.helpers.runs import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def make(tmp_path):
    """make(version, *arguments): runs in a copy of the checkout, with a Python that says it is of this version."""
    for name in ("Makefile", "pyproject.toml", "setup.py", *(path.name for path in ROOT.glob("constraints*.txt"))):
        shutil.copy(ROOT / name, tmp_path)

    def make(version, *arguments):
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\necho {version}\n")
        python.chmod(0o755)
        # Under `make test`, make would take the options of the one above.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        command = ["make", *arguments, f"PYTHON={python}"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    make.folder = tmp_path
    return make


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_newer_python_takes_meddlr_without_its_pins(version, make):
    would = make(version, "-n", "venv").stdout
    is_newer = version in ("3.12", "3.13")
    assert ("--no-deps" in would) == is_newer
    assert f"-c constraints{'-newest' if is_newer else ''}.txt -e" in would


def test_another_python_sets_up_anew(make):
    (make.folder / ".venv").mkdir()
    (make.folder / ".venv" / ".ready-3.11").touch()
    assert make("3.11", "-n", "venv").stdout == "make: Nothing to be done for 'venv'.\n"
    assert "rm -rf .venv" in make("3.12", "-n", "venv").stdout


@pytest.mark.parametrize("version", ["3.9", "3.14", "2.7", ""])
def test_other_python_is_refused_in_one_line(version, make):
    (make.folder / ".venv").mkdir()
    done = make(version, "test")
    own, of_make = done.stderr.splitlines()
    assert (
        done.returncode == 2 and own.startswith("error: Python 3.10 to 3.13 needed, found") and "make: ***" in of_make
    )
    assert version in own and (make.folder / ".venv").is_dir()
