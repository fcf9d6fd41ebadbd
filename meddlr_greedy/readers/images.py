"""Cine images to simulate from: DICOM series, NIfTI, npy, npz and MAT."""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from meddlr_greedy.errors import check
from meddlr_greedy.readers.acquisition import Acquisition, add_acquisition_options
from meddlr_greedy.readers.raw_scan import RawScan, stem
from meddlr_greedy.readers.reader import Reader
from meddlr_greedy.registry import READER_REGISTRY

__all__ = ["ImagesReader"]


@READER_REGISTRY.register()
class ImagesReader(Reader):
    """Magnitude images, to which phase, coils and noise are simulated."""

    command = "images"
    help = "DICOM series, NIfTI, npy, npz or MAT, to simulate k-space from"
    description = (
        "Simulates k-space, coils, phase and noise from magnitude images of one subject each:\n\n"
        "    folders of DICOM files   each cine series of magnitude: one view, any number of slices\n"
        "    enhanced DICOM files     the same, many images in one file\n"
        "    NIfTI files              (x, y, slice, phase); versions 1 and 2, .nii, .nii.gz, or .hdr beside .img\n"
        "    npy files                (slice, phase, row, column)\n"
        "    npz files                the same, called 'magnitude'\n"
        "    MAT files                version 5 to 7.3, (row, column, slice, phase) in MATLAB, of a single slice\n"
        "                             (row, column, phase); called magnitude, img, image, images, cine or data,\n"
        "                             unless there is no other array of 3 or 4 axes, or --variable tells\n\n"
        "A folder that holds several scans is taken apart, and a note tells their names: FOLDER/NAME is one of them.\n"
        "Phase images and localizers are left out. Of a slice acquired twice, the later one is taken.\n"
        "Rows are the readout, columns the phase encodes, unless a DICOM or NIfTI file says otherwise. Of complex\n"
        "images in MAT files the magnitude is taken. npz and MAT files may also hold\n\n"
        "    pixel_spacing_mm         from row to row and from column to column\n"
        "    trigger_time_ms          of each phase; or frame_time_ms, from phase to phase\n"
        "    position_mm              (slice, 3), the center of pixel (row H // 2, column W // 2), counted from 0;\n"
        "                             x to the patient's left, y to the back, z to the head, as in DICOM\n"
        "    readout_direction        (3,), unit vector from row to row, and phase_direction, from column to column\n\n"
        "    meddlr-greedy prepare images dicom/patient* --output datasets/patients --matrix 128 128\n"
        "    meddlr-greedy prepare images pig_cine_sax.npz --output datasets/pig --matrix 128 128 \\\n"
        "        --acquired-matrix 224 160 --split 0-6,13-19 7-8 9-12"
    )
    simulates = True

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the matrix of the scanner, and the options of the acquisition."""
        parser.add_argument(
            "--acquired-matrix",
            nargs=2,
            type=int,
            metavar=("H", "W"),
            help="what the scanner acquired, where its images are interpolated (default: the matrix of the images)",
        )
        parser.add_argument(
            "--variable", metavar="NAME", help="of MAT and npz files: the array of the images (default: see above)"
        )
        add_acquisition_options(parser, default_matrix="all that was acquired")

    def check_options(
        self,
        matrix: Optional[Sequence[int]] = None,
        acquired_matrix: Optional[Sequence[int]] = None,
        variable: Optional[str] = None,  # noqa: ARG002 (any name may be one)
        **options: Any,
    ) -> None:
        """Refuses what :class:`Acquisition` refuses."""
        _acquisition(matrix or Acquisition.matrix, options)
        for size in acquired_matrix or ():
            check(size >= 8, "--acquired-matrix", size, "at least 8 along both axes")

    def find(self, inputs: Sequence[str]) -> List[Path]:
        """The series among files and folders: npy, npz, NIfTI and MAT files, and scans in DICOM files."""
        from meddlr_greedy.readers.formats.images import find_series

        return find_series(inputs)

    def left_out(self, inputs: Sequence[str], found: Sequence[Path]) -> List[str]:
        """What of the DICOM files in folders is in no scan, and MAT files without images."""
        from meddlr_greedy.readers.formats.images import left_out

        return left_out(inputs, found)

    def files(self, path: Path) -> List[Path]:
        """All files of a folder that is a scan; of a scan in a folder of several, those of its images."""
        from meddlr_greedy.readers.formats.image_dicom_folders import place_of, scan_at

        return scan_at(path).files if place_of(path)[1] else super().files(path)

    def named_after(self, path: Path) -> Tuple[Path, str]:
        """The folder, and the name of the scan in it where it holds several."""
        from meddlr_greedy.readers.formats.image_dicom_folders import place_of

        place, name = place_of(path)
        return place, f"_{name}" if name else ""

    def subject_by_path(self, path: Path) -> str:
        """The name of the file or folder."""
        return stem(self.named_after(path)[0])

    def open_scan(
        self,
        path: Path,
        matrix: Optional[Sequence[int]] = None,
        acquired_matrix: Optional[Sequence[int]] = None,
        variable: Optional[str] = None,
        **settings: Any,
    ) -> RawScan:
        """Reads a series, and simulates its slices where they are loaded.

        Args:
            path: As for :func:`meddlr_greedy.readers.formats.images.load_images`.
            variable: The same.
            matrix: Points (H, W); by default all that was acquired.
            acquired_matrix: As for :func:`meddlr_greedy.readers.simulation.simulated_scan.simulated_scan`.
            **settings: For :class:`Acquisition`.
        """
        from meddlr_greedy.readers.formats.images import load_images
        from meddlr_greedy.readers.simulation.simulated_scan import simulated_scan

        series = load_images(path, variable)
        matrix = matrix or acquired_matrix or series.magnitude.shape[-2:]
        return simulated_scan(series, _acquisition(matrix, settings), acquired_matrix)


def _acquisition(matrix: Sequence[int], settings: Dict[str, Any]) -> Acquisition:
    return Acquisition((matrix[0], matrix[1]), **settings)
