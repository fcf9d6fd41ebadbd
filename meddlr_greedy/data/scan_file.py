"""The scan file: what it holds, how it is checked, read and written.

One HDF5 file per scan. Its arrays, for S slices (the examples), H readout, W phase encode, T cardiac phases, C coils
and M map sets:

    ======  ==================  ==============  ================
    name    cine                2D              dtype
    ======  ==================  ==============  ================
    kspace  (S, H, W, T, C)     (S, H, W, C)    complex64
    maps    (S, H, W, 1, C, M)  (S, H, W, C, M) complex64
    target  (S, H, W, T, M)     (S, H, W, M)    complex64
    mask    (S, 1, W, T, 1)     (S, 1, W, 1)    uint8 or float32
    ======  ==================  ==============  ================

k-space is Cartesian and centered. The number of its axes tells whether a file is cine or 2D. In 2D a real target is a
magnitude image without the axis M.

"mask" is 0 or 1, and has H rows in place of the one where it varies along the readout. It says that the scan was
undersampled when it was acquired (prospectively). Such a cine file may lack the target, and no other mask is drawn for
it. In training the mask of a 2D file is not looked at.

Attributes of the file, all optional: "pixel_spacing_mm" (readout, phase encode), "slice_spacing_mm" from the center of
a slice to that of the next (of a single slice, its thickness), and "frame_time_ms". Where slices lie in the patient is
told by "position_mm" (S, 3), "readout_direction" (3,) and "phase_direction" (3,), see
:class:`~meddlr_greedy.headers.placement.Placement`. "dicom" holds what is kept of the study, see
:mod:`meddlr_greedy.headers.study`. Other attributes are kept as they are.
"""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

import h5py
import numpy as np
from meddlr.data.slice_dataset import SliceData

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import check_room, reading, writing, written_atomically
from meddlr_greedy.hdf5 import check_array, check_links, read_item, reading_hdf5
from meddlr_greedy.headers.placement import Placement, check_placement
from meddlr_greedy.limits import LARGEST_LENGTH, is_length
from meddlr_greedy.ops.axes import CINE_AXES, PLAIN_AXES

__all__ = [
    "Geometry",
    "MAGNITUDE_TARGET",
    "ScanHeader",
    "check_mask",
    "check_values",
    "holds_values",
    "names_in_file",
    "read_header",
    "read_slice",
    "reading_slice",
    "write_scan",
    "zeros_error",
]

#: meddlr's name in the file for a target that is a magnitude image; such a file needs no maps.
MAGNITUDE_TARGET = "reconstruction_rss"

# A dataset of this name, or an attribute with another value than "cartesian", tells that k-space is not Cartesian.
_TRAJECTORY = ("traj", "trajectory")
_MASK_DTYPES = (np.dtype("uint8"), np.dtype("float32"))
_MOST_SLICES = 100_000  # of a file; 2D files may hold those of many scans
# What a file may say about the scan: name -> how many positive numbers.
_ATTRIBUTES = {"pixel_spacing_mm": 2, "slice_spacing_mm": 1, "frame_time_ms": 1}


class Geometry(NamedTuple):
    """What is known of pixels and frames: mm (readout, phase encode), ms; ``None`` where it is not."""

    pixel_spacing_mm: Optional[Tuple[float, float]] = None
    frame_time_ms: Optional[float] = None

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Geometry":
        """The geometry that the attributes of an HDF5 file or group tell."""
        spacing, frame_time = attributes.get("pixel_spacing_mm"), attributes.get("frame_time_ms")
        return cls(
            None if spacing is None else (float(spacing[0]), float(spacing[1])),
            None if frame_time is None else float(np.squeeze(frame_time)),
        )

    def as_attributes(self) -> Dict[str, Any]:
        """Returns the attributes that :meth:`of` reads, without what is not known."""
        return {key: value for key, value in self._asdict().items() if value is not None}


