"""Arrays in files of MATLAB: version 5 to 7, which scipy reads, and version 7.3, which is HDF5.

Axes are in the order in which they lie in the file, the reverse of MATLAB's: what MATLAB calls an array of size
(row, column, slice, phase) has the shape (phase, slice, column, row), whatever the version. MATLAB leaves out last axes
of length 1, which are the first ones here.

Numbers are read, and nothing else: objects, function handles, cells, structures and texts are named, and left alone.
"""

import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Dict, NamedTuple, Optional, Tuple

import h5py
import numpy as np
from scipy.io import loadmat, whosmat

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.hdf5 import check_array, check_links
from meddlr_greedy.limits import check_declared, check_memory, in_units

__all__ = ["MatArray", "mat_arrays"]

_A_MAT_FILE = "a MAT file of version 5 to 7.3"
_NUMBERS = {"double": "float64", "single": "float32", "logical": "logical"}
_NUMBERS.update({f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)})

# Version 5: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
_BYTE_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}  # the last bytes of the header
_HEADER, _TAG = 128, 8
_MATRIX, _COMPRESSED = 14, 15
_COMPLEX = 0x0800
_FLAGS = 16  # where they lie in an element
_LARGEST_HEAD = 1 << 14  # of an element: flags, axes and name
_PARTS_OF_HEAD, _PARTS = 3, 5  # flags, axes and name; real and imaginary part
_MOST_VARIABLES = 4096
_COPIES = 4  # of an array, while scipy makes it


class _Element(NamedTuple):
    """Where a variable lies in a file of version 5.

    Attributes:
        order: "<" or ">", the order of its bytes.
        begin: Position of its tag in the file.
        stored: Bytes behind the tag.
        compressed: Whether they are compressed.
        declared: What they hold, as the tag inside says.
    """

    order: str
    begin: int
    stored: int
    compressed: bool
    declared: int

    def content(self, file: BinaryIO, num_bytes: int) -> bytes:
        """The first bytes of the element, its tag included and not compressed."""
        file.seek(self.begin + _TAG)
        if not self.compressed:
            tag = struct.pack(f"{self.order}II", _MATRIX, self.stored)
            return tag + file.read(max(min(self.stored, num_bytes - _TAG), 0))
        return zlib.decompressobj().decompress(file.read(min(self.stored, 2 * num_bytes + _TAG)), num_bytes)

    def alone(self, content: bytes, num_parts: int) -> io.BytesIO:
        """A file of this element for scipy, which makes the room that is declared for a part before it reads it.

        Args:
            content: The element, or its beginning.
            num_parts: How many parts of it scipy will read.

        Raises:
            ValueError: One of them is longer than what there is.
        """
        begin = _TAG
        for _ in range(num_parts):
            if begin >= len(content):
                break
            kind, length = struct.unpack_from(f"{self.order}II", content, begin)
            if kind < 1 << 16:  # else it is short, and lies in the tag
                if length > len(content) - begin - _TAG:
                    raise ValueError(f"found a part of {in_units(length)} in {in_units(len(content))}")
                begin += length + -length % _TAG
            begin += _TAG
        version = next(version for version, order in _BYTE_ORDERS.items() if order == self.order)
        return io.BytesIO(b"MATLAB 5.0 MAT-file".ljust(_HEADER - len(version)) + version + content)


@dataclass(frozen=True)
class MatArray:
    """A variable of a MAT file; its values are not read yet.

    Attributes:
        path: The file.
        name: Of the variable.
        shape: In the order of the file, the reverse of MATLAB's.
        type: Of its numbers, or what else it is ("struct", "char", ...), for messages.
        kind: "real", "complex", "logical", or "other" where it is no array of numbers, and cannot be read.
        element: Where it lies; ``None`` in HDF5.
    """

    path: Path
    name: str
    shape: Tuple[int, ...]
    type: str
    kind: str
    element: Optional[_Element] = None

    def __str__(self) -> str:
        return f"{self.type} of shape {self.shape}" if self.kind != "other" else self.type

    def check(self, whole: bool = True) -> None:
        """Checks that the file holds what it declares, before room is made for it.

        Args:
            whole: Whether all of it will be read at once, so that it has to fit into memory.

        Raises:
            UserError: It does not.
        """
        where, element = f"{self.path}: {self.name}", self.element
        if element is None:
            with reading(self.path, _A_MAT_FILE), h5py.File(self.path, "r") as file:
                array = file[self.name]
                check_array(self.path, array)
                check_memory(where, array.size * array.dtype.itemsize if whole else 0)
            return
        check_declared(where, element.declared, element.stored)
        if math.prod(self.shape) > element.declared:
            raise UserError(f"{where}: found {self} in {element.declared} bytes, truncated or damaged")
        check_memory(where, _COPIES * element.declared)

    def pieces(self, axis: int) -> int:
        """How many indices along an axis are read together, where one of them is asked for."""
        if self.element is not None:
            return self.shape[axis]
        with reading(self.path, _A_MAT_FILE), h5py.File(self.path, "r") as file:
            chunks = file[self.name].chunks
            return 1 if chunks is None else chunks[axis]

    def read(self, index: Tuple[Any, ...] = ()) -> np.ndarray:
        """The values, or those of an index; complex ones are complex64 or complex128."""
        with reading(self.path, _A_MAT_FILE):
            if self.element is None:
                with h5py.File(self.path, "r") as file:
                    return _of_parts(file[self.name][index])
            with open(self.path, "rb") as stream:  # one byte more, so that the checksum is read
                content = self.element.content(stream, _TAG + self.element.declared + 1)
            found = loadmat(self.element.alone(content, _PARTS))[self.name]
            return found.T[index]


