"""Measured tables in Markdown pages: written by the command that measured them, never by hand."""

import json
import statistics
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import written_atomically
from projects.cine.measuring import versions

__all__ = ["check_page", "insert_table", "publish_result", "results_folder", "spread"]


def check_page(page: Path, name: str) -> str:
    """The text of a page that has a place for a table: to be called before what takes long.

    Raises:
        UserError: the page or the marks ``<!-- name -->`` and ``<!-- /name -->`` are missing.
    """
    begin, end = _marks(name)
    text = page.read_text() if page.is_file() else ""
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UserError(f"{page}: the marks {begin} and {end} are needed, once each")
    return text


def insert_table(page: Path, name: str, table: str) -> None:
    """Replaces what stands between the marks of ``name`` in a page; raises as :func:`check_page`."""
    begin, end = _marks(name)
    before, rest = check_page(page, name).split(begin)
    after = rest.split(end)[1]
    with written_atomically(page) as partial:
        partial.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def _marks(name: str) -> Tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def results_folder(page: Path) -> Path:
    """Where the figures and raw values of a page are: ``results/`` beside it."""
    folder = page.parent / "results"
    folder.mkdir(exist_ok=True)
    return folder


def publish_result(page: Path, name: str, result: Dict[str, Any], table: str, device: str = "cpu") -> None:
    """Writes ``results/<name>.json`` beside the page, and the table, with versions, between its marks.

    Args:
        page: Markdown, with the marks of ``name``.
        name: Of the study.
        result: What the table was made from; JSON.
        table: Markdown.
        device: That it was made on.
    """
    described = versions(device)
    with written_atomically(results_folder(page) / f"{name}.json") as partial:
        partial.write_text(json.dumps({**result, "versions": described}, indent=1) + "\n")
    text = ", ".join(f"{key} {value}" for key, value in described.items())
    insert_table(page, name.replace("_", "-"), f"{table}\n\n{text}.")
    print(table)


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Mean and standard deviation; ``sign`` "+" shows it of both signs."""
    return f"{statistics.mean(values):{sign}.{digits}f} ± {statistics.stdev(values):.{digits}f}"
