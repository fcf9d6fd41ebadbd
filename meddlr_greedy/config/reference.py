"""The reference of all keys of ``MISC.GREEDY``, written from the schema.

Example::

    python -m meddlr_greedy.config.reference --output docs/config.md
"""

from itertools import groupby
from pathlib import Path
from typing import List, Optional, Sequence

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.config.schema import Key, schema_keys
from meddlr_greedy.errors import exit_with_one_line
from meddlr_greedy.files import writing, written_atomically

__all__ = ["build_parser", "main", "reference"]

_HEAD = """# Keys of `MISC.GREEDY`

This page is written from the schema, `meddlr_greedy/config/schema.py`, by `python -m meddlr_greedy.config.reference`.
"""


def reference() -> str:
    """The page, as Markdown: for each section its keys with default, meaning, what they allow and where they act."""
    parts = [_HEAD]
    for section, keys in groupby(schema_keys(), key=lambda key: key.full_name.rpartition(".")[0]):
        table = ["| key | default | meaning | allowed | conditions |", "|---|---|---|---|---|", *map(_row, keys)]
        parts.append(f"## `{section}`\n\n" + "\n".join(table) + "\n")
    return "\n".join(parts)


def _row(key: Key) -> str:
    cells = [f"`{key.name.split('.')[-1]}`", f"`{key.default!r}`", key.rule.meaning, key.rule.allowed]
    return "| " + " | ".join([*cells, "; ".join(_conditions(key))]) + " |"


def _conditions(key: Key) -> List[str]:
    rule = key.rule
    conditions = {
        "one number for each module": rule.one_per_module,
        "needs `GreedyUnrolled`": rule.needs_greedy,
        "needs `meddlr-greedy train`": rule.acts_in_trainer,
        "no chain of processes": rule.needs_whole_network,
        "not with " + ", ".join(f"`{name}`" for name in rule.not_with): bool(rule.not_with),
        f"networks that declare `{rule.needs_trait}` in their `traits`": bool(rule.needs_trait),
        f"regularizers with the attribute `{rule.needs_regularizer}`": bool(rule.needs_regularizer),
    }
    return [text for text, holds in conditions.items() if holds]


def build_parser(prog: Optional[str] = None) -> CommandParser:
    """The parser of the command; ``prog`` is how it was called."""
    parser = CommandParser(prog or "python -m meddlr_greedy.config.reference", __doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the page, replaced")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Writes the page.

    Args:
        argv: Arguments of the command line; default: those of the process.
        prog: How the command was called.
    """
    path = build_parser(prog).parse_args(argv).output
    with writing(path, "--output"), written_atomically(path) as partial:
        partial.write_text(reference())


if __name__ == "__main__":
    main()
