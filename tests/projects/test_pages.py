"""The pages of the project name commands and files that exist; every command tells how it is called."""

import importlib
import importlib.util
import re

import pytest

from projects.cine.paths import CONFIGS, README_PAGE, RESULTS_PAGE, ROOT

COMMANDS = [
    "projects.cine.baselines.compressed_sensing",
    "projects.cine.benchmarks",
    "projects.cine.benchmarks.reconstruct_peaks",
    "projects.cine.demo",
    "projects.cine.scaling",
    "projects.cine.scaling.timeline",
    "projects.cine.studies.border",
    "projects.cine.studies.equal_architecture",
    "projects.cine.studies.equal_memory",
    "projects.cine.studies.pig",
    "projects.cine.studies.sampling",
    "projects.cine.studies.self_supervised",
    "projects.cine.studies.tiled",
    "projects.cine.studies.wrapped",
    "projects.cine.zoo",
]


def is_command(module):
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        return importlib.util.find_spec(f"{module}.__main__") is not None
    return spec is not None


@pytest.mark.parametrize("module", COMMANDS)
def test_help_says_how_it_is_called_and_gives_an_example(module, capsys):
    assert is_command(module)
    is_package = importlib.util.find_spec(module).submodule_search_locations
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"{module}.__main__" if is_package else module).main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert text.split()[:4] == ["usage:", "python", "-m", module]
    example = text[text.index("Example::") :]
    assert f"    python -m {module}" in example


@pytest.mark.parametrize("page", [README_PAGE, RESULTS_PAGE], ids=lambda path: path.name)
def test_pages_name_what_exists(page):
    text = page.read_text()
    for module in set(re.findall(r"projects\.cine\.[a-z_.]*[a-z]", text)):
        assert is_command(module) and module in COMMANDS, module
    for target in re.findall(r"\]\(([^)#:]+)", text):
        assert (page.parent / target).is_file(), target
    for config in re.findall(r"configs/cine/[a-z0-9_]+\.yaml", text):
        assert (ROOT / config).is_file(), config
    assert CONFIGS.is_dir()
