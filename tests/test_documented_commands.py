"""What the pages and the help texts tell to type: every command line, config and piece of Python, in a dry form.

A command line is parsed by the parser of its command, and its config is loaded with its overrides. Python runs, all
blocks of a page one after the other. The cells of notebooks are run where the site is built (``make docs``); here their
command lines are parsed, and their imports tried. Found are

* in pages: the fences bash, yaml and python, the cells of notebooks, command lines in backticks, links, error lines;
* in Python files: the indented command lines of strings (docstrings, descriptions of parsers), those in backticks;
* in configs: indented command lines of comments, those in backticks;
* in all of them: ``python -m`` of a module, wherever it is said.

A python fence that begins with the name of a file, such as ``# my_package.py``, is that file for the configs and the
command lines of all pages. The files of ``tests/data/plugin`` and ``tests/data/smallest`` stand in docs/extending.md to
the letter; they are run by tests of their own, not here.
"""

import argparse
import ast
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any, List

import pytest
import torch
import yaml
from torch.distributed.run import get_args_parser as torchrun_parser

from docs.write_commands import reference as reference_of_commands
from meddlr_greedy.cli import COMMANDS
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.config.reference import reference
from meddlr_greedy.config.schema import schema_keys
from meddlr_greedy.config.shipped import find_config
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.preparation.sources import registered_readers
from tests.helpers.networks import plain_network, small_config
from tests.helpers.pages import (
    CELL,
    FENCE,
    INCLUDE,
    LANGUAGES,
    PAGES,
    SOURCES,
    Found,
    all_command_lines,
    all_fences,
    all_links,
    all_modules,
    command_lines,
    fences,
    indented,
    message_templates,
    quoted_errors,
    with_included,
)
from tests.helpers.plugin import FOLDER, SMALLEST, importable
from tests.helpers.runs import ROOT

# What a page may tell to type besides; nothing of it is ours to check.
OTHERS = {"cd", "git", "source"}


class Mistake(AssertionError):
    """A command line, config or piece of Python that does not work."""


# ---- trying


def command_module(name: str) -> Any:
    """The module that ``python -m name`` runs."""
    try:
        is_package = importlib.util.find_spec(name).submodule_search_locations is not None
        module = importlib.import_module(f"{name}.__main__" if is_package else name)
    except (ImportError, AttributeError):
        raise Mistake(f"there is no module {name}") from None
    if not hasattr(module, "main"):
        raise Mistake(f"{name} is no command: it has no main")
    return module


def try_arguments(module: str, arguments: List[str], capsys) -> None:
    """Parses the arguments of one of our commands, and loads the config that they name."""
    parser = command_module(module).build_parser()
    try:
        args = parser.parse_args(arguments)
    except SystemExit as end:
        error = capsys.readouterr().err
        if end.code:
            raise Mistake(error) from None
        return  # --help
    config = getattr(args, "config_file", None)
    if config:
        load_config(str(config), getattr(args, "opts", ()))


def try_command(line: str, capsys) -> None:
    """Parses a command line without running it.

    Raises:
        Mistake: It names a flag, a module, a target or a file that is not there.
        UserError: Its config cannot be loaded.
    """
    words = shlex.split(line, comments=True)
    environment = {}
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, environment[name] = words.pop(0).partition("=")
    if "PYTHONPATH" in environment:
        folder = ROOT / environment["PYTHONPATH"]
        with importable(folder, forget=[path.stem for path in folder.glob("*.py")]):
            try_words(words, capsys)
    else:
        try_words(words, capsys)


def try_words(words: List[str], capsys) -> None:
    """The same without its environment."""
    command, *arguments = words
    if command == "python" and arguments[0] == "-m":
        if arguments[1] == "meddlr_greedy":
            try_cli(arguments[2:], capsys)
        elif arguments[1].split(".")[0] in ("meddlr_greedy", "projects"):
            # Without arguments it may be a mention of the command.
            command_module(arguments[1])
            if arguments[2:]:
                try_arguments(arguments[1], arguments[2:], capsys)
        elif importlib.util.find_spec(arguments[1]) is None:
            raise Mistake(f"there is no module {arguments[1]}")
    elif command == "meddlr-greedy":
        try_cli(arguments, capsys)
    elif command == "torchrun":
        args = torchrun_parser().parse_args(arguments)
        if not args.module:
            raise Mistake("torchrun without -m")
        try_arguments(args.training_script, args.training_script_args, capsys)
    elif command == "sbatch":
        _check_file(arguments[0])
        try_arguments("meddlr_greedy.train_net", ["--config-file", arguments[1], "--resume", *arguments[2:]], capsys)
    elif command == "make":
        targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M)
        for target in arguments:
            if "=" not in target and target not in targets:
                raise Mistake(f"there is no target {target}, but {', '.join(targets)}")
    elif command == "pip":
        try_pip(arguments)
    elif command not in OTHERS:
        raise Mistake(f"{command}: a command that nothing here knows")


