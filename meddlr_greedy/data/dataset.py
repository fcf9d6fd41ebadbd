"""Scans on disk -> examples: meddlr's ``SliceData`` with every file checked before it is trained on.

What a file holds is told by :mod:`meddlr_greedy.data.scan_file`.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

import h5py
import numpy as np
from meddlr.data.data_utils import HDF5Manager
from meddlr.data.slice_dataset import SliceData

from meddlr_greedy.data.scan_file import (
    MAGNITUDE_TARGET,
    check_mask,
    check_values,
    names_in_file,
    read_header,
    reading_slice,
)
from meddlr_greedy.errors import UserError
from meddlr_greedy.hdf5 import read_item
from meddlr_greedy.ops.axes import CINE_AXES, PLAIN_AXES

__all__ = ["CheckedSliceData", "CineSliceData", "ExampleKind"]


class ExampleKind(NamedTuple):
    """What examples of one batch must have in common."""

    shape: Tuple[int, ...]  #: of k-space, (H, W, T, C) or (H, W, C)
    num_maps: int  #: M; 0 where there are no maps
    has_target: bool

    def __str__(self) -> str:
        return f"{self.shape}, {self.num_maps} maps, {'with' if self.has_target else 'without'} target"


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
    _hdf5_manager: HDF5Manager  # of meddlr's

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
        #: Which of "kspace", "maps", "target" and "mask" is read of each file.
        self.contents: Dict[str, Set[str]] = {}
        #: Shape of one example's k-space, for each file.
        self.example_shapes: Dict[str, Tuple[int, ...]] = {}
        self._num_maps: Dict[str, int] = {}
        scans = [self._checked_scan(scan, keys) for scan in dataset_dicts]
        super().__init__(scans, transform, keys, include_metadata, **kwargs)
        self._hdf5_manager = _Files(cache=False, max_attempts=self._hdf5_manager.max_attempts)

    @property
    def kinds(self) -> List[ExampleKind]:
        """The kind of each example."""
        kinds = {
            path: ExampleKind(shape, self._num_maps[path], "target" in self.contents[path])
            for path, shape in self.example_shapes.items()
        }
        return [kinds[example["file_name"]] for example in self.examples]

    def _checked_scan(self, scan: Dict[str, Any], keys: Optional[Mapping[str, str]]) -> Dict[str, Any]:
        """Returns the scan's dictionary with "kspace_size" as found in the file, and keeps what the file holds."""
        path = scan["file_name"]
        header = read_header(path, keys)
        shape = header.shape
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
        self.contents[path], self.example_shapes[path] = set(header.contents), shape[1:]
        self._num_maps[path] = header.num_maps
        return {**scan, "kspace_size": (listed,) + shape[1:]}

    def _load_data(self, example: Dict[str, Any], idx: int) -> Dict[str, np.ndarray]:
        path, slice_id = example["file_name"], example["slice_id"]
        with reading_slice(path, slice_id):
            data = self._read(example, idx)
        without_maps = self.mapping["target"] == MAGNITUDE_TARGET  # meddlr puts zeros in their place
        checked = {key: array for key, array in data.items() if not (key == "maps" and without_maps)}
        check_values(path, slice_id, {self.mapping[key]: array for key, array in checked.items()})
        return data

    def _read(self, example: Dict[str, Any], idx: int) -> Dict[str, np.ndarray]:
        return super()._load_data(example, idx)


class CineSliceData(CheckedSliceData):
    """Slices of cine scans: k-space (H, W, T, C), maps (H, W, 1, C, M), target (H, W, T, M) if the file has it.

    A mask in the file, (1, W, T, 1) or (H, W, T, 1), is given to the transform too.

    Args:
        dataset_dicts: As for :class:`CheckedSliceData`.
        transform: A :class:`~meddlr_greedy.data.transform.CineDataTransform`.
        keys: As for :class:`CheckedSliceData`.
        include_metadata: As for :class:`CheckedSliceData`.
        with_targets: Whether targets are read, where files have them; nothing depends on one that is not.
        **kwargs: For ``SliceData``.
    """

    NUM_AXES = CINE_AXES
    _DEFAULT_MAPPING = names_in_file()

    def __init__(
        self,
        dataset_dicts: List[Dict[str, Any]],
        transform,
        keys: Optional[Mapping[str, str]] = None,
        include_metadata: bool = False,
        with_targets: bool = True,
        **kwargs,
    ):
        super().__init__(dataset_dicts, transform, keys, include_metadata, **kwargs)
        if not with_targets:
            for contents in self.contents.values():
                contents.discard("target")

    def __getitem__(self, i: int) -> Dict[str, Any]:
        return self.read_example(i)

    def read_example(self, i: int, loss_lines_seed: int = 0) -> Dict[str, Any]:
        """Reads and transforms an example.

        Args:
            i: Its index.
            loss_lines_seed: Decides the lines held out for the loss, where the transform holds out some.
        """
        example = self.examples[i]
        is_unsupervised = example["is_unsupervised"]
        scan = Path(example["file_name"]).stem
        out = self.transform(
            **{"target": None, **self._load_data(example, i)},
            fname=scan,
            slice_id=example["slice_id"],
            is_fixed=is_unsupervised,
            acceleration=example["fixed_acc"] if is_unsupervised else None,
            loss_lines_seed=loss_lines_seed,
        )
        out["is_unsupervised"] = is_unsupervised
        if is_unsupervised:
            out.pop("target", None)
        if self._include_metadata:
            out["metadata"] = {"scan_id": scan, "slice_id": example["slice_id"]}
        return out

    def _load_data(self, example: Dict[str, Any], idx: int) -> Dict[str, np.ndarray]:
        data = super()._load_data(example, idx)
        if "mask" in data:
            check_mask(example["file_name"], example["slice_id"], self.mapping["mask"], data["mask"])
        return data

    def _read(self, example: Dict[str, Any], _: int) -> Dict[str, np.ndarray]:
        path, files = example["file_name"], self._hdf5_manager
        with files.temp_open(path, "r"):
            return {key: files.get(path, self.mapping[key], example["slice_id"]) for key in sorted(self.contents[path])}


class _Files(HDF5Manager):
    """meddlr's, which tries again where a network drive fails; slices are read by :func:`read_item`."""

    def _load_data(self, file: h5py.File, key: str, sl: int) -> np.ndarray:
        return read_item(file[key], sl)


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
