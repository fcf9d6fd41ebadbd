"""Scans on disk -> examples: meddlr's ``SliceData`` with every file checked before it is trained on.

What a file holds is told by :mod:`meddlr_greedy.data.scan_file`.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import numpy as np
from meddlr.data.slice_dataset import SliceData

from meddlr_greedy.data.scan_file import (
    CINE_AXES,
    MAGNITUDE_TARGET,
    PLAIN_AXES,
    check_scan_file,
    datasets_in,
    names_in_file,
)
from meddlr_greedy.errors import UserError

__all__ = ["CheckedSliceData", "CineSliceData"]


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
            without_maps = key == "maps" and self.mapping["target"] == MAGNITUDE_TARGET  # meddlr puts zeros
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
    _DEFAULT_MAPPING = names_in_file(None)

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
