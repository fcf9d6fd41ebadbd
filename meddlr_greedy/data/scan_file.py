"""The scan file: what it holds, how it is checked and written.

One HDF5 file per scan, complex64, S slices (the examples), H readout, W phase encode, T cardiac phases,
C coils, M map sets:

    ======  ==================  ==============
    name    cine                2D
    ======  ==================  ==============
    kspace  (S, H, W, T, C)     (S, H, W, C)
    maps    (S, H, W, 1, C, M)  (S, H, W, C, M)
    target  (S, H, W, T, M)     (S, H, W, M)
    mask    (S, 1, W, T, 1)
    ======  ==================  ==============

Whether a file is cine or 2D is told by the number of axes of its k-space. A cine file that was undersampled when it
was acquired (prospectively) holds its sampling "mask", 0 or 1, uint8 or float32, of the shape above or (S, H, W, T, 1)
where it varies along the readout; then no other mask is drawn for it, and it may lack "target".
"""

import os
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional, Set, Tuple

import h5py
import numpy as np
from meddlr.data.slice_dataset import SliceData

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import writing, written_atomically

__all__ = [
    "CINE_AXES",
    "Geometry",
    "MAGNITUDE_TARGET",
    "check_attributes",
    "check_cartesian",
    "check_scan_file",
    "datasets_in",
    "names_in_file",
    "write_scan",
]


#: Number of axes of the k-space in a file.
CINE_AXES = 5
PLAIN_AXES = 4

_TRAJECTORY = ("traj", "trajectory")

_MASK_DTYPES = (np.dtype("uint8"), np.dtype("float32"))

# What a file may say about the scan: name -> how many positive numbers.
_ATTRIBUTES = {"pixel_spacing_mm": 2, "slice_spacing_mm": 1, "frame_time_ms": 1}

# meddlr's name for a target that is a magnitude image and goes without maps.
MAGNITUDE_TARGET = "reconstruction_rss"


def check_scan_file(path: str, mapping: Optional[Mapping[str, str]] = None) -> Tuple[int, ...]:
    """Checks that a file can be trained on, without reading the data in it.

    Args:
        path: An HDF5 file, see the top of this module.
        mapping: Names in the file of "kspace", "maps", "target" and "mask", where they differ
            (``DATALOADER.DATA_KEYS``). A target named "reconstruction_rss" goes without maps, as in meddlr.

    Returns:
        Tuple[int, ...]: The shape of k-space, (S, H, W, T, C) for cine and (S, H, W, C) for 2D.

    Raises:
        UserError: The file is missing, truncated or no HDF5, lacks a dataset, is not Cartesian, its arrays
            have a wrong type or shapes that disagree, or a spacing or its frame time is no positive number.
    """
    names = names_in_file(mapping)
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            check_cartesian(path, file, names["kspace"])
            check_attributes(path, file)
            return _check_arrays(path, file, names)
    except OSError as error:
        raise UserError(f"{path}: truncated, or not an HDF5 file ({error})") from error


def datasets_in(path: str, mapping: Optional[Mapping[str, str]] = None) -> Set[str]:
    """Returns which of "kspace", "maps", "target" and "mask" a checked file holds; a mask counts in cine alone."""
    names = names_in_file(mapping)
    with h5py.File(path, "r") as file:
        is_cine = file[names["kspace"]].ndim == CINE_AXES
        return {key for key, name in names.items() if name in file and (key != "mask" or is_cine)}


def names_in_file(mapping: Optional[Mapping[str, str]]) -> Dict[str, str]:
    return {**SliceData._DEFAULT_MAPPING, "mask": "mask", **(mapping or {})}


def check_cartesian(path: str, file: h5py.File, kspace_name: str) -> None:
    found = [f"dataset '{name}'" for name in file if name.lower() in _TRAJECTORY]
    for holder in (file, file.get(kspace_name, file)):
        for name in _TRAJECTORY:
            value = holder.attrs.get(name, "cartesian")
            value = value.decode() if isinstance(value, bytes) else str(value)
            if value.lower() != "cartesian":
                found.append(f"attribute {name} = '{value}'")
    if found:
        raise UserError(f"{path}: not Cartesian ({found[0]}); only Cartesian k-space is allowed")


def check_attributes(path: str, file: h5py.File) -> None:
    for name, count in _ATTRIBUTES.items():
        if name not in file.attrs:
            continue
        values = np.atleast_1d(file.attrs[name])
        if values.shape != (count,) or values.dtype.kind not in "iuf" or not (np.isfinite(values) & (values > 0)).all():
            allowed = "one positive number is" if count == 1 else f"{count} positive numbers are"
            raise UserError(f"{path}: attribute {name} is {file.attrs[name]!r}; {allowed} allowed")


