"""Files of fastMRI (Zbontar et al., arXiv 1811.08839; Knoll et al., Radiol. Artif. Intell. 2:e190007, 2020).

HDF5 with k-space (S, C, H, W), readout H, and the ISMRMRD header of the scan.
"""

from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import h5py
import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.hdf5 import check_array, check_links, reading_hdf5
from meddlr_greedy.limits import check_memory
from meddlr_greedy.readers.formats.ismrmrd_header import Encoding, Header
from meddlr_greedy.readers.formats.sampled import remove_oversampling
from meddlr_greedy.readers.formats.suited import FASTMRI_HEADER, suited_command
from meddlr_greedy.readers.raw_scan import RawScan, RawSlice, stem

__all__ = ["open_scan"]


def open_scan(path: Path, undersampled: bool) -> RawScan:
    """Opens a file of fastMRI.

    k-space (S, C, H, W), or (S, H, W) of a single coil, is centered; lines at its edges that are zero are padding.
    The subject is the attribute ``patient_id``. What the files do not tell (noise, positions) stays unknown.

    Args:
        path: The file.
        undersampled: Whether it is undersampled on purpose; so is one with a mask.

    Raises:
        UserError: The file cannot be used.
    """
    with reading_hdf5(path) as file:
        shape = _check(path, file)
        header = Header.parse(path, _stored_header(path, file))
        mask = _mask(path, file, shape[-1])
        subject = file.attrs.get("patient_id", b"")
    if header.num_encodings != 1:
        raise UserError(f"{path}: header: found {header.num_encodings} encoding spaces, allowed one")
    encoding = header.encoding(0)
    encoding.check_cartesian()
    height, num_lines = encoding.height(shape[2]), shape[3]
    check_memory(f"{path}: kspace: a slice", 8 * shape[1] * shape[2] * shape[3])
    subject = subject.decode("utf-8", "replace") if isinstance(subject, bytes) else str(subject)

    def load(slice_id: int) -> RawSlice:
        return _load_slice(path, slice_id, height, mask)

    return RawScan(
        path=path,
        subject_id=subject or stem(path),
        num_slices=shape[0],
        load_slice=load,
        names_subject=bool(subject),
        is_cine=False,
        undersampled=undersampled or mask is not None,
        pixel_spacing_mm=(encoding.recon_fov_mm / height, encoding.fov_mm[1] / num_lines),
        notes=(*encoding.notes, *_size_note(path, encoding, shape)),
    )


def _check(path: Path, file: h5py.File) -> Tuple[int, int, int, int]:
    """The shape (S, C, H, W) of k-space."""
    check_links(path, file, ("kspace", "mask", FASTMRI_HEADER))
    if not all(isinstance(file.get(name), h5py.Dataset) for name in ("kspace", FASTMRI_HEADER)):
        raise UserError(
            f"{path}: found {', '.join(file) or 'nothing'}, allowed kspace and {FASTMRI_HEADER}, as of fastMRI"
            f"{suited_command(file)}"
        )
    array = file["kspace"]
    check_array(path, array)
    shape = (array.shape[0], 1, *array.shape[1:]) if array.ndim == 3 else array.shape
    if len(shape) != 4 or 0 in shape or array.dtype.kind != "c":
        raise UserError(f"{path}: kspace: found {array.dtype} of shape {array.shape}, allowed complex (S, C, H, W)")
    return shape


def _stored_header(path: Path, file: h5py.File) -> Union[bytes, str]:
    check_array(path, file[FASTMRI_HEADER])
    values = np.ravel(file[FASTMRI_HEADER][()])
    if values.size != 1 or not isinstance(values[0], (bytes, str)):
        raise UserError(f"{path}: {FASTMRI_HEADER}: found {values.dtype} of shape {values.shape}, allowed a text")
    return values[0]


def _mask(path: Path, file: h5py.File, num_lines: int) -> Optional[np.ndarray]:
    """Which lines were sampled (W,), bool; ``None`` where the file holds no mask."""
    if "mask" not in file:
        return None
    array = file["mask"]
    if isinstance(array, h5py.Dataset):
        check_array(path, array)
        values = np.squeeze(array[()])
        if values.shape == (num_lines,) and values.dtype.kind in "biuf" and np.isin(values, (0, 1)).all():
            return values != 0
    raise UserError(f"{path}: mask: found {array}, allowed zeros and ones of shape ({num_lines},)")


def _size_note(path: Path, encoding: Encoding, shape: Sequence[int]) -> List[str]:
    if encoding.matrix == tuple(shape[2:]):
        return []
    return [f"{path}: the header tells of {encoding.matrix} points, kspace holds {tuple(shape[2:])}; the latter count"]


def _load_slice(path: Path, slice_id: int, height: int, mask: Optional[np.ndarray]) -> RawSlice:
    with reading_hdf5(path) as file:
        kspace = file["kspace"][slice_id].astype(np.complex64)
    kspace = kspace.reshape(-1, *kspace.shape[-2:])  # (C, H, W), one coil where there is no axis for it
    lines = kspace.any(axis=(0, 1))
    if mask is not None:
        if (lines & ~mask).any():
            raise UserError(f"{path}: slice {slice_id}: k-space is not zero where its mask is")
        # Masks are drawn over the whole width, of which padding was never sampled.
        lines = lines & mask
    kspace = remove_oversampling(kspace.transpose(2, 0, 1), height)  # (W, C, H)
    return RawSlice(np.ascontiguousarray(kspace.transpose(2, 0, 1)[:, :, None]), lines[None, :, None])
