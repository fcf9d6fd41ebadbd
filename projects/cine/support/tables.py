"""What a command leaves in a Markdown page: tables, raw values, pictures; never written by hand."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence, Tuple

from PIL import Image, ImageSequence

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import written_atomically

__all__ = [
    "check_page",
    "in_words",
    "insert_table",
    "publish_picture",
    "publish_result",
    "results_folder",
    "spread",
    "write_json",
]


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


def publish_result(page: Path, name: str, result: Dict[str, Any], table: str) -> None:
    """Writes ``results/<name>.json`` beside the page, and the table, with versions, between its marks.

    Args:
        page: Markdown, with the marks of ``name``.
        name: Of the study.
        result: What the table was made from, and ``versions``; JSON.
        table: Markdown.
    """
    write_json(results_folder(page) / f"{name}.json", result)
    insert_table(page, name.replace("_", "-"), f"{table}\n\n{in_words(result['versions'])}.")
    print(table)


def publish_picture(picture: Path, path: Path, max_bytes: int = 3_000_000) -> None:
    """Copies a picture; a GIF that is too large for a page gets 64 greys and is made smaller until it is not."""
    shutil.copy(picture, path)
    scale = 1.0
    while picture.suffix == ".gif" and path.stat().st_size > max_bytes:
        scale *= 0.85
        with Image.open(picture) as gif:
            size = (round(scale * gif.width), round(scale * gif.height))
            frames = [frame.convert("L").resize(size).quantize(64) for frame in ImageSequence.Iterator(gif)]
            with written_atomically(path) as partial:
                options = {"duration": gif.info["duration"], "loop": 0}
                frames[0].save(partial, format="GIF", save_all=True, append_images=frames[1:], **options)


def write_json(path: Path, result: Any) -> None:
    """The raw values of a result."""
    with written_atomically(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")


def in_words(versions: Mapping[str, Any]) -> str:
    """What a result was made with, as in a sentence."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Mean and standard deviation; ``sign`` "+" shows it of both signs."""
    return f"{statistics.mean(values):{sign}.{digits}f} ± {statistics.stdev(values):.{digits}f}"
