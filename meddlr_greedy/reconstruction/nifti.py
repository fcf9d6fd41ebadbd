"""NIfTI files written slice by slice, so that a large exam never is in memory as a whole."""

import itertools
from typing import BinaryIO, Optional, Sequence, Tuple

import nibabel as nib
import numpy as np

__all__ = ["LARGEST_AXIS", "NiftiWriter"]

#: NIfTI-1 counts points along an axis by 16 bits with sign.
LARGEST_AXIS = 32767
_QFORM_TOLERANCE_MM = 0.01


class NiftiWriter:
    """Writes a series of volumes, axes (x, y, slice, time), as float32 NIfTI-1.

    In the file x runs fastest and time slowest, so a slice of a series lies there as T planes far from each other.
    (A memory map would do it too, but its pages would count as the process's memory.)

    Where the orientation in the patient is not known, the header says so (qform and sform code 0). A qform cannot hold
    shear, nor all digits of a turn by nearly half a circle; where it would be off, it has code 0, and readers take the
    sform. The header says which of the spacings are known by their units.

    Args:
        file: Opened for writing, at its beginning.
        shape: (X, Y, S, T), or (X, Y, S) for images that are no series.
        pixel_spacing_mm: Along x and y; ``None`` where unknown.
        slice_spacing_mm: From slice to slice; ``None`` where unknown, which the header's description then tells.
        frame_time_ms: Between cardiac phases; ``None`` where unknown.
        affine: (4, 4), from voxels to mm in RAS; ``None`` where unknown.
        description: At most 79 characters.
    """

    def __init__(
        self,
        file: BinaryIO,
        shape: Tuple[int, ...],
        pixel_spacing_mm: Optional[Sequence[float]] = None,
        slice_spacing_mm: Optional[float] = None,
        frame_time_ms: Optional[float] = None,
        affine: Optional[np.ndarray] = None,
        description: str = "",
    ):
        header = nib.Nifti1Header()
        header.set_data_dtype(np.float32)
        header.set_data_shape(shape)
        if pixel_spacing_mm is not None and slice_spacing_mm is None:
            description = f"{description}; slice spacing unknown".lstrip("; ")
        spacings = (*(pixel_spacing_mm or (1.0, 1.0)), slice_spacing_mm or 1.0, frame_time_ms or 1.0)
        header.set_zooms(spacings[: len(shape)])
        header.set_xyzt_units(
            xyz="mm" if pixel_spacing_mm is not None else "unknown",
            t="msec" if frame_time_ms is not None and len(shape) == 4 else "unknown",
        )
        if affine is not None:
            header.set_sform(affine, code="scanner")
            header.set_qform(affine, code="scanner")
            if _furthest(header.get_qform() - affine, shape) > _QFORM_TOLERANCE_MM:
                header["qform_code"] = 0
        header["descrip"] = description.encode(errors="replace")[:79]
        header.set_data_offset(header.single_vox_offset)
        self._offset = header.single_vox_offset
        self._shape = (*shape, 1)[:4]
        self._file = file
        header.write_to(file)
        file.write(bytes(4))  # no extension
        file.truncate(self._offset + 4 * int(np.prod(shape)))

    def write_slice(self, slice_id: int, image: np.ndarray) -> None:
        """Writes one slice.

        Args:
            slice_id: Its place along the third axis.
            image: Real, shape (X, Y, T) or (X, Y).
        """
        size_x, size_y, num_slices, num_frames = self._shape
        frames = image.reshape(size_x, size_y, num_frames)
        for t in range(num_frames):
            plane = np.asarray(frames[:, :, t], dtype="<f4").tobytes(order="F")
            self._file.seek(self._offset + (t * num_slices + slice_id) * len(plane))
            self._file.write(plane)


def _furthest(difference: np.ndarray, shape: Sequence[int]) -> float:
    """How far two matrices, of this difference, take a corner of the volume apart in mm."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in shape[:3]))])
    return float(np.linalg.norm(corners @ difference[:3].T, axis=1).max())
