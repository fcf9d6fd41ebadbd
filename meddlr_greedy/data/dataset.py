"""Scans on disk -> examples: meddlr's ``SliceData`` with every file checked before it is trained on.

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
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple

import h5py
import numpy as np
from meddlr.data.slice_dataset import SliceData

from meddlr_greedy.errors import UserError

__all__ = ["CINE_AXES", "CheckedSliceData", "CineSliceData", "check_scan_file", "datasets_in"]

#: Number of axes of the k-space in a file.
CINE_AXES = 5
PLAIN_AXES = 4

_TRAJECTORY = ("traj", "trajectory")

_MASK_DTYPES = (np.dtype("uint8"), np.dtype("float32"))

# What a file may say about the scan: name -> how many positive numbers.
_ATTRIBUTES = {"pixel_spacing_mm": 2, "slice_spacing_mm": 1, "frame_time_ms": 1}

# meddlr's name for a target that is a magnitude image and goes without maps.
_MAGNITUDE_TARGET = "reconstruction_rss"


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
    names = _names(mapping)
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            _check_cartesian(path, file, names["kspace"])
            _check_attributes(path, file)
            return _check_arrays(path, file, names)
    except OSError as error:
        raise UserError(f"{path}: truncated, or not an HDF5 file ({error})") from error


def datasets_in(path: str, mapping: Optional[Mapping[str, str]] = None) -> Set[str]:
    """Returns which of "kspace", "maps", "target" and "mask" a checked file holds; a mask counts in cine alone."""
    names = _names(mapping)
    with h5py.File(path, "r") as file:
        is_cine = file[names["kspace"]].ndim == CINE_AXES
        return {key for key, name in names.items() if name in file and (key != "mask" or is_cine)}


def _names(mapping: Optional[Mapping[str, str]]) -> Dict[str, str]:
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
        if values.shape != (count,) or values.dtype.kind not in "iuf" or not (np.isfinite(values) & (values > 0)).all():
            allowed = "one positive number is" if count == 1 else f"{count} positive numbers are"
            raise UserError(f"{path}: attribute {name} is {file.attrs[name]!r}; {allowed} allowed")


def _check_arrays(path: str, file: h5py.File, names: Mapping[str, str]) -> Tuple[int, ...]:
    found = file.get(names["kspace"])
    is_cine = isinstance(found, h5py.Dataset) and found.ndim == CINE_AXES
    magnitude_target = not is_cine and names["target"] == _MAGNITUDE_TARGET
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


class CheckedSliceData(SliceData):
    """meddlr's dataset of 2D slices, with its files checked on construction and its values when read.

    Args:
        dataset_dicts: One dictionary per scan, in meddlr's format; "_dataset" is the data set it belongs to.
        transform: Called with (kspace, maps, target, fname, slice_id, is_fixed, acceleration).
        keys: Names in the file of "kspace", "maps" and "target", where they differ.
        include_metadata: Adds {"scan_id", "slice_id"} as "metadata" to each example.
        **kwargs: For ``SliceData``.

    Raises:
        UserError: A file that cannot be used, or two scans of one name in a data set; when an example is
            read, also NaN, infinity or nothing but zeros in it.
    """

    NUM_AXES = PLAIN_AXES

    def __init__(
        self,
        dataset_dicts: List[Dict[str, Any]],
        transform,
        keys: Optional[Mapping[str, str]] = None,
        include_metadata: bool = False,
        **kwargs,
    ):
        #: Name of the scan in each file, for the seed of its examples.
        self.scan_names = _scan_names(dataset_dicts)
        scans = [self._checked_scan(scan, keys) for scan in dataset_dicts]
        #: What each file holds, see :func:`datasets_in`.
        self.contents = {scan["file_name"]: datasets_in(scan["file_name"], keys) for scan in scans}
        #: Shape of one example's k-space, for each file.
        self.example_shapes = {scan["file_name"]: scan["kspace_size"][1:] for scan in scans}
        super().__init__(scans, transform, keys, include_metadata, **kwargs)

    def _checked_scan(self, scan: Dict[str, Any], keys: Optional[Mapping[str, str]]) -> Dict[str, Any]:
        """Returns the scan's dictionary with "kspace_size" as found in the file."""
        path = scan["file_name"]
        shape = check_scan_file(path, keys)
        if len(shape) != self.NUM_AXES:
            raise UserError(
                f"{path}: k-space has {len(shape)} axes {shape}, other scans of this data set have "
                f"{self.NUM_AXES}; cine and 2D cannot be mixed"
            )
        # An annotation may list fewer slices than the file holds; meddlr then takes the first ones.
        size = scan.get("kspace_size", [scan.get("num_slices", shape[0])])
        listed = size[0] if isinstance(size, (list, tuple)) and size else None
        if not isinstance(listed, int) or not 1 <= listed <= shape[0]:
            raise UserError(
                f"{path}: kspace_size (or num_slices) is {size!r} in the annotation; "
                f"the file has {shape}, of which an annotation may list 1 to {shape[0]} slices"
            )
        return {**scan, "kspace_size": (listed,) + shape[1:]}

    def _load_data(self, example: Dict[str, Any], idx: int) -> Dict[str, np.ndarray]:
        where = f"{example['file_name']}: slice {example['slice_id']}"
        try:
            data = self._read(example, idx)
        except OSError as error:
            raise UserError(f"{where} cannot be read: truncated or damaged ({error})") from error
        for key, array in data.items():
            # One fast pass; only what is suspicious (or over- or underflows when squared) is looked at closely.
            if array.dtype == np.complex64 and 0 < np.vdot(array, array).real < np.inf:
                continue
            if not np.isfinite(array).all():
                raise UserError(f"{where}: {self.mapping[key]} holds NaN or infinity")
            without_maps = key == "maps" and self.mapping["target"] == _MAGNITUDE_TARGET  # meddlr puts zeros
            if not array.any() and not without_maps:
                raise UserError(f"{where}: {self.mapping[key]} holds nothing but zeros")
        return data

    def _read(self, example: Dict[str, Any], idx: int) -> Dict[str, np.ndarray]:
        return super()._load_data(example, idx)


