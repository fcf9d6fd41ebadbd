"""The command ``meddlr-greedy``, configs found by name, and the package as it is installed from a wheel."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meddlr_greedy import __version__, cli
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.config.shipped import find_config, shipped_configs
from meddlr_greedy.errors import UserError
from meddlr_greedy.zoo import zoo_names
from tests.helpers.runs import ROOT

# ---- the command


def ended(capsys, *argv):
    """Exit status, output and errors of the command."""
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    said = capsys.readouterr()
    return end.value.code or 0, said.out, said.err


def test_help_names_all_commands(capsys):
    status, output, _ = ended(capsys, "--help")
    listed = re.findall(r"^  (\w+)   ", output[: output.index("Example::")], re.M)
    assert status == 0 and sorted(listed) == sorted(cli.COMMANDS)


def test_version(capsys):
    assert ended(capsys, "--version") == (0, f"meddlr-greedy {__version__}\n", "")


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "required: COMMAND"),
        (["trian", "--resume"], "did you mean 'train'?"),
        (["--resume"], "required: COMMAND"),
        (["train", "--resum"], "did you mean '--resume'?; see meddlr-greedy train --help"),
        (["train", "--config-file", "cine/gredy.yaml"], "did you mean 'cine/greedy.yaml'?"),
    ],
)
def test_mistake_is_one_line(argv, said, capsys):
    status, _, error = ended(capsys, *argv)
    assert status == 2 and error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_is_called_as_it_was(command, capsys):
    status, output, _ = ended(capsys, command, "--help")
    assert status == 0 and output.startswith(f"usage: meddlr-greedy {command} ")


def test_python_m_is_the_same():
    command = [sys.executable, "-m", "meddlr_greedy", "--version"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == f"meddlr-greedy {__version__}\n"


# ---- configs


def test_configs_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "cine/greedy.yaml" in shipped_configs() and len(shipped_configs()) == len([*ROOT.glob("configs/*/*.yaml")])
    assert Path(find_config("cine/greedy.yaml")).samefile(ROOT / "configs" / "cine" / "greedy.yaml")
    assert load_config("cine/greedy.yaml") == load_config(str(ROOT / "configs" / "cine" / "greedy.yaml"))


def test_file_that_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "cine" / "greedy.yaml"
    own.parent.mkdir()
    own.write_text(f'_BASE_: "{find_config("cine/greedy.yaml")}"\nSEED: 5\n')
    assert find_config("cine/greedy.yaml") == "cine/greedy.yaml"
    assert load_config("cine/greedy.yaml").SEED == 5


@pytest.mark.parametrize("name", ["cine/nothing.yaml", "../configs/cine/greedy.yaml", "cine"])
def test_unknown_config_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="No such file.*knee/greedy.yaml"):
        find_config(name)


# ---- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made from a clean copy of what git knows."""
    folder = tmp_path_factory.mktemp("wheel")
    # As it is in the working tree, and none of what git ignores.
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in names.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "projects/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, folder / "source"], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """run(*arguments): the console script of the installed wheel, outside of the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", wheel], check=True)
    (folder / "work").mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MEDDLR")}
    environment.update(PYTHONPATH=str(folder / "site"), OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

    def run(*arguments, script=folder / "site" / "bin" / "meddlr-greedy"):
        return subprocess.run(
            [sys.executable, *([script] if script else []), *map(str, arguments)],
            cwd=folder / "work",
            env=environment,
            capture_output=True,
            text=True,
        )

    run.folder = folder / "work"
    return run


def test_wheel_holds_the_package(wheel):
    names = subprocess.run([sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True).stdout
    found = set(re.findall(r"^(meddlr_greedy/\S+)", names, re.M))
    configs = {f"meddlr_greedy/configs/{path.relative_to(ROOT / 'configs')}" for path in ROOT.glob("configs/*/*.*")}
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("meddlr_greedy/**/*.py")}
    page = {f"meddlr_greedy/viewer/{name}" for name in ("page.css", "page.html", "table.js", "viewer.js")}
    zoo = {f"{path.relative_to(ROOT)}" for path in ROOT.glob("meddlr_greedy/zoo/*/*.*")}
    assert len(zoo) == 3 * len(zoo_names())  # weights, config and card
    assert found == {*configs, *sources, *page, *zoo, "meddlr_greedy/py.typed"}


@pytest.mark.short
@pytest.mark.stress
def test_the_whole_way_outside_of_the_checkout(installed):
    """Prepare, train in one process and in two, evaluate, compare, reconstruct and plan by the command alone."""

    def succeed(*arguments):
        done = installed(*arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    place = installed("-c", "import meddlr_greedy; print(meddlr_greedy.__file__)", script=None).stdout
    assert Path(place.strip()).is_relative_to(installed.folder.parent)
    assert succeed("--version") == f"meddlr-greedy {__version__}\n"
    succeed("prepare", "phantom", "--output", "datasets/phantom", "--subjects", 3, "--slices", 1, "--frames", 4)
    config = ["--config-file", "cine/demo.yaml"]
    small = ["MODEL.UNROLLED.NUM_FEATURES", 4, "SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 3]
    for folder, processes in (("results/one", 1), ("results/two", 2)):
        succeed("train", *config, "--num-gpus", processes, *small, "OUTPUT_DIR", folder)
        assert "model_final.pth" in os.listdir(installed.folder / folder)
        succeed("eval", *config, *small, "OUTPUT_DIR", folder, "--num-figures", 1)
    succeed("compare", "results/one", "results/two", "--output", "results/compared")
    assert (installed.folder / "results/compared/comparison.csv").is_file()
    scan = next((installed.folder / "datasets/phantom").rglob("*.h5"))
    run = ["--config-file", "results/one/config.yaml", "--output", "results/recon"]
    succeed("reconstruct", *run, scan)
    assert (installed.folder / "results/recon" / f"{scan.stem}_recon.nii").is_file()
    assert "peak" in succeed("plan", *config, *small)
    for name in zoo_names():
        assert name in succeed("zoo")
    succeed("reconstruct", "--weights", zoo_names()[0], scan, "--output", "results/zoo")
    assert (installed.folder / "results/zoo" / f"{scan.stem}_recon.nii").is_file()
