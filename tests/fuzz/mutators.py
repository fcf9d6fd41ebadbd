"""Changes to a file: of its bytes, whatever it is, and of the keys and numbers of a format.

A mutator is called with the path of a file and a random generator, and changes the file in place.
"""

import csv
import io
import json
import random
import re
from typing import Any, Callable, Dict, List

import h5py
import numpy as np
import pydicom
import torch
import yaml

#: What stands where something else was meant.
TEXTS = [
    "",
    "abc",
    "nan",
    "inf",
    "-7",
    "1e300",
    "9" * 400,
    "320,5",
    "../../evil",
    "/",
    "a$_$b",
    "\N{PILE OF POO}",
    "x" * 5000,
    "2024-13-45",
    "2024-01-02",
    "null",
    "[]",
    "{}",
]
NUMBERS = [0, -1, 1, 2, 255, 2**15, 2**31 - 1, -(2**31), 2**62, 1e-300, 1e300, float("nan"), float("inf"), -0.5]
VALUES: List[Any] = [*TEXTS, *NUMBERS, None, True, [], {}, [[]], [None], {"a": {"b": []}}]


# --- Bytes ---


def change_bytes(path, rng: random.Random) -> None:
    """Up to four changes: bits flipped, bytes set, stretches left out, inserted, doubled or zeroed, the end cut off."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        # Headers are short and at the beginning, mostly.
        start = rng.randrange(min(len(data), rng.choice([64, 512, 4096, len(data)])))
        length = rng.choice([1, 2, 4, 8, 64, 1000])
        kind = rng.randrange(7)
        if kind == 0:
            data[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[start : start + length] = bytes([rng.choice([0, 1, 127, 128, 255])]) * min(length, len(data) - start)
        elif kind == 2:
            del data[start : start + length]
        elif kind == 3:
            data[start:start] = rng.randbytes(length)
        elif kind == 4:
            data[start:start] = data[start : start + length]
        elif kind == 5:
            data[start : start + 8] = rng.choice(NUMBERS[:9]).to_bytes(9, rng.choice(["little", "big"]), signed=True)[
                :8
            ]
        else:
            del data[start:]
    path.write_bytes(data)


def change_number_in_text(path, rng: random.Random) -> None:
    """Another number or word in the place of one, wherever a number stands in the file as text."""
    data = path.read_bytes()
    numbers = list(re.finditer(rb"\d+(\.\d+)?", data[:20000]))
    if numbers:
        found = rng.choice(numbers)
        text = str(rng.choice([*TEXTS, *NUMBERS])).encode()
        path.write_bytes(data[: found.start()] + text + data[found.end() :])


def replace_by_junk(path, rng: random.Random) -> None:
    """Another file: empty, text, a folder, random bytes."""
    content = rng.choice([b"", b"hello\n", rng.randbytes(200), b"\x80\x04N.", b"{" * 3000, b"[" * 100000])
    path.unlink()
    if rng.random() < 0.1:
        path.mkdir()
    else:
        path.write_bytes(content)


# --- Trees: YAML and JSON ---


def _places(tree: Any, place=()):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from _places(value, (*place, key))


def _change_tree(tree: Any, rng: random.Random) -> Any:
    places = list(_places(tree))
    if not places or rng.random() < 0.02:
        return rng.choice(VALUES)
    *above, last = rng.choice(places)
    holder = tree
    for key in above:
        holder = holder[key]
    kind = rng.randrange(6)
    if kind == 0:
        del holder[last]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(["UNKNOWN", "", 5, None, "../../evil"])] = holder.pop(last)
    elif kind == 2:
        holder[last] = [holder[last]] * rng.randint(0, 3)
    else:
        holder[last] = rng.choice(VALUES)
    return tree


def change_yaml(path, rng: random.Random) -> None:
    """A key is gone or renamed, or a value is another one."""
    path.write_text(yaml.safe_dump(_change_tree(yaml.safe_load(path.read_text()), rng)))


def change_json(path, rng: random.Random) -> None:
    """As :func:`change_yaml`; JSON knows no keys but texts."""
    path.write_text(json.dumps(_change_tree(json.loads(path.read_text()), rng)))


def change_json_line(path, rng: random.Random) -> None:
    """One of the lines is another value."""
    lines = path.read_text().splitlines()
    i = rng.randrange(len(lines))
    lines[i] = json.dumps(_change_tree(json.loads(lines[i]), rng))
    path.write_text("\n".join(lines) + "\n")


def change_csv(path, rng: random.Random) -> None:
    """A cell, a row or a column is another one or gone."""
    rows = list(csv.reader(io.StringIO(path.read_text())))
    row, column = rng.choice(rows[:1] if rng.random() < 0.3 else rows), rng.randrange(len(rows[0]))
    kind = rng.randrange(5)
    if kind == 0:
        row[column] = str(rng.choice(VALUES))
    elif kind == 1:
        rows.remove(row)
    elif kind == 2:
        rows.append(row)
    elif kind == 3:
        rows = [[cell for i, cell in enumerate(row) if i != column] for row in rows]
    else:
        del row[column:]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue())


# --- HDF5 ---


def _virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((2, 3), "c8")
    layout[:] = h5py.VirtualSource("missing.h5", "kspace", (2, 3))
    file.create_virtual_dataset(name, layout)


_DATASETS: List[Callable[[h5py.File, str], Any]] = [
    lambda file, name: file.create_dataset(name, data=h5py.Empty("c8")),
    lambda file, name: file.create_dataset(name, data=np.complex64(1)),
    lambda file, name: file.create_dataset(name, data="text"),
    lambda file, name: file.create_dataset(name, data=np.full((2, 3, 4), np.nan)),
    lambda file, name: file.create_dataset(name, data=np.arange(24).reshape(2, 3, 4)),
    lambda file, name: file.create_dataset(name, (10**9, 8, 6, 4, 3), "c8", chunks=(1, 8, 6, 4, 3)),
    lambda file, name: file.create_dataset(name, (2, 0, 6, 4, 3), "c8"),
    lambda file, name: file.create_dataset(name, (2, 70000), "f4", chunks=True, compression="gzip"),
    lambda file, name: file.create_dataset(name, (3,), h5py.vlen_dtype("f4")),
    lambda file, name: file.create_dataset(name, (3,), [("real", "f4"), ("other", "S3")]),
    lambda file, name: file.create_dataset(name, (2, 3), "c8", external=[("/nowhere/raw.bin", 0, 48)]),
    lambda file, name: file.create_group(name),
    lambda file, name: file.__setitem__(name, h5py.SoftLink("/nowhere")),
    lambda file, name: file.__setitem__(name, h5py.SoftLink("/" + name)),
    lambda file, name: file.__setitem__(name, h5py.ExternalLink("missing.h5", "/x")),
    _virtual,
]


def change_hdf5(path, rng: random.Random) -> None:
    """A dataset is gone, has another type, shape or value, is a link to nowhere; or an attribute is another one."""
    with h5py.File(path, "r+") as file:
        names: List[str] = []
        file.visit(names.append)
        if not names:
            return
        name = rng.choice(names)
        kind = rng.randrange(5)
        if kind == 0:
            del file[name]
        elif kind == 1:
            del file[name]
            rng.choice(_DATASETS)(file, name)
        elif kind == 2:
            holder = file if rng.random() < 0.7 else file[name]
            attribute = rng.choice([*holder.attrs, "pixel_spacing_mm", "traj"])
            value = rng.choice([*TEXTS[:16], *NUMBERS, [], [1.0, float("nan")], h5py.Empty("f4")])
            holder.attrs[attribute] = value
        else:
            _change_values(file, name, rng)


def _change_values(file: h5py.File, name: str, rng: random.Random) -> None:
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None or not dataset.size:
        return
    values = dataset[()]
    change = rng.randrange(4)
    if h5py.check_string_dtype(dataset.dtype):
        text = np.asarray(values).reshape(-1)[0]
        text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        numbers = list(re.finditer(r"\d+", text))
        if numbers:
            found = rng.choice(numbers)
            text = text[: found.start()] + str(rng.choice([*TEXTS[:15], *NUMBERS])) + text[found.end() :]
        dataset[...] = text.replace("\0", "").encode(errors="replace")  # bytes: a text may be said to be ASCII
    elif dataset.dtype.names:
        field = rng.choice(dataset.dtype.names)
        raw = bytearray(np.ascontiguousarray(values).tobytes())
        offset = rng.randrange(len(values.reshape(-1))) * dataset.dtype.itemsize + dataset.dtype.fields[field][1]
        if dataset.dtype.hasobject:
            return
        raw[offset : offset + 8] = rng.randbytes(8)[: len(raw) - offset]
        dataset[...] = np.frombuffer(bytes(raw), dataset.dtype).reshape(values.shape)
    elif change == 0:
        dataset[...] = np.zeros_like(values)
    elif change == 1 and dataset.ndim:
        del file[name]
        file[name] = values.swapaxes(0, -1) if rng.random() < 0.5 else values[..., : rng.randint(0, 2)]
    elif change == 2:
        del file[name]
        with np.errstate(all="ignore"):
            file[name] = np.asarray(values).astype(rng.choice(["f8", "c16", "i2", "u1", "f2"]))
    else:
        with np.errstate(all="ignore"):
            values = np.array(values)
            values.reshape(-1)[rng.randrange(values.size)] = np.array(rng.choice(NUMBERS)).astype(values.dtype)
        dataset[...] = values


# --- Images ---


def change_nifti_header(path, rng: random.Random) -> None:
    """One field of the header is another number."""
    data = bytearray(path.read_bytes())
    offset, kind = rng.choice([(40, "i2"), (42, "i2"), (70, "i2"), (72, "i2"), (76, "f4"), (80, "f4"), (108, "f4")])
    offset += rng.choice([0, 2, 4, 8]) if kind == "i2" else rng.choice([0, 4, 8, 12])
    with np.errstate(all="ignore"):
        number = np.array(rng.choice(NUMBERS)).astype(kind)
    data[offset : offset + number.nbytes] = number.tobytes()
    path.write_bytes(data)


def _data_sets(data_set: pydicom.Dataset) -> List[pydicom.Dataset]:
    """The data set, and those in its sequences."""
    items = [item for element in data_set if element.VR == "SQ" for item in element.value]
    return [data_set, *(found for item in items for found in _data_sets(item))]


def change_dicom(path, rng: random.Random) -> None:
    """An element is gone, or has another value; of a file, or of an item in one of its sequences."""
    image = pydicom.dcmread(path)
    changed = rng.choice([image, rng.choice([found for found in _data_sets(image) if len(found)])])
    element = rng.choice(list(changed))
    if rng.random() < 0.3:
        del changed[element.tag]
    else:
        value = rng.choice([str(rng.choice(NUMBERS)), *TEXTS[:10], "1\\2\\3"]).encode()
        raw = pydicom.dataelem.RawDataElement(element.tag, element.VR, len(value), value, 0, False, True)
        changed._dict[element.tag] = raw
    if rng.random() < 0.3:
        image.add_new(0x00280008, "IS", "1")
        value = rng.choice(["xx", "0", "-1", "99999999", "1e9"]).encode()
        image._dict[pydicom.tag.Tag(0x00280008)] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(0x00280008), "IS", len(value), value, 0, False, True
        )
    image.save_as(path)


# --- Checkpoints ---


def change_checkpoint(path, rng: random.Random) -> None:
    """A key is gone or renamed; a value, or a tensor's type, shape or value, is another one."""
    state = torch.load(path, weights_only=True)
    places = list(_places(state))
    *above, last = rng.choice([place for place in places if len(place) == rng.randint(1, 4)] or places)
    holder: Any = state
    for key in above:
        holder = holder[key]
    if isinstance(holder, tuple):
        return
    value = holder[last]
    if rng.random() < 0.2:
        del holder[last]
    elif isinstance(value, torch.Tensor) and rng.random() < 0.8:
        changes: Dict[int, Callable[[], Any]] = {
            0: lambda: torch.full(value.shape, float("nan")),
            1: lambda: torch.zeros(value.shape, dtype=torch.int64),
            2: lambda: value[None],
            3: lambda: value.reshape(-1)[:0],
            4: lambda: value.to(torch.complex64),
            5: lambda: value.double(),
            6: lambda: torch.full_like(value, 3.0).to_sparse(),
            7: lambda: torch.full(value.shape, float("inf")),
            8: lambda: torch.zeros(1).expand(100000, 100000),
        }
        holder[last] = changes[rng.randrange(len(changes))]()
    else:
        holder[last] = rng.choice(VALUES)
    torch.save(state, path)
