"""What pages, sources and configs of the repository hold that can be tried; test_documented_commands tries it."""

import ast
import functools
import re
import shlex
from pathlib import Path
from typing import Iterator, List, NamedTuple

from tests.helpers.runs import ROOT

STARTS = r"(?:(?:[A-Z_]+=\S+ )*python -m|meddlr-greedy|torchrun|sbatch|make)"
_PLACES = ("*.md", "projects/**/*.md", "docs/**/*.md", "meddlr_greedy/zoo/*/*.md")
PAGES = sorted({page for place in _PLACES for page in ROOT.glob(place)})
SOURCES = sorted({*ROOT.glob("meddlr_greedy/**/*.py"), *ROOT.glob("projects/**/*.py")})
CONFIGS = sorted(path for path in ROOT.glob("configs/**/*") if path.is_file())

CELL = "{code-cell} python"  # of a notebook
# What may stand behind the opening of a fence; "text" is nothing to type. Directives show what is tested elsewhere.
LANGUAGES = {"bash", "yaml", "python", "toml", "text", CELL, "{toctree}", "{eval-rst}"}
INCLUDE = "{include} "


class Found(NamedTuple):
    """A piece of text and where it is."""

    where: str
    text: str


def _where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT).as_posix()}:{line}"


# A fence: how it opens, its language or directive with the rest of the line, what is in it.
FENCE = re.compile(
    r"^(?P<open>[ \t]*(?:`{3,}|~{3,}))[ \t]*(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=open)[ \t]*$", re.M | re.S
)


def fences(path: Path, language: str) -> Iterator[Found]:
    """The fenced blocks of a page."""
    for block in FENCE.finditer(path.read_text()):
        if block["language"].strip() == language:
            yield Found(_where(path, path.read_text()[: block.start("text")].count("\n") + 1), block["text"])


def commands_of_cells(cells: Found) -> Iterator[Found]:
    """The command lines in the Python of a notebook: ``main("train --config-file F".split())``."""
    where, first = cells.where.rsplit(":", 1)
    for call in ast.walk(ast.parse(cells.text)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "main":
            text = call.args[0].func.value  # of .split()
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            # What is put in is of the notebook; so is a config without a folder, which a cell writes.
            arguments = "".join(part.value for part in parts if isinstance(part, ast.Constant)).strip()
            arguments = re.sub(r"--config-file \w+\.yaml", "--config-file cine/greedy.yaml", arguments)
            yield Found(f"{where}:{int(first) + call.lineno - 1}", f"meddlr-greedy {arguments}")


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
        found += [line for cell in fences(page, CELL) for line in commands_of_cells(cell)]
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


def with_included(page: Path) -> str:
    """The text of a page, with that of the pages that it includes."""
    return re.sub(
        r"^```\{include\} (\S+)\n.*?^```$",
        lambda block: (page.parent / block[1]).read_text(),
        page.read_text(),
        flags=re.M | re.S,
    )


def all_links() -> List[Found]:
    """Every link of a page to a file."""
    found = []
    for page in PAGES:
        for link in re.finditer(r"\]\(([^)\s]+)\)", page.read_text()):
            if not link[1].startswith(("http:", "https:")):
                found.append(Found(_where(page, page.read_text()[: link.start()].count("\n") + 1), link[1]))
    return found


def quoted_errors() -> List[Found]:
    """The error lines that a page quotes: ``error: ...`` alone in a fence, with ``<...>`` for what differs."""
    return [
        Found(block.where, line[len("error: ") :])
        for block in all_fences("text")
        for line in block.text.splitlines()
        if line.startswith("error: ")
    ]


@functools.cache
def message_templates() -> List[List[str]]:
    """The fixed parts of every text in the package, in order: of an f-string those between its values."""
    found = []
    for source in ROOT.glob("meddlr_greedy/**/*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append([part.value for part in node.values if isinstance(part, ast.Constant)])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append([node.value])
    return [parts for parts in found if sum(map(len, parts)) > 8]
