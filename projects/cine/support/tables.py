"""What a command leaves behind: a table in a Markdown page, its raw values as JSON, pictures; never written by hand."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Tuple

from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import written_atomically

__all__ = [
    "check_page",
    "differences_as_text",
    "publish_picture",
    "publish_table",
    "ratio_as_text",
    "results_folder",
    "save_figure",
    "spread",
    "versions_as_text",
    "write_json",
]


def check_page(page: Path, name: str) -> str:
    """The text of a page that has a place for a table. Call it before the work that takes long.

    Args:
        page: A Markdown file.
        name: Of the table. The marks in the page are ``<!-- name -->`` and ``<!-- /name -->``, with ``-`` for ``_``.

    Raises:
        UserError: the page or its marks are missing.
    """
    begin, end = _marks(name)
    text = page.read_text() if page.is_file() else ""
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UserError(f"{page}: the marks {begin} and {end} are needed, once each")
    return text


def differences_as_text(numbers: Sequence[float], others: Sequence[float]) -> str:
    """How much larger other numbers are, pair by pair: the mean, and each in brackets."""
    differences = [b - a for a, b in zip(numbers, others)]
    return f"{statistics.mean(differences):+.2f} ({', '.join(f'{difference:+.2f}' for difference in differences)})"


def publish_table(name: str, result: Any, text: str, folder: Path, page: Optional[Path] = None) -> None:
    """Writes the raw values of a table to ``<folder>/<name>.json``, prints the table, and puts it into a page.

    Args:
        name: Of the table.
        result: What the table was made from; JSON.
        text: The table, and what is to be said below it; Markdown.
        folder: Of the JSON file; made where it is missing.
        page: A Markdown file with the marks of ``name``, see :func:`check_page`. None: the table is only printed.

    Raises:
        UserError: the page or its marks are missing; nothing is written then.
    """
    updated = _with_table(page, name, text) if page else ""
    path = folder / f"{name}.json"
    write_json(path, result)
    if page:
        with written_atomically(page) as partial:
            partial.write_text(updated)
    print(text)
    print(f"written: {path}{f', {page}' if page else ''}")


def _with_table(page: Path, name: str, text: str) -> str:
    begin, end = _marks(name)
    before, rest = check_page(page, name).split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n{text}\n{end}{after}"


def _marks(name: str) -> Tuple[str, str]:
    mark = name.replace("_", "-")
    return f"<!-- {mark} -->", f"<!-- /{mark} -->"


def write_json(path: Path, result: Any) -> None:
    """Writes raw values; makes the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")


def results_folder(page: Path) -> Path:
    """Where the pictures and the raw values of a page are: ``results/`` beside it."""
    return page.parent / "results"


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, at its own resolution; makes the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as partial:
        figure.savefig(partial, format="png")


def publish_picture(picture: Path, path: Path, max_bytes: int = 3_000_000) -> None:
    """Copies a picture to the results of a page; makes the folder where it is missing.

    A GIF that is larger than ``max_bytes`` gets 64 grays, and is made smaller until it is not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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


def versions_as_text(versions: Mapping[str, Any]) -> str:
    """What a result was made with, as a part of a sentence."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def ratio_as_text(found: Mapping[str, float], digits: int) -> str:
    """A ratio with its range, as :func:`projects.cine.support.measuring.ratio` found it."""
    return f"{found['ratio']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Mean and standard deviation; ``sign`` "+" shows the sign of a positive mean, too."""
    return f"{statistics.mean(values):{sign}.{digits}f} ± {statistics.stdev(values):.{digits}f}"