class ScanHeader(NamedTuple):
    """What a scan file says without its values being read."""

    shape: Tuple[int, ...]  #: of k-space, (S, H, W, T, C) or (S, H, W, C)
    num_maps: int  #: M; 0 where there are no maps
    contents: FrozenSet[str]  #: which of "kspace", "maps", "target" and "mask" there are
    attributes: Dict[str, Any]  #: of the file

    @property
    def is_cine(self) -> bool:
        """Whether k-space has the axis T."""
        return len(self.shape) == CINE_AXES

    @property
    def geometry(self) -> Geometry:
        """Pixel spacing and frame time."""
        return Geometry.of(self.attributes)

    @property
    def slice_spacing_mm(self) -> Optional[float]:
        """From the center of a slice to that of the next; ``None`` where the file does not say."""
        spacing = self.attributes.get("slice_spacing_mm")
        return None if spacing is None else float(np.squeeze(spacing))

    @property
    def placement(self) -> Optional[Placement]:
        """Where the slices lie in the patient; ``None`` where the file does not say."""
        return Placement.of(self.attributes)


# --- Checking ---


def read_header(
    path: str, mapping: Optional[Mapping[str, str]] = None, for_training: bool = True, needs_maps: bool = True
) -> ScanHeader:
    """Reads what a file holds and checks that it can be used, without reading its values.

    Args:
        path: An HDF5 file, see the top of this module.
        mapping: Names in the file of "kspace", "maps", "target" and "mask", where they differ
            (``DATALOADER.DATA_KEYS``). A target named "reconstruction_rss" goes without maps, as in meddlr.
        for_training: Whether a target is needed, except in a cine file with a mask. If not, a target is not checked,
            and a mask counts in 2D too.
        needs_maps: Whether maps are needed. If not, they are not checked.

    Returns:
        ScanHeader: Shapes, contents and attributes.

    Raises:
        UserError: The file is missing, truncated or no HDF5, lacks a dataset or a part of one, is not Cartesian, its
            arrays have a wrong type or shapes that disagree, a spacing or its frame time is no positive number, or what
            it says of the place of its slices makes no sense.
    """
    names = names_in_file(mapping)
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file")
    with reading_hdf5(path) as file:
        check_links(path, file, names.values())
        _check_cartesian(path, file, names["kspace"])
        _check_attributes(path, file)
        arrays = _find_arrays(path, file, names, for_training, needs_maps)
        for array in arrays.values():
            if isinstance(array, h5py.Dataset):
                check_array(path, array)
        _check_kspace(path, names, arrays)
        _check_dtypes_and_shapes(path, names, arrays)
        wrong = check_placement(file.attrs, len(arrays["kspace"]))
        if wrong:
            raise UserError(f"{path}: {wrong}")
        num_maps = arrays["maps"].shape[-1] if "maps" in arrays else 0
        unchecked = ("target",) if needs_maps else ("target", "maps")
        contents = frozenset(arrays) | {key for key in unchecked if names[key] in file}
        return ScanHeader(arrays["kspace"].shape, num_maps, contents, dict(file.attrs))


