"""Writes the reference of all commands, ``docs/commands.md``, from their parsers.

Example::

    python -m docs.write_commands --output docs/commands.md
"""

import argparse
import importlib
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.cli import COMMANDS

HEAD = """# Commands

This page is written from the parsers of the commands by `python -m docs.write_commands`. Each command tells the same
with `--help`. All take `--debug`, which prints the traceback of an error.
"""


def reference() -> str:
    """The page, as Markdown: a section for each command and sub-command."""
    parts = [HEAD]
    for name, module in COMMANDS.items():
        parts += _sections(importlib.import_module(module).build_parser(f"meddlr-greedy {name}"), "##")
    return "\n".join(parts)


def _sections(parser: argparse.ArgumentParser, marks: str) -> Iterator[str]:
    yield f"{marks} `{parser.prog}`\n\n```text\n{(parser.description or '').strip()}\n```\n"
    rows = [_row(action) for action in parser._actions if _is_shown(action)]
    if rows:
        yield "\n".join(["| argument | meaning |", "|---|---|", *rows]) + "\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _sections(command, f"{marks}#")


def _is_shown(action: argparse.Action) -> bool:
    is_own = action.dest not in ("help", "debug") and action.help != argparse.SUPPRESS
    return is_own and not isinstance(action, argparse._SubParsersAction)


def _row(action: argparse.Action) -> str:
    flags = ", ".join(f"`{flag}`" for flag in action.option_strings)
    meaning = (action.help or "") % {**vars(action), "prog": ""}
    required = "; required" if action.required and action.option_strings else ""
    cells = [
        " ".join(filter(None, [flags, _values(action)])),
        f"{meaning}{required}".replace("|", "\\|").replace("<", "&lt;"),
    ]
    return f"| {' | '.join(cells)} |"


def _values(action: argparse.Action) -> str:
    """What follows the flag, or stands in the place of an argument."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        names: List[str] = list(action.metavar)
    elif action.metavar is not None:
        names = [action.metavar]
    else:
        names = ["{" + ",".join(map(str, action.choices)) + "}"] if action.choices else [action.dest.upper()]
    more = " ..." if action.nargs in ("+", "*") else ""
    return f"`{' '.join(names)}{more}`"


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Writes the page."""
    parser = CommandParser("python -m docs.write_commands", __doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the page, replaced")
    parser.parse_args(argv).output.write_text(reference())


if __name__ == "__main__":
    main()