def mat_arrays(path: Path) -> Dict[str, MatArray]:
    """The variables of a MAT file by name, in the order of the file; no values are read.

    Raises:
        UserError: It is no MAT file, or damaged.
    """
    with reading(path, _A_MAT_FILE):
        with open(path, "rb") as file:
            order = _BYTE_ORDERS.get(file.read(_HEADER)[-4:])
            if order is not None:
                return _of_version_5(path, file, order)
        with h5py.File(path, "r") as hdf5:
            names = [name for name in hdf5 if not name.startswith("#")]  # what cells and objects refer to
            check_links(path, hdf5, names)
            return {name: _of_hdf5(path, name, hdf5[name]) for name in names}


def _of_version_5(path: Path, file: BinaryIO, order: str) -> Dict[str, MatArray]:
    arrays: Dict[str, MatArray] = {}
    size, begin = file.seek(0, io.SEEK_END), _HEADER
    while begin < size:
        file.seek(begin)
        kind, stored = struct.unpack(f"{order}II", file.read(_TAG))
        if begin + _TAG + stored > size or kind not in (_MATRIX, _COMPRESSED):
            raise UserError(f"{path}: found no variable at byte {begin}, truncated or damaged")
        if len(arrays) == _MOST_VARIABLES:
            raise UserError(f"{path}: found more than {_MOST_VARIABLES} variables")
        array = _variable(path, file, _Element(order, begin, stored, kind == _COMPRESSED, stored))
        if array.name in arrays:
            raise UserError(f"{path}: found two variables {array.name}, allowed one of a name")
        arrays[array.name] = array
        begin += _TAG + stored
    return arrays


def _variable(path: Path, file: BinaryIO, element: _Element) -> MatArray:
    head = element.content(file, _LARGEST_HEAD)
    tag, declared = struct.unpack_from(f"{element.order}II", head)
    if tag != _MATRIX:
        raise UserError(f"{path}: found no variable at byte {element.begin}, truncated or damaged")
    element = element._replace(declared=declared)
    ((name, shape, found),) = whosmat(element.alone(head, _PARTS_OF_HEAD))
    number = _NUMBERS.get(found)
    if number is None or any(length < 0 for length in shape):
        return MatArray(path, name, shape[::-1], found, "other", element)
    is_complex = struct.unpack_from(f"{element.order}I", head, _FLAGS)[0] & _COMPLEX
    kind = "logical" if number == "logical" else "complex" if is_complex else "real"
    return MatArray(path, name, shape[::-1], f"complex {number}" if is_complex else number, kind, element)


def _of_hdf5(path: Path, name: str, item: Any) -> MatArray:
    found = item.attrs.get("MATLAB_class", b"")  # files that other programs write lack it
    found = found.decode(errors="replace") if isinstance(found, bytes) else str(found)
    if not isinstance(item, h5py.Dataset):
        return MatArray(path, name, (), "sparse" if "MATLAB_sparse" in item.attrs else "struct", "other")
    if "MATLAB_empty" in item.attrs:  # what is stored are the lengths of its axes
        return MatArray(path, name, (), f"empty {found}", "other")
    parts = item.dtype.fields or {}
    part_kinds = {parts[part][0].kind for part in ("real", "imag")} if {"real", "imag"} <= {*parts} else {"c"}
    if found and found not in _NUMBERS:
        kind = "other"
    elif item.dtype.kind == "c" or part_kinds <= {*"fiu"}:
        kind = "complex"
    elif found == "logical" or item.dtype.kind == "b":
        kind = "logical"
    else:
        kind = "real" if item.dtype.kind in "fiu" else "other"
    return MatArray(path, name, item.shape or (), found if kind == "other" and found else str(item.dtype), kind)


def _of_parts(stored: np.ndarray) -> np.ndarray:
    """The real and the imaginary part of a compound as one complex number; other arrays as they are."""
    if not stored.dtype.names:
        return stored
    values = np.empty(stored.shape, np.result_type(stored["real"].dtype, stored["imag"].dtype, np.complex64))
    values.real, values.imag = stored["real"], stored["imag"]
    return values
