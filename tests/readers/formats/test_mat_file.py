"""Variables of MAT files, written by scipy and h5py, come back with their axes reversed; what lies is refused."""

import io
import struct
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.formats.mat_file import mat_arrays
from tests.helpers.scanners import write_mat

RNG = np.random.default_rng(0)
NUMBERS = {
    "small": RNG.integers(0, 200, (5, 4, 3), np.uint8),
    "doubles": RNG.standard_normal((3, 2, 4, 1, 2)),
    "singles": RNG.standard_normal((7, 1)).astype(np.float32),
    "parts": (RNG.standard_normal((2, 3, 4)) + 1j * RNG.standard_normal((2, 3, 4))).astype(np.complex64),
    "wide": RNG.standard_normal((2, 5)) + 1j * RNG.standard_normal((2, 5)),
    "whole": RNG.integers(-9, 9, (3, 3), np.int64),
    "a_name_of_more_than_four_letters": np.ones((1, 1)),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_version_5(tmp_path, compressed):
    scipy.io.savemat(tmp_path / "a.mat", NUMBERS, do_compression=compressed)
    arrays = mat_arrays(tmp_path / "a.mat")
    assert list(arrays) == list(NUMBERS)
    for name, values in NUMBERS.items():
        array = arrays[name]
        assert array.shape == values.T.shape
        assert array.kind == ("complex" if np.iscomplexobj(values) else "real")
        array.check()
        np.testing.assert_array_equal(array.read(), values.T)
        assert array.read().dtype == values.dtype
        np.testing.assert_array_equal(array.read((slice(None), 0)), values.T[:, 0])
        assert array.pieces(0) == values.shape[-1]


@pytest.mark.parametrize("name", ["small", "doubles", "parts", "wide"])
def test_version_7_3(tmp_path, name):
    values = NUMBERS[name]
    path = write_mat(tmp_path / "a.mat", values, name, values.real.dtype)
    (array,) = mat_arrays(path).values()
    array.check()
    assert array.shape == values.T.shape and array.pieces(0) == 1
    np.testing.assert_array_equal(array.read(), values.T)
    assert array.read().dtype == values.dtype
    np.testing.assert_array_equal(array.read((slice(None), 0)), values.T[:, 0])


def test_chunks_say_what_is_read_together(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_dataset("a", data=NUMBERS["doubles"], chunks=(3, 1, 2, 1, 2))
    (array,) = mat_arrays(tmp_path / "a.mat").values()
    assert [array.pieces(axis) for axis in range(5)] == [3, 1, 2, 1, 2]


def big_endian(values, name):
    """A variable of version 5 as a machine of the other byte order writes it, after MathWorks' description."""

    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

    head = element(6, struct.pack(">II", 0x0800 | 7, 0)) + element(5, struct.pack(">3i", *values.shape))
    parts = [np.asarray(part, ">f4").tobytes("F") for part in (values.real, values.imag)]
    content = head + element(1, name) + element(7, parts[0]) + element(7, parts[1])
    return b"MATLAB 5.0 MAT-file, big".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(content)) + content


def test_bytes_of_the_other_order(tmp_path):
    (tmp_path / "a.mat").write_bytes(big_endian(NUMBERS["parts"], b"parts"))
    (array,) = mat_arrays(tmp_path / "a.mat").values()
    assert array.kind == "complex" and str(array) == "complex float32 of shape (4, 3, 2)"
    np.testing.assert_array_equal(array.read(), NUMBERS["parts"].T)


OTHERS = {
    "text": "a text",
    "cells": np.array([np.ones(3), "b"], object),
    "structure": {"field": np.ones((3, 4, 5))},
    "many": scipy.sparse.eye(4).tocsc(),
}


def test_what_is_no_array_of_numbers_is_named_and_not_read(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {**OTHERS, "yes": np.ones((2, 3), bool)})
    found = {name: (array.kind, str(array)) for name, array in mat_arrays(tmp_path / "a.mat").items()}
    kinds = {name: ("other", kind) for name, kind in zip(OTHERS, ("char", "cell", "struct", "sparse"))}
    assert found == {**kinds, "yes": ("logical", "logical of shape (3, 2)")}
    with h5py.File(tmp_path / "b.mat", "w") as file:
        for name, kind in (("text", "char"), ("yes", "logical"), ("object", "MyClass"), ("f", "function_handle")):
            file.create_dataset(name, data=np.ones((3, 2), np.uint16)).attrs["MATLAB_class"] = np.bytes_(kind)
        file.create_dataset("none", data=np.zeros(2, np.uint64)).attrs["MATLAB_empty"] = 1
        file.create_group("structure").attrs["MATLAB_class"] = np.bytes_("struct")
        file.create_group("many").attrs["MATLAB_sparse"] = 4
        file.create_group("#refs#")
        file.create_dataset("references", (2,), h5py.ref_dtype)
        file.create_dataset("half", (2,), [("real", "f4"), ("other", "f4")])
    kinds = {name: array.kind for name, array in mat_arrays(tmp_path / "b.mat").items()}
    assert kinds.pop("yes") == "logical" and "#refs#" not in kinds and {*kinds.values()} == {"other"}


# --- Files that lie ---


def _element(values):
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"img": values})
    return stream.getvalue()


