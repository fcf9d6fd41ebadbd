"""Files of the CMRxRecon challenges 2023 to 2025: k-space of version 5 and 7.3 of MATLAB's files.

https://cmrxrecon.github.io, and Wang et al., Sci. Data 11:687, 2024.
"""

import functools
import re
from pathlib import Path
from typing import Callable, Optional, Sequence, Tuple

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.limits import check_memory
from meddlr_greedy.readers.formats.cmrxrecon_folders import info_file, mask_file, other_kind, subject
from meddlr_greedy.readers.formats.cmrxrecon_info import pixel_spacing
from meddlr_greedy.readers.formats.mat_file import MatArray, mat_arrays
from meddlr_greedy.readers.formats.sampled import not_zero, remove_oversampling
from meddlr_greedy.readers.raw_scan import RawScan, RawSlice

__all__ = ["open_scan"]

# Fully sampled: kspace_full, kspace; undersampled: kus, kspace_sub04; of one coil: kspace_single_full.
_KSPACE = re.compile(r"kspace(_single)?(_full|_sub\d*)?|kus", re.IGNORECASE)
_UNDERSAMPLED = re.compile(r"kus|.*_sub\d*", re.IGNORECASE)
_SLICE, _LINE = 1, -2  # axes
_FEW_SLICES = 3  # are read together without regret
_PIECES_AT_ONCE = 8


def open_scan(path: Path, undersampled: bool, readout_oversampling: int, masks: Optional[str]) -> RawScan:
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
    array, shape = _kspace_array(path)
    undersampled = undersampled or _UNDERSAMPLED.fullmatch(array.name) is not None
    num_phases, num_slices, _, width, oversampled = shape
    if num_phases < 2:
        raise UserError(f"{path}: no cardiac phases: {array.name} has 1 frame, allowed 2 or more")
    if readout_oversampling < 1 or oversampled % readout_oversampling:
        raise UserError(f"--readout-oversampling: found {readout_oversampling}, allowed divisors of {oversampled}")

    masked_by = mask_file(path, masks) if undersampled else None
    mask = None if masked_by is None else _read_mask(masked_by, (num_phases, width, oversampled))
    table = info_file(path)
    spacing, notes = (None, []) if table is None else pixel_spacing(table, oversampled, width, readout_oversampling)
    if undersampled and mask is None:
        notes.append(f"{path}: no mask beside it; what is not zero counts as sampled")
    if mask is not None and mask.shape[0] > 1:
        notes.append(f"{path}: its mask varies along the readout, which the slower form of the model covers")
        if readout_oversampling > 1:
            raise UserError(f"{path}: --readout-oversampling: allowed 1 where the mask varies along the readout")

    load_kspace = _slices_of(array, shape)

    def load(slice_id: int) -> RawSlice:
        return _masked(path, slice_id, _ordered(load_kspace(slice_id), readout_oversampling), mask)

    return RawScan(
        path=path,
        subject_id=subject(path),
        num_slices=num_slices,
        load_slice=load,
        undersampled=undersampled,
        mask_file=masked_by,
        other_files=() if table is None else (table,),
        pixel_spacing_mm=spacing,
        notes=tuple(notes),
    )


def _masked(path: Path, slice_id: int, kspace: np.ndarray, mask: Optional[np.ndarray]) -> RawSlice:
    """A slice with what was sampled of it: without a mask, what is not zero."""
    if mask is None:
        return RawSlice(kspace, not_zero(kspace))
    if kspace[np.broadcast_to(~mask, kspace.shape[:3])].any():
        raise UserError(f"{path}: slice {slice_id}: k-space is not zero where its mask is")
    return RawSlice(kspace, mask)


def _kspace_array(path: Path) -> Tuple[MatArray, Tuple[int, int, int, int, int]]:
    """The variable that holds k-space, and its shape (frame, slice, coil, ky, kx)."""
    kind = other_kind(path)
    if kind is not None:
        raise UserError(f"{path}: found {kind}; allowed cine")
    arrays = mat_arrays(path)
    names = [name for name in arrays if _KSPACE.fullmatch(name) and arrays[name].type != "struct"]
    if len(names) != 1:
        raise UserError(
            f"{path}: found {', '.join(names or arrays) or 'nothing'}, allowed one variable kspace_full, kspace, "
            "kspace_sub.. or kus"
        )
    array = arrays[names[0]]
    array.check(whole=False)
    return array, _shape(array)


