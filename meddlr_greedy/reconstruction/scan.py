"""A scan -> its images in files, slice by slice: memory does not depend on the number of slices."""

from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

import h5py
import numpy as np

import meddlr_greedy
from meddlr_greedy.console import Followed
from meddlr_greedy.data.scan_file import check_values
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.figures import draw_cine_gif, draw_recon_figure, drawn_or_told
from meddlr_greedy.files import check_room, folder_written_atomically, safe_name, writing, written_atomically
from meddlr_greedy.headers.placement import SAME_PLACE_MM
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.dicom import bytes_needed, write_series
from meddlr_greedy.reconstruction.nifti import NiftiWriter
from meddlr_greedy.reconstruction.reconstructor import Reconstruction, Reconstructor

__all__ = ["OutputFiles", "header_notes", "output_files", "reconstruct_scan"]

_ROOM = "room"  # a file that keeps room for the images in DICOM, which are written last


class OutputFiles(NamedTuple):
    """What is written for a scan.

    Attributes:
        hdf5: The complex images.
        nifti: Their magnitude.
        picture: Of the middle slice.
        dicom: Folder of the magnitude in DICOM; ``None`` where it is not written.
    """

    hdf5: Path
    nifti: Path
    picture: Path
    dicom: Optional[Path] = None


def output_files(scans: Sequence[AcquiredScan], folder: Path, dicom: bool = False) -> List[OutputFiles]:
    """The files of each scan: ``<name>_recon.h5``, ``.nii``, and ``.gif`` of a series or ``.png``.

    Args:
        scans: The scans.
        folder: Where the files will be.
        dicom: Whether there is a folder ``<name>_recon_dicom``, too.

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
        files.append(OutputFiles(hdf5, nifti, picture, folder / f"{name}_recon_dicom" if dicom else None))
    return files


def header_notes(scan: AcquiredScan) -> List[str]:
    """What a user should know of the NIfTI header: what is not known of the scan, or cannot be told in it."""
    notes, placement = [], scan.placement
    known = {**scan.geometry._asdict(), "slice_spacing_mm": scan.slice_spacing_mm}
    expected = ["pixel_spacing_mm", "slice_spacing_mm", *(["frame_time_ms"] if scan.is_cine else [])]
    missing = [name for name in expected if known[name] is None]
    if missing:
        notes.append(f"{scan.path} has no attribute {', '.join(missing)}; 1 stands in the NIfTI header")
    if placement is not None and not placement.are_apart:
        notes.append(f"{scan.path}: several slices at one place; the NIfTI header holds no orientation")
    elif placement is not None and placement.unevenness_mm > SAME_PLACE_MM:
        notes.append(
            f"{scan.path}: slices are not evenly spaced; the NIfTI header holds their mean step, by which a slice is"
            f" up to {placement.unevenness_mm:.3g} mm from its place"
        )
    return notes


def reconstruct_scan(
    scan: AcquiredScan,
    reconstructor: Reconstructor,
    files: OutputFiles,
    attributes: Optional[Mapping[str, str]] = None,
    looked_at: Callable[[AcquiredScan, int, Reconstruction], None] = lambda *_: None,
) -> List[Path]:
    """Reconstructs a scan slice by slice and writes its files (a folder is one), each whole or not at all.

    Args:
        scan: The scan.
        reconstructor: The network.
        files: Those of :func:`output_files`; their folder must exist. DICOM needs a scan that has passed
            :func:`meddlr_greedy.reconstruction.dicom.check_placed`.
        attributes: Of how it is reconstructed; are added to those of the scan in the HDF5 file. DICOM needs "weights".
        looked_at: Called with each slice as it comes: the scan, the number of the slice, and its images.

    Returns:
        List[Path]: The files that were written. A picture that cannot be drawn is left out, and told of.

    Raises:
        UserError: A slice cannot be used, its reconstruction is not finite, or a file cannot be written; then none is.
    """
    num_slices, *image_shape = scan.shape[:-1]
    shape = (*image_shape, scan.num_maps)
    shown: Optional[Reconstruction] = None
    middle = num_slices // 2
    written = (written_atomically(files.hdf5), written_atomically(files.nifti))
    series = nullcontext() if files.dicom is None else folder_written_atomically(files.dicom)
    with (
        writing(files.hdf5.parent, "--output"),
        series as folder,
        written[0] as h5_partial,
        written[1] as nifti_partial,
    ):
        # Before hours of work; and HDF5 itself does not survive a full disk.
        check_room(h5_partial, num_slices * int(np.prod(shape)) * np.dtype(np.complex64).itemsize)
        if folder is not None:
            check_room(folder / _ROOM, bytes_needed(scan))
        with h5py.File(h5_partial, "w") as h5_file, open(nifti_partial, "wb") as nifti_file:
            h5_file.attrs.update({**scan.attributes, **(attributes or {})})
            images = h5_file.create_dataset("image", (num_slices, *shape), np.complex64, chunks=(1, *shape))
            volumes = _nifti_writer(nifti_file, scan)
            for slice_id in Followed(range(num_slices), scan.name, "slices"):
                recon = reconstructor(scan, slice_id)
                magnitude = np.linalg.norm(recon.image, axis=-1)
                # The magnitude may overflow where the image does not.
                check_values(scan.path, slice_id, {"the image": recon.image, "its magnitude": magnitude})
                images[slice_id] = recon.image
                volumes.write_slice(slice_id, magnitude)
                looked_at(scan, slice_id, recon)
                if slice_id == middle:
                    shown = recon
            if folder is not None:
                (folder / _ROOM).unlink()
                write_series(folder, scan, lambda i: np.linalg.norm(images[i], axis=-1), attributes or {})
        assert shown is not None
        with drawn_or_told(files.picture) as drawn:
            _draw(scan, middle, shown, files.picture)
    return [files.hdf5, files.nifti, *drawn, *([files.dicom] if files.dicom else [])]


def _nifti_writer(file: BinaryIO, scan: AcquiredScan) -> NiftiWriter:
    num_slices, height, width, *frames = scan.shape[:-1]
    return NiftiWriter(
        file,
        (height, width, num_slices, *frames),
        scan.geometry.pixel_spacing_mm,
        scan.slice_spacing_mm,
        scan.geometry.frame_time_ms,
        scan.affine,
        f"meddlr_greedy {meddlr_greedy.__version__}: {scan.name}",
    )


def _draw(scan: AcquiredScan, slice_id: int, recon: Reconstruction, path: Path) -> None:
    draw = draw_cine_gif if scan.is_cine else draw_recon_figure
    draw(
        {"zero-filled": recon.zero_filled, "reconstruction": recon.image},
        path,
        target=scan.read_target(slice_id),
        title=f"{scan.name}, slice {slice_id}",
        **scan.geometry._asdict(),
    )
