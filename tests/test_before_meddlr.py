"""What is done before meddlr is imported: the names that it uses, and the word where it is not there."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import meddlr
import numpy as np
import pandas as pd
import pytest
import torchmetrics

from meddlr_greedy.before_meddlr import REMOVED, RemovedName, give_back
from meddlr_greedy.meddlr_import import INSTALL
from tests.helpers.runs import ROOT

pytestmark = pytest.mark.short

MEDDLR = Path(meddlr.__file__).parent

# Nothing of ours leads there: metrics of segmentations, and of generated photographs.
OFF_THE_WAY = {"metrics/functional/util.py", "metrics/functional/sem_seg.py", "image/fid.py"}

by_name = pytest.mark.parametrize("entry", REMOVED, ids=lambda entry: entry.name)


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@by_name
def test_meddlr_uses_the_name_where_the_entry_says(entry):
    lines = (MEDDLR / entry.used_in).read_text().splitlines()
    use = re.compile(rf"{'np' if entry.owner is np else ''}\.{entry.name}\b")
    uses = [number for number, line in enumerate(lines, start=1) if use.search(line)]
    assert uses[0] == entry.line


def test_name_that_is_there_stays_what_it_is():
    """In a process of its own: in this one they have been given back."""
    look = "import numpy, pandas; names = [(numpy, 'complex'), (numpy, 'product'), (pandas.DataFrame, 'applymap')]\n"
    look += "before = [getattr(*name, None) for name in names]\nimport meddlr_greedy, meddlr\n"
    look += "print(*(a is None or a is getattr(*name) for a, name in zip(before, names)), len(names))"
    done = run("-W", "ignore", "-c", look)
    assert done.stdout == f"True True True {len(REMOVED)}\n", done.stderr


@pytest.mark.parametrize("has", [True, False])
def test_only_what_is_gone_is_given_back(has):
    owner = SimpleNamespace(**({"name": 1} if has else {}))
    give_back([RemovedName(owner, "name", 2, "file.py", 1)])
    assert owner.name == (1 if has else 2)


@pytest.mark.filterwarnings("ignore")
def test_values_are_what_the_names_stood_for():
    assert np.dtype(np.complex) == np.complex128 and np.product((2, 3)) == 6
    assert pd.DataFrame({"a": [0.25]}).applymap("{:0.3f}".format).loc[0, "a"] == "0.250"


@pytest.mark.filterwarnings("ignore")
def test_nothing_else_of_numpy_is_gone():
    """All names of numpy in the sources of meddlr and torchmetrics are there, but for metrics that are not used."""
    gone = set()
    for folder in (MEDDLR, Path(torchmetrics.__file__).parent):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                is_of_numpy = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("np", "numpy")
                if is_of_numpy and not hasattr(np, node.attr):
                    gone.add(path.relative_to(folder).as_posix())
    assert gone <= OFF_THE_WAY


# ---- without meddlr


@pytest.fixture
def no_meddlr(tmp_path):
    """Environment in which Python finds no meddlr."""
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *args: None if name == 'meddlr' else find(name, *args)\n"
    )
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


@pytest.mark.parametrize("command", ["-m meddlr_greedy train", "-m meddlr_greedy.train_net", "{}/meddlr-greedy plan"])
def test_command_without_meddlr_is_one_line(command, no_meddlr, tmp_path):
    (tmp_path / "meddlr-greedy").write_text("from meddlr_greedy.cli import main\nmain()\n")
    done = run(*command.format(tmp_path).split(), "--config-file", "cine/greedy.yaml", **no_meddlr)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: meddlr is not installed") and done.stderr.endswith(f"{INSTALL}\n")
    assert done.stderr.count("\n") == 1


def test_import_without_meddlr_is_an_import_error(no_meddlr):
    done = run("-c", "import meddlr_greedy\ntry: import meddlr\nexcept ImportError as error: print(error)", **no_meddlr)
    assert done.stdout.endswith(f"{INSTALL}\n"), done.stderr


COMMANDS = [path for folder in ("projects", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]
COMMANDS = [path for path in COMMANDS if 'if __name__ == "__main__"' in path.read_text()]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_import_the_package_before_meddlr(path):
    """Where numpy is newer than meddlr knows, they could not start."""
    own, *_ = (parent / "__init__.py" for parent in reversed(path.parents) if imports_package(parent / "__init__.py"))
    imported = [node for node in ast.parse(own.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in imported] == ["import meddlr_greedy"]


def imports_package(path):
    return path.exists() and "import meddlr_greedy" in path.read_text()


@pytest.mark.parametrize("name", ["projects.cine.benchmarks.__main__", "docs.write_methods"])
def test_the_package_is_there_first(name):
    code = f"import sys, {name}; names = list(sys.modules); print(names.index('meddlr_greedy') < names.index('meddlr'))"
    assert run("-c", code).stdout == "True\n"