def try_cli(arguments: List[str], capsys) -> None:
    """``meddlr-greedy``, alone or with a command; the latter without arguments may be a mention."""
    if arguments and arguments[0] not in ("--help", "--version"):
        if arguments[0] not in COMMANDS:
            raise Mistake(f"there is no command {arguments[0]}, but {', '.join(COMMANDS)}")
        if arguments[1:] and not is_sub_command(arguments):
            try_arguments(COMMANDS[arguments[0]], arguments[1:], capsys)


def is_sub_command(arguments: List[str]) -> bool:
    """Whether they are a sub-command of ``prepare`` alone, as in a heading."""
    return len(arguments) == 2 and arguments[0] == "prepare" and arguments[1] in registered_readers()


def try_pip(arguments: List[str]) -> None:
    """``pip install`` of this package: constraints and extras are there."""
    if arguments[0] != "install":
        raise Mistake(f"pip {arguments[0]}")
    if "-c" in arguments:
        _check_file(arguments[arguments.index("-c") + 1])
    for extras in re.findall(r"\.\[(.*?)\]", " ".join(arguments)):
        for extra in extras.split(","):
            if not re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.M):
                raise Mistake(f"there is no extra {extra}")


def try_error(line: str) -> None:
    """Looks for the texts of the package that make up an error line: they cover most of its fixed words."""
    covered = bytearray(len(line))
    for parts in message_templates():
        if not all(part in line for part in parts):
            continue  # thousands of expressions take seconds
        match = re.search("(.*?)".join(f"(?P<p{i}>{re.escape(part)})" for i, part in enumerate(parts)), line)
        for i in range(len(parts)) if match else ():
            covered[match.start(f"p{i}") : match.end(f"p{i}")] = b"\x01" * len(parts[i])
    for value in re.finditer(r"<[^>]*>|'[^']*'|\b\d+\b|[A-Z_.]{4,}\b|\b\w+\.(?:yaml|pth)\b", line):
        covered[value.start() : value.end()] = b"\x01" * len(value[0])
    if sum(covered) < 0.85 * len(line):
        left = "".join(letter if not known else " " for letter, known in zip(line, covered))
        raise Mistake(f"no text of the package says '{' '.join(left.split())}'")


def _check_file(name: str) -> None:
    if not (ROOT / name).is_file():
        raise Mistake(f"there is no file {name}")


def try_python(source: str) -> None:
    """Compiles it, and looks for what it imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


def try_config(text: str, folder: Path) -> None:
    """Loads a config, or a part of one over a config of the package."""
    values = yaml.safe_load(re.sub(r"!!python/name:\S+", "", text))
    if "_BASE_" not in values:
        text = f'_BASE_: "{find_config("cine/greedy.yaml")}"\n{text}'
    path = folder / "config.yaml"
    path.write_text(text)
    load_config(str(path))


# ---- tests


@pytest.fixture(scope="session")
def files_of_pages(tmp_path_factory):
    """The python fences that begin with the name of a file, as files that can be imported."""
    folder = tmp_path_factory.mktemp("pages")
    for block in all_fences("python"):
        name = re.match(r"# ([\w/]+\.py)\n", block.text)
        if name:
            path = folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def at_root(monkeypatch, files_of_pages):
    """The root of the repository is the current folder."""
    monkeypatch.chdir(ROOT)


def places(found: List[Found]) -> Any:
    """Parametrizes a test by what was found and where."""
    return pytest.mark.parametrize("text", [pytest.param(f.text, id=f"{f.where} {f.text[:60]}") for f in found])


@places(all_command_lines())
def test_command_line(text, at_root, capsys):
    try_command(text, capsys)


@places(all_modules())
def test_module_is_a_command(text):
    command_module(text)


@places(all_fences("yaml"))
def test_config(text, at_root, tmp_path):
    with importable(FOLDER), importable(SMALLEST, forget=["smallest"]):
        try_config(text, tmp_path)


@places(all_fences(CELL))
def test_cell_of_a_notebook(text):
    try_python(text)


@pytest.fixture
def given_names():
    """What stands for a user's own in the Python of pages: a network, its loss, a batch."""
    network = plain_network(small_config("GeneralizedUnrolledCNN"), "GeneralizedUnrolledCNN")
    shapes = {"kspace": (1, 12, 10, 3), "maps": (1, 12, 10, 3, 1), "target": (1, 12, 10, 1)}
    batch = {name: torch.randn(shape, dtype=torch.complex64) for name, shape in shapes.items()}
    batch["mask"] = torch.ones(1, 12, 10, 1)
    return {"network": network, "loss": complex_l1, "batch": batch}