def names_in_file(mapping: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """Returns the name in the file of "kspace", "maps", "target" and "mask"; ``mapping`` holds those that differ."""
    return {**SliceData._DEFAULT_MAPPING, "mask": "mask", **(mapping or {})}


def _check_cartesian(path: str, file: h5py.File, kspace_name: str) -> None:
    found = [f"dataset '{name}'" for name in file if name.lower() in _TRAJECTORY]
    for holder in (file, file.get(kspace_name, file)):
        for name in _TRAJECTORY:
            value = holder.attrs.get(name, "cartesian")
            value = value.decode() if isinstance(value, bytes) else str(value)
            if value.lower() != "cartesian":
                found.append(f"attribute {name} = '{value}'")
    if found:
        raise UserError(f"{path}: not Cartesian ({found[0]}); only Cartesian k-space is allowed")


def _check_attributes(path: str, file: h5py.File) -> None:
    for name, count in _ATTRIBUTES.items():
        if name not in file.attrs:
            continue
        values = np.atleast_1d(file.attrs[name])
        if values.shape != (count,) or values.dtype.kind not in "iuf" or not all(map(is_length, values)):
            allowed = "one positive number" if count == 1 else f"{count} positive numbers"
            found = repr(file.attrs[name])[:100]
            raise UserError(f"{path}: attribute {name} is {found}; allowed {allowed} up to {LARGEST_LENGTH:g}")


def _find_arrays(
    path: str, file: h5py.File, names: Mapping[str, str], for_training: bool, needs_maps: bool
) -> Dict[str, Any]:
    """Returns the arrays to check, by key."""
    kspace = file.get(names["kspace"])
    is_cine = isinstance(kspace, h5py.Dataset) and kspace.ndim == CINE_AXES
    has_mask = names["mask"] in file and (is_cine or not for_training)
    needed = ["kspace"]
    if needs_maps and (is_cine or not for_training or names["target"] != MAGNITUDE_TARGET):
        needed.append("maps")
    if for_training and not (has_mask and names["target"] not in file):
        needed.append("target")
    for key in needed:
        if not isinstance(file.get(names[key]), h5py.Dataset):
            without = f" (only a cine file with '{names['mask']}' may lack it)" if key == "target" else ""
            raise UserError(f"{path}: no dataset '{names[key]}' in it{without}; found: {', '.join(file) or 'nothing'}")
    return {key: file[names[key]] for key in (*needed, *(["mask"] if has_mask else []))}


def _check_kspace(path: str, names: Mapping[str, str], arrays: Mapping[str, Any]) -> None:
    shape = arrays["kspace"].shape
    if len(shape) not in (PLAIN_AXES, CINE_AXES) or 0 in shape:
        raise UserError(
            f"{path}: {names['kspace']} has shape {shape}; allowed are (S, H, W, T, C) for cine and (S, H, W, C) for 2D"
        )
    if shape[0] > _MOST_SLICES:
        raise UserError(f"{path}: {names['kspace']} has {shape[0]} slices; allowed are up to {_MOST_SLICES}")


def _check_dtypes_and_shapes(path: str, names: Mapping[str, str], arrays: Mapping[str, Any]) -> None:
    kspace = arrays["kspace"].shape
    # meddlr takes real targets, images without a map axis, for 2D.
    magnitude_target = (
        "target" in arrays
        and len(kspace) == PLAIN_AXES
        and (names["target"] == MAGNITUDE_TARGET or arrays["target"].dtype.kind == "f")
    )
    for key, array in arrays.items():
        if key == "mask":
            if not isinstance(array, h5py.Dataset) or array.dtype not in _MASK_DTYPES:
                found = array.dtype if isinstance(array, h5py.Dataset) else "no dataset"
                raise UserError(f"{path}: {names[key]} is {found}; uint8 and float32 are allowed")
        elif array.dtype != np.complex64 and not (key == "target" and magnitude_target and array.dtype.kind == "f"):
            raise UserError(f"{path}: {names[key]} is {array.dtype}; only complex64 is allowed")

    num_maps = arrays["maps"].shape[-1:] if "maps" in arrays else ()
    shapes = _allowed_shapes(kspace, num_maps, magnitude_target)
    for key in [key for key in ("target", "maps", "mask") if key in arrays]:
        if arrays[key].shape not in shapes[key]:
            needed = " or ".join(map(str, shapes[key]))
            raise UserError(
                f"{path}: {names[key]} has shape {arrays[key].shape}, which does not agree with "
                f"{names['kspace']} of shape {kspace}: {needed} is needed"
            )


def _allowed_shapes(
    kspace: Tuple[int, ...], num_maps: Tuple[int, ...], magnitude_target: bool
) -> Dict[str, Sequence[Tuple[int, ...]]]:
    """Returns the shapes that agree with that of k-space; ``num_maps`` is (M,)."""
    num_slices, height, width, *frames = kspace[:-1]
    plane = (num_slices, height, width)
    return {
        "target": [plane if magnitude_target else (*plane, *frames, *num_maps)],
        "maps": [(*plane, *(1 for _ in frames), kspace[-1], *num_maps)],
        "mask": [(num_slices, rows, width, *frames, 1) for rows in (1, height)],
    }


# --- Reading ---


def read_slice(path: str, slice_id: int, names: Iterable[str], part: Sequence[slice] = ()) -> Dict[str, np.ndarray]:
    """Reads one slice of the arrays of these names, without the axis S; or a part of it.

    Raises:
        UserError: The file is truncated or damaged.
    """
    index = (slice_id, *part)
    with reading_slice(path, slice_id), h5py.File(path, "r") as file:
        return {name: file[name][index] if part else read_item(file[name], slice_id) for name in names}


@contextmanager
def reading_slice(path: str, slice_id: int) -> Iterator[None]:
    """Makes a UserError of whatever goes wrong in the block, where a slice is read."""
    with reading(f"{path}: slice {slice_id}", "a readable HDF5 file"):
        yield


def check_values(path: str, slice_id: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Checks the values of one slice.

    Args:
        path: The file.
        slice_id: The number of the slice.
        arrays: The arrays by their names in the file.

    Raises:
        UserError: An array holds NaN, infinity or nothing but zeros.
    """
    for name, array in arrays.items():
        if not holds_values(path, slice_id, name, array):
            raise zeros_error(path, slice_id, name)


def holds_values(path: str, slice_id: int, name: str, array: np.ndarray) -> bool:
    """Whether an array, or a part of one, of a slice holds anything but zeros.

    Raises:
        UserError: It holds NaN or infinity.
    """
    # One fast pass; only what is suspicious (or over- or underflows when squared) is looked at closely.
    if array.dtype == np.complex64 and 0 < np.vdot(array, array).real < np.inf:
        return True
    if not np.isfinite(array).all():
        raise UserError(f"{path}: slice {slice_id}: {name} holds NaN or infinity")
    return bool(array.any())


def zeros_error(path: str, slice_id: int, name: str) -> UserError:
    """The error of an array of a slice that holds nothing but zeros."""
    return UserError(f"{path}: slice {slice_id}: {name} holds nothing but zeros")


def check_mask(path: str, slice_id: int, name: str, mask: np.ndarray) -> None:
    """Checks that the mask of one slice, named ``name`` in the file, is binary.

    Raises:
        UserError: It is not.
    """
    if not np.isin(mask, (0, 1)).all():
        raise UserError(f"{path}: slice {slice_id}: {name} holds values other than 0 and 1")


# --- Writing ---


def write_scan(
    path: Path, num_slices: int, slices: Iterable[Dict[str, np.ndarray]], attributes: Dict[str, Any]
) -> None:
    """Writes one HDF5 file, whole or not at all, slice by slice with one slice in memory.

    Args:
        path: The file, in a folder that is made where it is missing.
        num_slices: Number of slices S.
        slices: Of each slice the arrays by name; in the file they have S as a first axis.
        attributes: Of the file; ``None`` is left out.

    Raises:
        WriteError: where the file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as partial:
        file = None
        try:
            for i, arrays in enumerate(slices):
                with writing(path):
                    if file is None:
                        # HDF5 itself does not survive a full disk.
                        check_room(partial, num_slices * sum(array.nbytes for array in arrays.values()))
                        file = h5py.File(partial, "w")
                    for name, array in arrays.items():
                        if name not in file:
                            file.create_dataset(name, (num_slices, *array.shape), array.dtype)
                        file[name][i] = array
            with writing(path):
                file = h5py.File(partial, "w") if file is None else file
                file.attrs.update({name: value for name, value in attributes.items() if value is not None})
        finally:
            with writing(path):
                if file is not None:
                    file.close()
