"""Files of the CMRxRecon challenges 2023 to 2025: MATLAB v7.3, that is HDF5 with reversed axes.

https://cmrxrecon.github.io, and Wang et al., Sci. Data 11:687, 2024.
"""

import argparse
import re
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple

import h5py
import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import reading
from meddlr_greedy.hdf5 import check_array, check_links
from meddlr_greedy.limits import check_memory
from meddlr_greedy.preparation.raw_scan import (
    RawScan,
    RawSlice,
    find_files,
    not_zero,
    plain_text,
    remove_oversampling,
)
from meddlr_greedy.preparation.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["CmrxreconReader"]

_SUFFIX = ".mat"
# Fully sampled: kspace_full, kspace; undersampled: kus, kspace_sub04; of one coil: kspace_single_full.
_KSPACE = re.compile(r"kspace(_single)?(_full|_sub\d*)?|kus", re.IGNORECASE)
_UNDERSAMPLED = re.compile(r"kus|.*_sub\d*", re.IGNORECASE)
# In 2025 patients are numbered anew in each center: Center001/UIH_30T_umr780/P001.
_CENTER = re.compile(r"center\d+", re.IGNORECASE)
_MOST_DEPTH = 4  # of folders below the one that data and masks share


@READER_REGISTRY.register()
class CmrxreconReader(Reader):
    """Files of the CMRxRecon challenges."""

    command = "cmrxrecon"
    help = "files of the CMRxRecon challenges 2023 to 2025"
    description = (
        "MATLAB v7.3 files of the CMRxRecon challenges 2023 to 2025. A folder is a subject, together with those of\n"
        "its center and scanner, where there are such (Center001_UIH_30T_umr780_P001).\n\n"
        "    meddlr-greedy prepare cmrxrecon TrainingSet/FullSample --output datasets/cmrxrecon --maps 2"
    )
    locations = ("masks",)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds where masks are, and the oversampling, which the files do not tell."""
        parser.add_argument(
            "--masks",
            metavar="FOLDER",
            help="of undersampled files: where their masks are (default: beside them, or at the same place in a folder "
            "Mask...)",
        )
        parser.add_argument(
            "--readout-oversampling", type=int, default=1, metavar="FACTOR", help="to be removed (default: %(default)s)"
        )

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The files given, and all ``.mat`` in the folders given but masks."""
        return find_files(inputs, (_SUFFIX,), skip=lambda path: "_mask" in path.stem.lower())

    def open_scan(
        self,
        path: Path,
        undersampled: bool = False,
        readout_oversampling: int = 1,
        masks: Optional[str] = None,
    ) -> RawScan:
        """Opens a file of CMRxRecon.

        Read from Python, k-space has axes (frame, slice, coil, ky, kx), and (frame, slice, ky, kx) where it is called
        "single"; kx is the readout. Masks are of shape (ky,), (ky, kx) or (frame, ky, kx). The subject is the name of
        the folder, behind those of center and scanner.

        Args:
            path: The file.
            undersampled: Whether it is undersampled on purpose; so are the variables ``kus`` and ``kspace_sub...``.
            readout_oversampling: Factor by which the readout is oversampled, which is removed.
            masks: Folder of the masks of undersampled files, in it or in folders of it that are called as the last ones
                of the file. By default that of the file, and the same place in a tree beside it: ``kus/P001`` has
                ``Mask_Task1/P001``. A mask is called as the file with "mask" for "kus", or with "_mask" at its end.
                Without one, what is not zero counts as sampled.

        Raises:
            UserError: The file cannot be used.
        """
        name, shape = _name_and_shape(path)
        undersampled = undersampled or _UNDERSAMPLED.fullmatch(name) is not None
        num_phases, num_slices, _, width, oversampled = shape
        if num_phases < 2:
            raise UserError(f"{path}: no cardiac phases: {name} has 1 frame, allowed 2 or more")
        if readout_oversampling < 1 or oversampled % readout_oversampling:
            raise UserError(f"--readout-oversampling: found {readout_oversampling}, allowed divisors of {oversampled}")

        mask_file = _mask_file(path, masks) if undersampled else None
        mask = None if mask_file is None else _read_mask(mask_file, (num_phases, width, oversampled))
        notes = []
        if undersampled and mask is None:
            notes.append(f"{path}: no mask beside it; what is not zero counts as sampled")
        if mask is not None and mask.shape[0] > 1:
            notes.append(f"{path}: its mask varies along the readout, which the slower form of the model covers")
            if readout_oversampling > 1:
                raise UserError(f"{path}: --readout-oversampling: allowed 1 where the mask varies along the readout")

        def load(slice_id: int) -> RawSlice:
            kspace = _load_kspace(path, name, slice_id, readout_oversampling)
            if mask is None:
                return RawSlice(kspace, not_zero(kspace))
            if kspace[np.broadcast_to(~mask, kspace.shape[:3])].any():
                raise UserError(f"{path}: slice {slice_id}: k-space is not zero where its mask is")
            return RawSlice(kspace, mask)

        return RawScan(
            path=path,
            subject_id=_subject(path),
            num_slices=num_slices,
            load_slice=load,
            undersampled=undersampled,
            mask_file=mask_file,
            notes=tuple(notes),
        )

    def subject_by_path(self, path: Path) -> str:
        """The name of the folder of a file, behind those of center and scanner."""
        return _subject(path)


def _subject(path: Path) -> str:
    folders = path.resolve().parts[:-1]
    center = next((i for i, name in enumerate(folders) if _CENTER.fullmatch(name)), len(folders) - 1)
    return plain_text("_".join(folders[center:]))


