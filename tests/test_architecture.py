"""The shape of the house: imports point down, and no file, function or folder grows too large."""

import ast
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT

SOURCES = sorted(path for folder in ("meddlr_greedy", "projects") for path in (ROOT / folder).rglob("*.py"))

MAX_FILE = 400
MAX_FUNCTION = 60
MAX_SHARE = 0.2

# These hold everything.
ROOMS_OF_ALL = {Path("meddlr_greedy"), Path("projects"), Path("projects/cine")}


def lint_imports(folder):
    """Exit status and output of ``lint-imports`` in a folder."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def copied(tmp_path):
    """The package and the projects, to be changed."""
    for folder in ("meddlr_greedy", "projects"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("results", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_point_down():
    status, said = lint_imports(ROOT)
    assert status == 0, said


@pytest.mark.parametrize(
    "file, line, said",
    [
        ("ops/coils.py", "import meddlr_greedy.data.masks", "meddlr_greedy.ops is not allowed to import"),
        ("errors.py", "from meddlr_greedy import files, ops", "meddlr_greedy.errors is not allowed to import"),
        ("data/masks.py", "def f():\n    import meddlr_greedy.modeling", "is not allowed to import"),
        ("engine/memory.py", "from projects.cine import demo", "meddlr_greedy is not allowed to import projects"),
        (
            "ops/cine_sense.py",
            "import meddlr_greedy.ops.phase_constrained",
            "No cycles are allowed in meddlr_greedy.ops",
        ),
        ("new_file.py", "", "new_file"),
    ],
)
def test_an_import_that_points_up_is_found(copied, file, line, said):
    with open(copied / "meddlr_greedy" / file, "a") as opened:
        opened.write(f"\n{line}\n")
    status, output = lint_imports(copied)
    assert status != 0 and said in output, output


def test_files_and_functions_are_short():
    too_long = []
    for path in SOURCES:
        text = path.read_text()
        name = path.relative_to(ROOT).as_posix()
        lines = len(text.splitlines())
        if lines > MAX_FILE:
            too_long.append(f"{name}: {lines} lines, allowed are {MAX_FILE}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION:
                    too_long.append(f"{name}:{node.lineno} {node.name}: {lines} lines, allowed are {MAX_FUNCTION}")
    assert not too_long, "\n".join(too_long)


def test_no_folder_holds_a_fifth_of_all_lines():
    lines = Counter()
    for path in SOURCES:
        for folder in path.relative_to(ROOT).parents:
            lines[folder] += len(path.read_text().splitlines())
    total = lines.pop(Path("."))
    shares = {str(folder): n / total for folder, n in lines.items() if folder not in ROOMS_OF_ALL}
    assert {folder: f"{share:.0%}" for folder, share in shares.items() if share > MAX_SHARE} == {}
