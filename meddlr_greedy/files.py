"""Files that are there whole or not at all."""

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

from meddlr_greedy.errors import UserError

__all__ = ["WriteError", "writing", "written_atomically"]


@contextmanager
def written_atomically(path: Union[str, Path], durable: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside ``path``, and renames it to ``path`` where the block ends well.

    The temporary name keeps the suffix, since libraries choose the format by it.

    Args:
        path: The file to write.
        durable: Also waits until the content is on the disk, so that it survives a power cut.
    """
    path = Path(path)
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        if durable:
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class WriteError(UserError):
    """The output cannot be written (a full disk, say): no other file will fare better."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system or HDF5 raises on writing into a :class:`WriteError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 raises RuntimeError where it flushes to a full disk
        reason = re.search(r"error message = '(.*?)'", str(error))
        raise WriteError(f"{path}: cannot be written ({reason.group(1) if reason else error})") from error
