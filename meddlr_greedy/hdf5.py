"""HDF5 files that others have written: how they are opened, and whether what they declare is there.

HDF5 reads zeros where an array was never written, and where the file is missing that a virtual array lies in. So this
is checked before an array is read.
"""

import math
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Union

import h5py
import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.limits import check_declared

__all__ = ["check_array", "check_links", "read_item", "reading_hdf5"]

_MOST_DEPTH = 4  # of virtual arrays whose sources are virtual
_PATTERN = "%b"  # in names of sources: one for each block, of which nobody says how many there should be


@contextmanager
def reading_hdf5(path: Union[str, Path]) -> Iterator[h5py.File]:
    """Opens a file to read it, and makes one line of whatever goes wrong in the block.

    Raises:
        UserError: As for :func:`meddlr_greedy.files.reading`.
    """
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        yield file


def read_item(array: h5py.Dataset, index: int) -> np.ndarray:
    """Reads ``array[index]``, faster where it is large.

    h5py's own array of zeros comes in small pages, each of which faults; ``np.empty`` asks the system for huge ones.
    """
    item = np.empty(array.shape[1:], array.dtype)
    array.read_direct(item, np.s_[index])
    return item


def check_links(path: Union[str, Path], group: h5py.Group, names: Iterable[str]) -> None:
    """Checks that names in a group do not lead to what is missing, since h5py takes such a name for absent.

    Args:
        path: The file, for the message.
        group: The file, or a group in it.
        names: Of arrays and groups, which may be absent.

    Raises:
        UserError: One is a link to nothing, here or in another file.
    """
    for name in names:
        link = group.get(name, getlink=True) if name in set(group) else None
        if isinstance(link, (h5py.SoftLink, h5py.ExternalLink)) and group.get(name) is None:
            place = f"{getattr(link, 'filename', path)}: {link.path}"
            raise UserError(f"{path}: {name}: found a link to {place}, which is not there")


def check_array(path: Union[str, Path], array: h5py.Dataset) -> None:
    """Checks that an array is stored as a whole, and declares no more than is stored.

    Args:
        path: The file, for messages.
        array: The array; its values are not read.

    Raises:
        UserError: It has no dataspace, was written in part, lies in a file that is missing or too short, or is larger
            than what is stored can be.
    """
    where = f"{path}: {str(array.name).lstrip('/')}"
    if array.shape is None:
        raise UserError(f"{where}: found an empty dataspace, allowed an array")
    stored = _stored_bytes(where, array, depth=0)
    check_declared(where, array.size * array.dtype.itemsize, stored)


def _stored_bytes(where: str, array: h5py.Dataset, depth: int) -> int:
    """How much of an array is stored, after a look at whether all is there."""
    if array.is_virtual:
        return _stored_in_sources(where, array, depth)
    if array.external:
        return _stored_in_external(where, array)
    if array.chunks is not None:
        expected = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks))
        found = array.id.get_num_chunks()
        if found < expected:
            raise UserError(f"{where}: found {found} of {expected} chunks, allowed an array that was written in full")
    elif array.size and not array.id.get_storage_size():
        raise UserError(f"{where}: found an array that was never written, allowed one that was written in full")
    return array.id.get_storage_size()


def _stored_in_external(where: str, array: h5py.Dataset) -> int:
    missing, needed = array.size * array.dtype.itemsize, []
    for name, offset, size in array.external:
        size = min(size, missing)
        missing -= size
        needed.append((name, offset + size))
    for name, num_bytes in needed:
        if not os.path.isfile(name) or os.path.getsize(name) < num_bytes:
            raise UserError(f"{where}: lies in {name}, which is missing or shorter than {num_bytes} bytes")
    if missing:
        raise UserError(f"{where}: lies in other files, which lack {missing} bytes of it")
    return sum(os.path.getsize(name) for name, _ in needed)


def _stored_in_sources(where: str, array: h5py.Dataset, depth: int) -> int:
    if depth == _MOST_DEPTH:
        raise UserError(f"{where}: found virtual arrays within each other, allowed a depth of {_MOST_DEPTH}")
    num_bytes, num_values = 0, 0
    for source in array.virtual_sources():
        place = f"{source.file_name}: {source.dset_name}"
        if _PATTERN in place:
            raise UserError(f"{where}: lies in {place}, allowed names without {_PATTERN}")
        with h5py.File(_source_file(where, array, source.file_name), "r") as file:
            found = file.get(source.dset_name)
            if not isinstance(found, h5py.Dataset) or not _covers(found, source):
                raise UserError(f"{where}: lies in {place}, which is missing or smaller")
            num_bytes += _stored_bytes(where, found, depth + 1)
        num_values += int(source.vspace.get_select_npoints())
    if num_values < array.size:
        raise UserError(f"{where}: found a source of {num_values} of {array.size} values, allowed one of each")
    return num_bytes


def _source_file(where: str, array: h5py.Dataset, name: str) -> Path:
    own = Path(array.file.filename)
    candidates: List[Path] = [own] if name == "." else [own.parent / name, Path(name)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"{where}: lies in {name}, which is missing")


def _covers(array: h5py.Dataset, source: Any) -> bool:
    """Whether an array has all the values that a virtual one takes from it."""
    if array.shape is None:
        return False
    if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        return array.size >= source.vspace.get_select_npoints()
    last = source.src_space.get_select_bounds()[1]
    return len(array.shape) == len(last) and all(i < n for i, n in zip(last, array.shape))