class CineSliceData(CheckedSliceData):
    """Slices of cine scans: k-space (H, W, T, C), maps (H, W, 1, C, M), target (H, W, T, M) if the file has it.

    A mask in the file, (1, W, T, 1) or (H, W, T, 1), is given to the transform too.
    """

    NUM_AXES = CINE_AXES
    _DEFAULT_MAPPING = _names(None)

    def __getitem__(self, i: int) -> Dict[str, Any]:
        example = self.examples[i]
        is_unsupervised = example["is_unsupervised"]
        scan = Path(example["file_name"]).stem
        out = self.transform(
            **{"target": None, **self._load_data(example, i)},
            fname=scan,
            slice_id=example["slice_id"],
            is_fixed=is_unsupervised,
            acceleration=example["fixed_acc"] if is_unsupervised else None,
        )
        out["is_unsupervised"] = is_unsupervised
        if is_unsupervised:
            out.pop("target", None)
        if self._include_metadata:
            out["metadata"] = {"scan_id": scan, "slice_id": example["slice_id"]}
        return out

    def _load_data(self, example: Dict[str, Any], idx: int) -> Dict[str, np.ndarray]:
        data = super()._load_data(example, idx)
        mask = data.get("mask")
        if mask is not None and not np.isin(mask, (0, 1)).all():
            raise UserError(
                f"{example['file_name']}: slice {example['slice_id']}: {self.mapping['mask']} holds values other than "
                "0 and 1"
            )
        return data

    def _read(self, example: Dict[str, Any], idx: int) -> Dict[str, np.ndarray]:
        path, files = example["file_name"], self._hdf5_manager
        with files.temp_open(path, "r"):
            return {key: files.get(path, self.mapping[key], example["slice_id"]) for key in sorted(self.contents[path])}


def _scan_names(scans: List[Dict[str, Any]]) -> Dict[str, str]:
    """Returns a name for each file, "<data set>/<stem>", the same on every machine.

    Raises:
        UserError: Two files of one data set have the same stem, by which results know a scan.
    """
    paths: Dict[str, str] = {}
    for scan in scans:
        path = scan["file_name"]
        other = paths.setdefault(f"{scan.get('_dataset', '')}/{Path(path).stem}", path)
        if other != path:
            raise UserError(f"{path}: has the same name as {other}; names of scans in a data set must differ")
    return {path: name for name, path in paths.items()}
