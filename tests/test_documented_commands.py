"""What the pages and the help texts tell to type: every command line, config and piece of Python, in a dry form.

A command line is parsed by the parser of its command, and its config is loaded with its overrides. Found are

* in pages: the fences bash, yaml and python, command lines in backticks, links;
* in Python files: the indented command lines of strings (docstrings, descriptions of parsers), those in backticks;
* in configs: indented command lines of comments, those in backticks;
* in all of them: ``python -m`` of a module, wherever it is said.

A python fence that begins with the name of a file, such as ``# my_package.py``, is that file for the configs and the
command lines of all pages.
"""

import argparse
import ast
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple

import pytest
import yaml
from torch.distributed.run import get_args_parser as torchrun_parser

from meddlr_greedy.cli import COMMANDS
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.config.reference import reference
from meddlr_greedy.config.schema import schema_keys
from meddlr_greedy.config.shipped import find_config
from tests.helpers.runs import ROOT

STARTS = r"(?:(?:[A-Z_]+=\S+ )*python -m|meddlr-greedy|torchrun|sbatch|make)"
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("projects/**/*.md"), *ROOT.glob("docs/**/*.md")})
SOURCES = sorted({*ROOT.glob("meddlr_greedy/**/*.py"), *ROOT.glob("projects/**/*.py")})
CONFIGS = sorted(path for path in ROOT.glob("configs/**/*") if path.is_file())

# What a page may tell to type besides; nothing of it is ours to check.
OTHERS = {"cd", "git", "source"}


class Found(NamedTuple):
    """A piece of text and where it is."""

    where: str
    text: str


class Mistake(AssertionError):
    """A command line, config or piece of Python that does not work."""


# ---- finding


def _where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT).as_posix()}:{line}"


def fences(path: Path, language: str) -> Iterator[Found]:
    """The fenced blocks of a page."""
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.M | re.S):
        if block[1] == language:
            yield Found(_where(path, path.read_text()[: block.start(2)].count("\n") + 1), block[2])


def command_lines(found: Found) -> Iterator[Found]:
    """The lines of a shell script: continued lines joined, comments and empty lines left out."""
    where, first = found.where.rsplit(":", 1)
    line, number = "", int(first)
    for offset, text in enumerate(found.text.splitlines()):
        number = number if line else int(first) + offset
        line += text
        if line.endswith("\\"):
            line = line[:-1]
            continue
        if shlex.split(line, comments=True):
            yield Found(f"{where}:{number}", line.strip())
        line = ""


def in_backticks(path: Path, text: str) -> Iterator[Found]:
    """Command lines in single or double backticks."""
    without_fences = re.sub(r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S)
    for span in re.finditer(rf"(?<!`)(`{{1,2}})({STARTS} [^`]+)\1(?!`)", without_fences):
        yield Found(_where(path, text[: span.start()].count("\n") + 1), re.sub(r"\s*\n\W*", " ", span[2]))


def indented(where: str, text: str) -> Iterator[Found]:
    """The command lines of a string or comment that stand on lines of their own, indented."""
    file, first = where.rsplit(":", 1)
    for match in re.finditer(rf"^[ ]{{2,}}({STARTS} (?:.*\\\n)*.*)$", text, re.M):
        yield from command_lines(Found(f"{file}:{int(first) + text[: match.start()].count(chr(10))}", match[1]))


def strings(path: Path) -> Iterator[Found]:
    """The string constants of a Python file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Found(_where(path, node.lineno), node.value)


def all_command_lines() -> List[Found]:
    """Every command line, once for each place."""
    found: List[Found] = []
    for page in PAGES:
        found += [line for block in fences(page, "bash") for line in command_lines(block)]
        found += in_backticks(page, page.read_text())
    for source in SOURCES:
        found += [line for string in strings(source) for line in indented(string.where, string.text)]
        found += in_backticks(source, source.read_text())
    for config in CONFIGS:
        text = "\n".join(line[1:] if line.startswith("#") else "" for line in config.read_text().splitlines())
        found += [*indented(_where(config, 1), text), *in_backticks(config, text)]
    return found


def all_fences(language: str) -> List[Found]:
    """Every block of a language in the pages."""
    return [block for page in PAGES for block in fences(page, language)]


def all_modules() -> List[Found]:
    """Every ``python -m`` of one of our modules."""
    found = {}
    for path in [*PAGES, *SOURCES, *CONFIGS, ROOT / "Makefile"]:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for module in re.findall(r"-m ((?:meddlr_greedy|projects)[\w.]*\w)", line):
                found[_where(path, number), module] = Found(_where(path, number), module)
    return list(found.values())


def all_links() -> List[Found]:
    """Every link of a page to a file."""
    found = []
    for page in PAGES:
        for link in re.finditer(r"\]\(([^)\s]+)\)", page.read_text()):
            if not link[1].startswith(("http:", "https:")):
                found.append(Found(_where(page, page.read_text()[: link.start()].count("\n") + 1), link[1]))
    return found


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
    while re.match(r"[A-Z_]+=", words[0]):
        del words[0]
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
        if arguments[1:]:
            try_arguments(COMMANDS[arguments[0]], arguments[1:], capsys)


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
    try_config(text, tmp_path)


@places(all_fences("python"))
def test_python(text, at_root):
    try_python(text)


@pytest.mark.parametrize("found", [pytest.param(f, id=f"{f.where} {f.text}") for f in all_links()])
def test_link(found):
    page = ROOT / found.where.split(":")[0]
    name, _, heading = found.text.partition("#")
    target = page.parent / name if name else page
    assert target.exists()
    if heading:
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
        assert heading in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]


def test_readme_has_keys_in_their_sections():
    text = (ROOT / "README.md").read_text()
    told, section = [], ""
    for row in re.findall(r"^\| *(.*?) *\| (.*?) \|", text[text.index("### Keys") : text.index("### Code")], re.M)[1:]:
        section = row[0].strip("`") or section
        told += [f"{section}.{key}" for key in re.findall(r"`(\w+)`", row[1])]
    assert len(told) == len(set(told)) >= 20
    assert set(told) <= {key.full_name for key in schema_keys()}


def test_reference_of_keys_is_that_of_the_schema():
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == reference(), "write it again: python -m meddlr_greedy.config.reference --output docs/config.md"
    for key in schema_keys():
        assert f"| `{key.name.split('.')[-1]}` | `{key.default!r}` | {key.rule.meaning} |" in page


def test_every_language_is_known():
    for page in PAGES:
        for language in re.findall(r"^```(\w+)$", page.read_text(), re.M):
            assert language in ("bash", "yaml", "python", "text"), page


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


def test_all_places_are_looked_at():
    """A pattern that finds nothing would pass."""
    found = all_command_lines()
    for part in ("README.md", "projects/cine/README.md", "meddlr_greedy/", "projects/cine/studies/", "configs/slurm/"):
        assert any(place.where.startswith(part) for place in found), part
    assert all_fences("yaml") and all_fences("python") and all_modules() and all_links()


def test_lines_are_joined():
    script = Found("page.md:7", "a b \\\n    c  # why\n\n# nothing\nd\n")
    assert [*command_lines(script)] == [("page.md:7", "a b     c  # why"), ("page.md:11", "d")]
    text = "Example::\n\n    make a \\\n        b\n\nmake nothing"
    assert [*indented("file.py:3", text)] == [("file.py:5", "make a         b")]
