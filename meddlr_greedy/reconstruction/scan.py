"""A scan -> its images in files, slice by slice: memory does not depend on the number of slices."""

from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import h5py
import numpy as np
from tqdm import tqdm

import meddlr_greedy
from meddlr_greedy.data.scan_file import check_values
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.figures import draw_cine_gif, draw_recon_figure, drawn_or_told
from meddlr_greedy.files import check_room, safe_name, writing, written_atomically
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.nifti import NiftiWriter
from meddlr_greedy.reconstruction.reconstructor import Reconstruction, Reconstructor

__all__ = ["missing_attributes", "output_files", "reconstruct_scan"]


def output_files(scans: Sequence[AcquiredScan], folder: Path) -> List[Tuple[Path, Path, Path]]:
    """The files of each scan: ``<name>_recon.h5``, ``.nii``, and ``.gif`` of a series or ``.png``.

    Args:
        scans: The scans.
        folder: Where the files will be.

    Raises:
        UserError: Two scans would have the same files (also where a file system ignores case).
    """
    paths: Dict[str, str] = {}
    files = []
    for scan in scans:
        name = safe_name(scan.name)
        other = paths.setdefault(name.casefold(), scan.path)
        if other != scan.path:
            raise UserError(f"{scan.path}: has the same name as {other}; reconstruct them to different folders")
        suffixes = (".h5", ".nii", ".gif" if scan.is_cine else ".png")
        hdf5, nifti, picture = (folder / f"{name}_recon{suffix}" for suffix in suffixes)
        files.append((hdf5, nifti, picture))
    return files


def missing_attributes(scan: AcquiredScan) -> List[str]:
    """The attributes that the NIfTI header asks for, and the scan's file does not have."""
    expected = ["pixel_spacing_mm", "slice_spacing_mm", *(["frame_time_ms"] if scan.is_cine else [])]
    return [name for name in expected if name not in scan.attributes]


def reconstruct_scan(
    scan: AcquiredScan,
    reconstructor: Reconstructor,
    files: Sequence[Path],
    attributes: Optional[Mapping[str, str]] = None,
) -> List[Path]:
    """Reconstructs a scan slice by slice and writes its files, each whole or not at all.

    Args:
        scan: The scan.
        reconstructor: The network.
        files: Those of :func:`output_files`; their folder must exist.
        attributes: Are added to those of the scan in the HDF5 file.

    Returns:
        List[Path]: The files that were written. A picture that cannot be drawn is left out, and told of.

    Raises:
        UserError: A slice cannot be used, its reconstruction is not finite, or a file cannot be written; then none is.
    """
    hdf5, nifti, picture = files
    num_slices, *image_shape = scan.shape[:-1]
    shape = (*image_shape, scan.num_maps)
    shown: Optional[Reconstruction] = None
    middle = num_slices // 2
    written = (written_atomically(hdf5), written_atomically(nifti))
    with writing(hdf5.parent, "--output"), written[0] as h5_partial, written[1] as nifti_partial:
        # Before hours of work; and HDF5 itself does not survive a full disk.
        check_room(h5_partial, num_slices * int(np.prod(shape)) * np.dtype(np.complex64).itemsize)
        with h5py.File(h5_partial, "w") as h5_file, open(nifti_partial, "wb") as nifti_file:
            h5_file.attrs.update({**scan.attributes, **(attributes or {})})
            images = h5_file.create_dataset("image", (num_slices, *shape), np.complex64, chunks=(1, *shape))
            volumes = NiftiWriter(
                nifti_file,
                (*image_shape[:2], num_slices, *image_shape[2:]),
                scan.geometry.pixel_spacing_mm,
                scan.slice_spacing_mm,
                scan.geometry.frame_time_ms,
                scan.affine,
                f"meddlr_greedy {meddlr_greedy.__version__}: {scan.name}",
            )
            for acquired in tqdm(scan, desc=scan.name, unit="slice", dynamic_ncols=True):
                recon = reconstructor(acquired)
                magnitude = np.linalg.norm(recon.image, axis=-1)
                # The magnitude may overflow where the image does not.
                check_values(scan.path, acquired.slice_id, {"the image": recon.image, "its magnitude": magnitude})
                images[acquired.slice_id] = recon.image
                volumes.write_slice(acquired.slice_id, magnitude)
                if acquired.slice_id == middle:
                    shown = recon
        assert shown is not None
        with drawn_or_told(picture) as drawn:
            _draw(scan, middle, shown, picture)
    return [hdf5, nifti, *drawn]


def _draw(scan: AcquiredScan, slice_id: int, recon: Reconstruction, path: Path) -> None:
    draw = draw_cine_gif if scan.is_cine else draw_recon_figure
    draw(
        {"zero-filled": recon.zero_filled, "reconstruction": recon.image},
        path,
        target=scan.read_target(slice_id),
        title=f"{scan.name}, slice {slice_id}",
        **scan.geometry._asdict(),
    )