SITE = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]
EXTENDING = ROOT / "docs" / "extending.md"
FILES_OF_PLUGIN = {
    path.name: path.read_text()
    for folder in (FOLDER, SMALLEST)
    for path in folder.rglob("*.*")
    if path.suffix in (".py", ".toml", ".yaml")
}
PAGES_WITH_PYTHON = [page for page in PAGES if any(fences(page, "python"))]


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_of_a_page_runs(page, at_root, tmp_path, monkeypatch, given_names):
    monkeypatch.chdir(tmp_path)
    for block in fences(page, "python"):
        if block.text in FILES_OF_PLUGIN.values():
            continue  # what registers itself does so once
        try_python(block.text)
        exec(compile(block.text, block.where, "exec"), given_names)


@pytest.mark.parametrize("name", FILES_OF_PLUGIN)
def test_file_of_the_plugin_stands_in_extending_to_the_letter(name):
    language = {"py": "python"}.get(name.split(".")[1], name.split(".")[1])
    assert FILES_OF_PLUGIN[name] in [block.text for block in fences(EXTENDING, language)]


@places(quoted_errors())
def test_error_line_is_one_of_the_package(text):
    try_error(text)


@pytest.mark.parametrize("found", [pytest.param(f, id=f"{f.where} {f.text}") for f in all_links()])
def test_link(found):
    page = ROOT / found.where.split(":")[0]
    name, _, heading = found.text.partition("#")
    target = page.parent / name if name else page
    assert target.exists()
    if heading:
        headings = re.findall(r"^#+ (.*)$", with_included(target), re.M)
        assert heading in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]


def test_readme_is_one_screen():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", SITE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_keys_that_pages_name_are_there(page):
    names = [key.full_name for key in schema_keys()]
    for line in page.read_text().splitlines():
        for key in re.findall(r"MISC\.GREEDY\.[A-Z_.0-9]*[A-Z0-9]", line):
            # One that is misspelled is shown with the error line about it.
            assert "unknown key" in line or any(f"{name}.".startswith(f"{key}.") for name in names), key


def test_every_page_of_the_site_is_in_its_contents():
    listed = [name for block in fences(ROOT / "docs" / "index.md", "{toctree}") for name in block.text.split()]
    pages = [page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in SITE]
    assert {*pages} - {"index"} <= {*listed}


def test_reference_of_commands_is_that_of_the_parsers():
    page = (ROOT / "docs" / "commands.md").read_text()
    assert page == reference_of_commands(), "write it again: python -m docs.write_commands --output docs/commands.md"
    for name, module in COMMANDS.items():
        for action in command_module(module).build_parser(f"meddlr-greedy {name}")._actions:
            if action.option_strings and action.help != argparse.SUPPRESS and action.dest not in ("help", "debug"):
                assert f"`{action.option_strings[0]}`" in page


def test_reference_of_keys_is_that_of_the_schema():
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == reference(), "write it again: python -m meddlr_greedy.config.reference --output docs/config.md"
    for key in schema_keys():
        assert f"| `{key.name.split('.')[-1]}` | `{key.default!r}` | {key.rule.meaning} |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_is_known(page):
    """No block of code is passed over: none without a language, none of an unknown one, none indented instead."""
    text = page.read_text()
    blocks = [*FENCE.finditer(text)]
    assert len(re.findall(r"^\s*(?:`{3,}|~{3,})", text, re.M)) == 2 * len(blocks), "a fence is not closed"
    for block in blocks:
        language = block["language"].strip()
        if language.startswith(INCLUDE):
            assert (page.parent / language.split()[1]).is_file(), language
        else:
            assert language in LANGUAGES, language
    prose = FENCE.sub("", text)
    assert not re.search(r"^\n( {4,}|\t)\S", prose, re.M), "a block of code is to be fenced"