def _check_arrays(path: str, file: h5py.File, names: Mapping[str, str]) -> Tuple[int, ...]:
    found = file.get(names["kspace"])
    is_cine = isinstance(found, h5py.Dataset) and found.ndim == CINE_AXES
    magnitude_target = not is_cine and names["target"] == MAGNITUDE_TARGET
    needed = ["kspace", "target"] if magnitude_target else ["kspace", "maps", "target"]
    prospective = is_cine and names["mask"] in file
    if prospective and names["target"] not in file:
        needed.remove("target")
    for key in needed:
        if not isinstance(file.get(names[key]), h5py.Dataset):
            without = f" (only a cine file with '{names['mask']}' may lack it)" if key == "target" else ""
            raise UserError(f"{path}: no dataset '{names[key]}' in it{without}; found: {', '.join(file) or 'nothing'}")
    arrays = {key: file[names[key]] for key in needed}

    kspace = arrays["kspace"].shape
    if len(kspace) not in (PLAIN_AXES, CINE_AXES) or 0 in kspace:
        raise UserError(
            f"{path}: {names['kspace']} has shape {kspace}; allowed are (S, H, W, T, C) for cine "
            "and (S, H, W, C) for 2D"
        )
    frames, coils = kspace[3:-1], kspace[-1]
    # meddlr takes real targets, images without a map axis, for 2D.
    if not is_cine and arrays["target"].dtype.kind == "f":
        magnitude_target = True
    for key, array in arrays.items():
        real_allowed = key == "target" and magnitude_target
        if array.dtype != np.complex64 and not (real_allowed and array.dtype.kind == "f"):
            raise UserError(f"{path}: {names[key]} is {array.dtype}; only complex64 is allowed")

    if prospective:
        _check_mask(path, names, file[names["mask"]], kspace)

    expected = {}
    if "target" in arrays:
        expected["target"] = kspace[:3] + (() if magnitude_target else frames + arrays["maps"].shape[-1:])
    if "maps" in arrays:
        num_maps = arrays["maps"].shape[-1:]
        expected["maps"] = kspace[:3] + (1,) * len(frames) + (coils,) + num_maps
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise UserError(
                f"{path}: {names[key]} has shape {arrays[key].shape}, which does not agree with "
                f"{names['kspace']} of shape {kspace}: {shape} is needed"
            )
    return kspace


def _check_mask(path: str, names: Mapping[str, str], mask: Any, kspace: Tuple[int, ...]) -> None:
    name = names["mask"]
    if not isinstance(mask, h5py.Dataset) or mask.dtype not in _MASK_DTYPES:
        found = mask.dtype if isinstance(mask, h5py.Dataset) else "no dataset"
        raise UserError(f"{path}: {name} is {found}; uint8 and float32 are allowed")
    num_slices, height, *lines = kspace[:-1]
    allowed = [(num_slices, rows, *lines, 1) for rows in (1, height)]
    if mask.shape not in allowed:
        raise UserError(
            f"{path}: {name} has shape {mask.shape}, which does not agree with {names['kspace']} of shape {kspace}: "
            f"{allowed[0]} or {allowed[1]} is needed"
        )


class Geometry(NamedTuple):
    """What is known of pixels and frames: mm (readout, phase encode), ms; ``None`` where it is not."""

    pixel_spacing_mm: Optional[Tuple[float, float]] = None
    frame_time_ms: Optional[float] = None

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Geometry":
        """From the attributes of an HDF5 file or group."""
        spacing, frame_time = attributes.get("pixel_spacing_mm"), attributes.get("frame_time_ms")
        return cls(
            None if spacing is None else (float(spacing[0]), float(spacing[1])),
            None if frame_time is None else float(np.squeeze(frame_time)),
        )

    def as_attributes(self) -> Dict[str, Any]:
        return {key: value for key, value in self._asdict().items() if value is not None}


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
        with writing(path):
            file = h5py.File(partial, "w")
        try:
            for i, arrays in enumerate(slices):
                with writing(path):
                    for name, array in arrays.items():
                        if name not in file:
                            file.create_dataset(name, (num_slices, *array.shape), array.dtype)
                        file[name][i] = array
            with writing(path):
                file.attrs.update({name: value for name, value in attributes.items() if value is not None})
        finally:
            with writing(path):
                file.close()
