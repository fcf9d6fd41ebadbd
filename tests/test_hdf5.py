"""Which arrays of HDF5 files are refused, since parts of them are not there; and how one is read."""

import h5py
import numpy as np
import pytest

from meddlr_greedy.data.scan_file import read_header
from meddlr_greedy.errors import UserError
from meddlr_greedy.hdf5 import check_array, check_links, read_item
from meddlr_greedy.readers.cmrxrecon import CmrxreconReader
from tests.helpers.examples import scan_arrays, write_arrays

SHAPE = (4, 6)


def virtual(path, source_shape=SHAPE, covered=4, is_there=True):
    """An array of which the first rows lie in another file, or do not."""
    source = path.with_name("source.h5")
    if is_there:
        with h5py.File(source, "w") as file:
            file["a"] = np.ones(source_shape, np.float32)
    layout = h5py.VirtualLayout(SHAPE, np.float32)
    layout[:covered] = h5py.VirtualSource(source.name, "a", SHAPE)[:covered]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("a", layout)


def virtual_of_virtual(path):
    virtual(path.with_name("inner.h5"), is_there=False)
    layout = h5py.VirtualLayout(SHAPE, np.float32)
    layout[:] = h5py.VirtualSource("inner.h5", "a", SHAPE)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("a", layout)


def external(path, num_bytes):
    if num_bytes:
        path.with_name("raw.bin").write_bytes(bytes(num_bytes))
    with h5py.File(path, "w") as file:
        file.create_dataset("a", SHAPE, np.float32, external=[(str(path.with_name("raw.bin")), 0, 96)])


def dataset(path, rows=4, **options):
    with h5py.File(path, "w") as file:
        array = file.create_dataset("a", SHAPE, np.float32, **options)
        if rows:
            array[:rows] = 1


def null(path):
    with h5py.File(path, "w") as file:
        file["a"] = h5py.Empty(np.float32)


def large(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (1 << 14, 1 << 13), np.uint8, chunks=(1 << 14, 1 << 13), compression="gzip")[:] = 0


@pytest.mark.parametrize(
    "write,message",
    [
        (virtual, None),
        (lambda path: virtual(path, is_there=False), "lies in source.h5, which is missing"),
        (lambda path: virtual(path, source_shape=(3, 6)), "lies in source.h5: a, which is missing or smaller"),
        (lambda path: virtual(path, covered=3), "found a source of 18 of 24 values"),
        (virtual_of_virtual, "lies in source.h5, which is missing"),
        (lambda path: external(path, 96), None),
        (lambda path: external(path, 95), "raw.bin, which is missing or shorter than 96 bytes"),
        (lambda path: external(path, 0), "raw.bin, which is missing or shorter than 96 bytes"),
        (lambda path: dataset(path, chunks=(3, 5)), None),
        (lambda path: dataset(path, rows=2, chunks=(2, 5)), "found 2 of 4 chunks"),
        (lambda path: dataset(path, rows=0), "found an array that was never written"),
        (null, "found an empty dataspace"),
        (large, "found 128 MiB declared where .* KiB are stored, allowed up to 64 MiB"),
    ],
)
def test_arrays_of_which_a_part_is_not_there(tmp_path, write, message):
    path = tmp_path / "a.h5"
    write(path)
    with h5py.File(path, "r") as file:
        if message is None:
            check_array(path, file["a"])
            assert file["a"].shape == SHAPE
            return
        with pytest.raises(UserError, match=rf"a\.h5: a: .*{message}"):
            check_array(path, file["a"])


@pytest.mark.parametrize("link", [h5py.SoftLink("/nothing"), h5py.ExternalLink("nothing.h5", "/a")])
def test_links_to_nothing(tmp_path, link):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"] = link, np.ones(3)
        check_links("a.h5", file, ["b", "c"])
        with pytest.raises(UserError, match=r"a\.h5: a: found a link to .*nothing.*, which is not there"):
            check_links("a.h5", file, file)


@pytest.mark.parametrize("name", ["kspace", "maps", "target", "mask"])
def test_scan_files_of_which_a_part_is_not_there(tmp_path, name):
    arrays = {**scan_arrays(0, "cine"), "mask": np.ones((3, 1, 32, 4, 1), np.uint8)}
    path = write_arrays(tmp_path / "scan.h5", arrays)
    read_header(path)
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, arrays[name].shape, arrays[name].dtype, chunks=(1, *arrays[name].shape[1:]))[:2] = 1
    with pytest.raises(UserError, match=rf"scan\.h5: {name}: found 2 of 3 chunks"):
        read_header(path)
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = h5py.ExternalLink("elsewhere.h5", name)
    with pytest.raises(UserError, match=rf"scan\.h5: {name}: found a link to elsewhere\.h5"):
        read_header(path)


def test_a_scan_file_of_absurdly_many_slices(tmp_path):
    """It is sparse: the file system has next to nothing of it, and HDF5 reads zeros."""
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        space = h5py.h5s.create_simple((10**9, 1, 1, 1, 1))
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        for name in ("kspace", "maps", "target"):
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(np.complex64)), space, settings)
    with pytest.raises(UserError, match="has 1000000000 slices; allowed are up to 100000"):
        read_header(str(tmp_path / "scan.h5"))


def test_a_mat_file_without_values(tmp_path):
    for name, value in (("null", h5py.Empty("f")), ("unwritten", None)):
        path = tmp_path / f"{name}.mat"
        with h5py.File(path, "w") as file:
            if value is None:
                file.create_dataset("kspace", (3, 1, 2, 8, 8), np.complex64)
            else:
                file["kspace"] = value
        with pytest.raises(UserError, match=rf"{name}\.mat: kspace: found an"):
            CmrxreconReader().open_scan(path)


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (2, 2, 2), "compression": "gzip"}], ids=["in one piece", "compressed"]
)
@pytest.mark.parametrize("dtype", [np.complex64, np.float32, np.uint8])
def test_an_item_is_what_indexing_gives(tmp_path, options, dtype):
    values = np.random.default_rng(0).normal(size=(3, 5, 4)) * 10
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("a", data=np.abs(values).astype(dtype), **options)
        for index in (0, 2):
            found = read_item(array, index)
            assert found.dtype == dtype and found.flags.c_contiguous
            np.testing.assert_array_equal(found, array[index])