def _shape(array: MatArray) -> Tuple[int, int, int, int, int]:
    """(frame, slice, coil, ky, kx)."""
    found = f"{array.path}: {array.name}: found {array}"
    if array.kind != "complex":
        raise UserError(f"{found}, allowed complex numbers")
    shape = array.shape
    if "single" in array.name.lower():
        shape = (*shape[:2], 1, *shape[2:])
    elif len(shape) == 4:  # MATLAB drops a last axis of one
        shape = (1, *shape)
    if len(shape) != 5 or 0 in shape:
        raise UserError(f"{found}, allowed (frame, slice, coil, ky, kx)")
    return shape


def _slices_of(array: MatArray, shape: Sequence[int]) -> Callable[[int], np.ndarray]:
    """Reads k-space (frame, coil, ky, kx) of a slice, by its index.

    It is read slice by slice where the file allows that. Where one slice takes as long as all of them, since each piece
    of the file spans many, all are read at once, and kept as long as the scan is open.
    """
    num_phases, num_slices, num_coils, width, height = shape
    num_bytes = 8 * num_phases * num_coils * width * height

    @functools.lru_cache(maxsize=1)
    def whole() -> np.ndarray:
        kspace, step = np.empty(array.shape, np.complex64), array.pieces(_LINE) * _PIECES_AT_ONCE
        for first in range(0, width, step):
            lines = (..., slice(first, first + step), slice(None))
            kspace[lines] = array.read(lines)
        return kspace

    def load(slice_id: int) -> np.ndarray:
        kspace = array.read((slice(None), slice_id)) if by_slice else whole()[:, slice_id]
        return kspace.reshape(num_phases, num_coils, width, height)  # one coil where it is "single"

    by_slice = array.pieces(_SLICE) <= _FEW_SLICES
    where = f"{array.path}: {array.name}"
    check_memory(f"{where}: a slice" if by_slice else where, num_bytes * (1 if by_slice else num_slices))
    return load


def _ordered(kspace: np.ndarray, readout_oversampling: int) -> np.ndarray:
    """k-space (frame, coil, ky, kx) as (H, W, T, C), complex64, without oversampling."""
    kspace = kspace.astype(np.complex64, copy=False)
    if readout_oversampling > 1:
        kspace = remove_oversampling(kspace, kspace.shape[-1] // readout_oversampling)
    return np.ascontiguousarray(kspace.transpose(3, 2, 0, 1))


def _read_mask(path: Path, shape: Tuple[int, int, int]) -> np.ndarray:
    """Bool, (1, W, T) or (H, W, T); ``shape`` is (T, W, H)."""
    arrays = mat_arrays(path)
    names = [name for name in arrays if name.lower().startswith("mask") and arrays[name].type != "struct"]
    if len(names) != 1:
        raise UserError(f"{path}: found {', '.join(names or arrays) or 'nothing'}, allowed one variable mask..")
    array = arrays[names[0]]
    num_phases, width, height = shape
    allowed = ((width, 1), (width, height), (num_phases, width, height))
    mask = None
    if array.kind in ("real", "logical"):
        array.check()
        mask = np.squeeze(array.read())
        mask = mask[:, None] if mask.shape == (width,) else mask
    if mask is None or mask.shape not in allowed or not np.isin(mask, (0, 1)).all():
        raise UserError(
            f"{path}: {array.name}: found {array}, allowed zeros and ones of shape "
            f"{', '.join(map(str, ((width,), *allowed[1:])))}"
        )
    mask = np.broadcast_to(mask != 0, (num_phases, *mask.shape[-2:])).transpose(2, 1, 0)
    constant = (mask == mask[:1]).all()
    return np.ascontiguousarray(mask[:1] if constant else mask)
