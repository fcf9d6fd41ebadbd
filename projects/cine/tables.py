"""Measured tables in Markdown pages: written by the command that measured them, never by hand."""

from pathlib import Path

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import written_atomically

__all__ = ["insert_table"]


def insert_table(page: Path, name: str, table: str) -> None:
    """Replaces what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a page.

    Raises:
        UserError: where the page or the marks are missing.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = page.read_text() if page.is_file() else ""
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UserError(f"{page}: the marks {begin} and {end} are needed, once each")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    with written_atomically(page) as partial:
        partial.write_text(f"{before}{begin}\n{table}\n{end}{after}")