def _load_kspace(path: Path, name: str, slice_id: int, readout_oversampling: int) -> np.ndarray:
    """One slice (H, W, T, C) of the variable ``name``, without oversampling."""
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        kspace = _complex(file[name][:, slice_id])
    num_phases, width, oversampled = kspace.shape[0], *kspace.shape[-2:]
    kspace = kspace.reshape(num_phases, -1, width, oversampled)  # one coil where it is "single"
    if readout_oversampling > 1:
        kspace = remove_oversampling(kspace, oversampled // readout_oversampling)
    return np.ascontiguousarray(kspace.transpose(3, 2, 0, 1))


def _name_and_shape(path: Path) -> Tuple[str, Tuple[int, int, int, int, int]]:
    """The variable that holds k-space, and its shape (frame, slice, coil, ky, kx)."""
    with reading(path), open(path, "rb") as binary:
        if binary.read(10) == b"MATLAB 5.0":
            raise UserError(f"{path}: found a MATLAB v5 file, allowed v7.3 (in MATLAB: save -v7.3)")
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        name = _kspace_name(path, file)
        check_array(path, file[name])
        shape = _shape(path, name, file[name])
        num_phases, _, num_coils, width, height = shape
        check_memory(f"{path}: {name}: a slice", 8 * num_phases * num_coils * width * height)
        return name, shape


def _kspace_name(path: Path, file: h5py.File) -> str:
    check_links(path, file, [name for name in file if _KSPACE.fullmatch(name)])
    names = [name for name in file if isinstance(file.get(name), h5py.Dataset) and _KSPACE.fullmatch(name)]
    if len(names) != 1:
        raise UserError(
            f"{path}: found {', '.join(names or file) or 'nothing'}, allowed one variable kspace_full, kspace, "
            "kspace_sub.. or kus"
        )
    return names[0]


def _shape(path: Path, name: str, array: h5py.Dataset) -> Tuple[int, int, int, int, int]:
    """(frame, slice, coil, ky, kx)."""
    found = f"{path}: {name}: found {array.dtype} of shape {array.shape}"
    parts = [array.dtype[name].kind for name in array.dtype.names or () if name in ("real", "imag")]
    if array.dtype.kind != "c" and (len(parts) < 2 or not {*parts} <= {*"fiu"}):
        raise UserError(f"{found}, allowed complex numbers")
    shape = array.shape
    if "single" in name.lower():
        shape = (*shape[:2], 1, *shape[2:])
    elif array.ndim == 4:  # MATLAB drops a last axis of one
        shape = (1, *shape)
    if len(shape) != 5 or 0 in shape:
        raise UserError(f"{found}, allowed (frame, slice, coil, ky, kx)")
    return shape


def _complex(stored: np.ndarray) -> np.ndarray:
    if stored.dtype.kind == "c":
        return stored.astype(np.complex64)
    kspace = np.empty(stored.shape, np.complex64)
    kspace.real, kspace.imag = stored["real"], stored["imag"]
    return kspace


def _mask_file(path: Path, masks: Optional[str]) -> Optional[Path]:
    names = {path.stem + "_mask", re.sub("kus", "mask", path.stem, flags=re.IGNORECASE)} - {path.stem}
    folders = list(_mask_folders(path.resolve().parent, None if masks is None else Path(masks)))
    for folder in folders:
        files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
        for file in files:
            if file.stem in names and file.suffix.lower() == _SUFFIX:
                return file
    if masks is not None:
        wanted = " or ".join(name + _SUFFIX for name in sorted(names))
        raise UserError(f"--masks: found no {wanted} for {path} in {', '.join(map(str, reversed(folders)))}")
    return None


def _mask_folders(folder: Path, masks: Optional[Path]) -> Iterator[Path]:
    """Where the masks of the files in a folder may lie; the most specific place first."""
    if masks is not None:
        for depth in range(min(_MOST_DEPTH, len(folder.parts) - 1), -1, -1):
            yield masks.joinpath(*folder.parts[len(folder.parts) - depth :])
        return
    yield folder
    for above in list(folder.parents)[:_MOST_DEPTH]:
        for tree in sorted(above.glob("[Mm]ask*")):
            yield tree.joinpath(*folder.relative_to(above).parts[1:])


def _read_mask(path: Path, shape: Tuple[int, int, int]) -> np.ndarray:
    """Bool, (1, W, T) or (H, W, T); ``shape`` is (T, W, H)."""
    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        check_links(path, file, [name for name in file if name.lower().startswith("mask")])
        names = [name for name in file if isinstance(file.get(name), h5py.Dataset) and name.lower().startswith("mask")]
        if len(names) != 1:
            raise UserError(f"{path}: found {', '.join(names or file) or 'nothing'}, allowed one variable mask..")
        check_array(path, file[names[0]])
        values = file[names[0]][()]
    num_phases, width, height = shape
    mask = np.squeeze(values)
    if mask.shape == (width,):
        mask = mask[:, None]
    allowed = ((width, 1), (width, height), (num_phases, width, height))
    if mask.shape not in allowed or values.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise UserError(
            f"{path}: {names[0]}: found {values.dtype} of shape {values.shape}, allowed zeros and ones of shape "
            f"{', '.join(map(str, ((width,), *allowed[1:])))}"
        )
    mask = np.broadcast_to(mask != 0, (num_phases, *mask.shape[-2:])).transpose(2, 1, 0)
    constant = (mask == mask[:1]).all()
    return np.ascontiguousarray(mask[:1] if constant else mask)
