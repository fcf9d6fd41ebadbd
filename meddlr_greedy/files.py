"""Reading and writing files: whole or not at all, and one line where that is not possible.

:func:`reading` is the one way to read what others have written. :func:`written_atomically` makes a file, and
:func:`writing` makes one line of what goes wrong on the way. :func:`check_room` asks for the room of a large file,
before hours of work go into it.
"""

import os
import re
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

from meddlr_greedy.errors import OneLineError, UserError, first_line, keep_cause

__all__ = ["PARTIAL", "WriteError", "check_room", "reading", "writing", "written_atomically"]

#: What the names of files begin with that are not done; after a kill they stay, and the next run removes them.
PARTIAL = ".partial-"


class WriteError(UserError):
    """The output cannot be written (a full disk, say): no other file will fare better."""


@contextmanager
def reading(path: Union[str, Path], kind: str = "a readable file") -> Iterator[None]:
    """Makes one line of whatever goes wrong in the block, in which a file is read that others have written.

    Parsers raise errors of any kind on files that are damaged, or made to do harm. So everything counts as the file's
    fault; the cause is kept in the log, and ``--debug`` shows it.

    Args:
        path: The file, as the user knows it.
        kind: What it should be, for the message: "an HDF5 file".

    Raises:
        UserError: ``"<path>: truncated, damaged or not <kind> (<reason>)"``.
    """
    try:
        yield
    except OneLineError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory ({first_line(error)})") from error
    except Exception as error:  # noqa: BLE001 (see above)
        reason = first_line(error)
        if not isinstance(error, (OSError, RuntimeError, ValueError)):
            reason = f"{type(error).__name__}: {reason}"
        line = f"{path}: truncated, damaged or not {kind} ({reason})"
        keep_cause(line, error)
        raise UserError(line) from error


@contextmanager
def written_atomically(path: Union[str, Path], durable: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside ``path``, and renames it to ``path`` where the block ends well.

    The temporary name is of this call alone, and keeps the suffix, since libraries choose the format by it.

    Args:
        path: The file to write.
        durable: Also waits until the content is on the disk, so that it survives a power cut.
    """
    path = Path(path)
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(4)}-{path.name[-100:]}")
    try:
        yield partial
        if durable:
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Union[str, Path], option: str = "") -> Iterator[None]:
    """Makes a :class:`WriteError` of what the file system or HDF5 raises in the block.

    Other errors pass, also a RuntimeError that is not HDF5's: the block may compute what it writes.

    Args:
        path: What is written, as the user knows it: a file, or the folder given on the command line.
        option: The option or config key that named it, for the message.

    Raises:
        WriteError: ``"<option>: <path>: cannot be written (<reason>)"``.
    """
    try:
        yield
    except OSError as error:
        raise _write_error(path, option, error) from error
    except RuntimeError as error:  # what HDF5 raises where it flushes to a full disk, on closing a file
        if "errno = " not in str(error):
            raise
        raise _write_error(path, option, error) from error


def check_room(path: Union[str, Path], num_bytes: int) -> None:
    """Makes a file of that size, of any content, to be overwritten; HDF5 itself does not survive a full disk.

    Raises:
        OSError: There is no room for it.
    """
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, num_bytes)


def _write_error(path: Union[str, Path], option: str, error: Exception) -> WriteError:
    hdf5_reason = re.search(r"error message = '(.*?)'", str(error))
    reason = hdf5_reason.group(1) if hdf5_reason else getattr(error, "strerror", None) or error
    return WriteError(f"{f'{option}: ' if option else ''}{path}: cannot be written ({reason})")