# Files that are run, but not by people: the package itself, and what starts a process of a job.
NO_COMMANDS = [ROOT / "meddlr_greedy" / "__main__.py", ROOT / "meddlr_greedy" / "jobs" / "start.py"]
COMMAND_MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).replace(".__main__", "")
    for path in SOURCES
    if '__name__ == "__main__"' in path.read_text() and path not in NO_COMMANDS
]


@pytest.mark.parametrize("name", [*COMMAND_MODULES, *COMMANDS])
def test_help_has_an_example(name):
    module = command_module(COMMANDS.get(name, name))
    parser = module.build_parser(f"meddlr-greedy {name}") if name in COMMANDS else module.build_parser()
    assert parser.prog == (f"meddlr-greedy {name}" if name in COMMANDS else f"python -m {name}")
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for one in [parser, *(sub for action in subparsers for sub in action.choices.values())]:
        # However it was called, the help may show either form.
        forms = [one.prog, *(one.prog.replace(f"meddlr-greedy {c}", f"python -m {m}") for c, m in COMMANDS.items())]
        forms += [one.prog.replace(f"python -m {m}", f"meddlr-greedy {c}") for c, m in COMMANDS.items()]
        examples = [found.text for found in indented("help:1", one.format_help())]
        assert any(example.startswith(tuple(forms)) for example in examples), one.format_help()


@pytest.mark.parametrize(
    "line, said",
    [
        ("meddlr-greedy train --config-file cine/greedy.yaml --resum", "--resume"),
        ("meddlr-greedy trian --config-file cine/greedy.yaml", "trian"),
        ("meddlr-greedy train --config-file cine/gredy.yaml", "cine/greedy.yaml"),
        ("meddlr-greedy train --config-file cine/greedy.yaml MISC.GREEDY.NUM_MODULE 2", "NUM_MODULES"),
        ("python -m meddlr_greedy.trainnet --config-file cine/greedy.yaml", "meddlr_greedy.trainnet"),
        ("python -m meddlr_greedy.errors", "meddlr_greedy.errors"),
        ("python -m projects.cine.benchmarks nothing", "invalid choice"),
        ("torchrun --nproc-per-node 2 -m meddlr_greedy.train_net --config-fil F", "--config-file"),
        ("sbatch configs/slurm/nowhere.sbatch cine/greedy.yaml", "nowhere"),
        ("make nothing", "nothing"),
        ("pip install -e .[nothing]", "nothing"),
        ("nothing --at all", "nothing"),
    ],
)
def test_mistake_is_found(line, said, at_root, capsys):
    with pytest.raises((Mistake, ValueError), match=re.escape(said)):
        try_command(line, capsys)


def test_mistake_in_a_block_is_found(at_root, tmp_path):
    with pytest.raises(ValueError, match="NUM_MODULES"):
        try_config("MISC: {GREEDY: {NUM_MODULE: 4}}", tmp_path)
    with pytest.raises(ImportError):
        try_python("from meddlr_greedy import Nothing")
    with pytest.raises(Mistake, match="somewhere"):
        try_error(
            "OUTPUT_DIR: <...> holds the checkpoints of somewhere else; restart it with --again, or another folder"
        )


def test_all_places_are_looked_at():
    """A pattern that finds nothing would pass."""
    found = all_command_lines()
    parts = ("README.md", "docs/", "docs/notebooks/", "projects/cine/README.md", "meddlr_greedy/")
    for part in (*parts, "projects/cine/studies/", "configs/slurm/"):
        assert any(place.where.startswith(part) for place in found), part
    assert all_fences("yaml") and all_fences("python") and all_fences(CELL) and all_modules() and all_links()
    assert len(quoted_errors()) > 30


def test_lines_are_joined():
    script = Found("page.md:7", "a b \\\n    c  # why\n\n# nothing\nd\n")
    assert [*command_lines(script)] == [("page.md:7", "a b     c  # why"), ("page.md:11", "d")]
    text = "Example::\n\n    make a \\\n        b\n\nmake nothing"
    assert [*indented("file.py:3", text)] == [("file.py:5", "make a         b")]
