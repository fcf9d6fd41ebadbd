"""Reading and writing files: whole or not at all, and one line where that is not possible.

:func:`reading` is the one way to read what others have written. :func:`written_atomically` makes a file,
:func:`folder_written_atomically` a folder, and :func:`writing` makes one line of what goes wrong on the way.
:func:`check_room` asks for the room of a large file, before hours of work go into it.

Names that come from outside (of files, data sets, scans) become file names by :class:`UniqueNames` or
:func:`safe_name`. :func:`check_not_read` refuses to write what is read.
"""

import hashlib
import os
import re
import secrets
import shutil
import unicodedata
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterable, Iterator, Set, Union

from meddlr_greedy.errors import OneLineError, UserError, first_line, keep_cause, no_room

__all__ = [
    "PARTIAL",
    "UniqueNames",
    "WriteError",
    "as_text",
    "check_not_read",
    "check_room",
    "folder_written_atomically",
    "printable",
    "reading",
    "remove_partial_files",
    "safe_name",
    "writing",
    "written_atomically",
]

#: What the names of files begin with that are not done; after a kill they stay, and the next run removes them.
PARTIAL = ".partial-"

# Bytes of a name. File systems allow 255; what is added to a name (a suffix, a split, PARTIAL) has room.
_LONGEST_NAME = 160


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
    partial = _partial_beside(path)
    try:
        yield partial
        if durable:
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_written_atomically(path: Union[str, Path]) -> Iterator[Path]:
    """Gives a new, temporary folder beside ``path``, and renames it to ``path`` where the block ends well.

    What was at ``path`` goes as a whole. No file system replaces a folder in one step: a kill between the two steps
    leaves neither the old one nor the new one under its name.

    Args:
        path: The folder to write.
    """
    path = Path(path)
    partial, replaced = _partial_beside(path), _partial_beside(path)
    try:
        partial.mkdir()
        yield partial
        with suppress(FileNotFoundError):
            os.replace(path, replaced)
        os.replace(partial, path)
    finally:
        if os.path.lexists(replaced) and not os.path.lexists(path):
            os.replace(replaced, path)
        _remove(partial)
        _remove(replaced)


def remove_partial_files(*folders: Path) -> None:
    """Removes what killed commands left half-written in folders; who calls it has the lock of the folder."""
    for folder in folders:
        for partial in folder.glob(f"{PARTIAL}*"):
            _remove(partial)


def _partial_beside(path: Path) -> Path:
    """A name of this call alone for what is to be at ``path``."""
    ending = os.fsdecode(os.fsencode(path.name)[-100:])
    return path.with_name(f"{PARTIAL}{secrets.token_hex(4)}-{ending}")


def _remove(path: Path) -> None:
    """Removes a file, or a folder with what is in it, as far as that can be done; a link alone, and not its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def writing(path: Union[str, Path], option: str = "") -> Iterator[None]:
    """Makes a :class:`WriteError` of what the file system, HDF5 or torch.save raises in the block.

    Other errors pass, also a RuntimeError that says nothing of a file: the block may compute what it writes.

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
    except RuntimeError as error:
        if not no_room(error):
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


# --- Names and places ---


def as_text(name: str) -> str:
    """A name of a file as text that any format takes: bytes that are no text are told by their numbers."""
    return name.encode(errors="backslashreplace").decode()


def printable(text: str) -> str:
    """A text for pictures and file names: what cannot be shown (bytes that are no text, line breaks) becomes "_"."""
    return "".join("_" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text)


def safe_name(text: str) -> str:
    """A file name for a text from outside: one part of a path, not hidden, of a length that file systems allow.

    Usual names stay as they are. A name that is too long ends in a digest of the whole text.
    """
    name = re.sub(r"[/\\\\]", "_", printable(text)).strip()
    name = re.sub(r"^\.+|\.+$", lambda dots: "_" * len(dots[0]), name) or "_"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{digest}"


class UniqueNames:
    """Hands out safe file names, no two of which are one, also where a file system ignores case."""

    def __init__(self) -> None:
        self._taken: Set[str] = set()

    def __call__(self, text: str) -> str:
        """The name for a text; where it is taken, with the first free number."""
        name, number = safe_name(text), 1
        candidate = name
        while (key := unicodedata.normalize("NFC", candidate).casefold()) in self._taken:
            number += 1
            candidate = f"{name}-{number}"
        self._taken.add(key)
        return candidate


def check_not_read(option: str, outputs: Iterable[Union[str, Path]], inputs: Iterable[Union[str, Path]]) -> None:
    """Refuses to write what is read, by whatever name: links, and letters of another case, are the same file.

    Args:
        option: What named the output, for the message.
        outputs: The files that will be written, and the folders that will be replaced.
        inputs: The files that will be read.

    Raises:
        UserError: One of the outputs is, or holds, one of the inputs.
    """
    read = {}
    for path in map(Path, inputs):
        read[os.path.realpath(path)] = path
        with suppress(OSError):
            read[_identity(path)] = path
            for name in (os.path.realpath(path), os.path.abspath(path)):
                read.update((_identity(folder), path) for folder in Path(name).parents)
    for output in map(Path, outputs):
        found = read.get(os.path.realpath(output))
        with suppress(OSError):
            found = found or read.get(_identity(output))
        if found is not None:
            verb = "holds" if output.is_dir() else "is"
            raise UserError(
                f"{option}: {output}: {verb} the input {found}, which is not overwritten; give another place"
            )


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}"


def _write_error(path: Union[str, Path], option: str, error: Exception) -> WriteError:
    hdf5_reason = re.search(r"error message = '(.*?)'", str(error))
    reason = hdf5_reason.group(1) if hdf5_reason else no_room(error) or getattr(error, "strerror", None) or error
    return WriteError(f"{f'{option}: ' if option else ''}{path}: cannot be written ({reason})")