GOOD = _element(np.ones((3, 4, 5)))
# Of the variable, behind the header of 128 bytes: its length, its axes, and the length of the real part.
LENGTH, FIRST_AXIS, REAL_LENGTH = 4, 32, 60


def changed(position, value):
    content = bytearray(GOOD[128:])
    content[position : position + 4] = struct.pack("<I", value)
    return bytes(content)


def compressed(content):
    packed = zlib.compress(content)
    return GOOD[:128] + struct.pack("<II", 15, len(packed)) + packed


def damaged(position):
    content = bytearray(compressed(GOOD[128:]))
    content[position] ^= 0x55
    return bytes(content)


LIES = {
    "many rows": GOOD[:128] + changed(FIRST_AXIS, 10**6),
    "many rows, compressed": compressed(changed(FIRST_AXIS, 10**6)),
    "negative rows": GOOD[:128] + changed(FIRST_AXIS, 2**32 - 3),
    "long": GOOD[:128] + changed(LENGTH, 10**9),
    "long, compressed": compressed(changed(LENGTH, 2 * 10**9)),
    "long numbers": GOOD[:128] + changed(REAL_LENGTH, 4 * 10**9),
    "long numbers, compressed": compressed(changed(REAL_LENGTH, 4 * 10**9)),
    "bomb": compressed(changed(LENGTH, 2 * 10**9) + bytes(200 << 20)),
    "bomb of numbers": compressed(changed(REAL_LENGTH, 200 << 20) + bytes(200 << 20)),
    "bomb of a name": compressed(GOOD[128 : 128 + 48] + struct.pack("<II", 1, 200 << 20) + bytes(200 << 20)),
    "compressed twice": compressed(compressed(GOOD[128:])[128:]),
    "no variable": GOOD[:128] + struct.pack("<II", 9, 8) + bytes(8),
    "truncated": GOOD[:-100],
    "truncated, compressed": compressed(GOOD[128:])[:-9],
    "a bit, compressed": damaged(160),
    "a bit of the checksum": damaged(-1),
    "two of a name": GOOD + GOOD[128:],
    "header alone, and a little": GOOD[:131],
    "many": GOOD[:128] + b"".join(_element(np.ones(1))[128:].replace(b"img", b"%03x" % i) for i in range(4097)),
    "version 4": struct.pack("<5i", 0, 2, 2, 0, 2) + b"a\0" + np.ones(4).tobytes(),
    "text": b"hello" * 100,
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_one_line_and_take_no_room(tmp_path, lie):
    (tmp_path / "a.mat").write_bytes(LIES[lie])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="a.mat"):
            for array in mat_arrays(tmp_path / "a.mat").values():
                if array.kind == "other":
                    raise UserError("a.mat: no numbers")
                array.check()
                array.read()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
