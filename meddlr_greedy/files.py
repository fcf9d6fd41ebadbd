"""Files that are there whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

__all__ = ["written_atomically"]


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
