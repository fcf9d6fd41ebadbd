"""What every reader hands over: Cartesian k-space of one scan, slice by slice, and which of it was sampled."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from meddlr_greedy.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from meddlr_greedy.headers.placement import Placement

__all__ = ["Calibration", "RawScan", "RawSlice", "find_files", "plain_text", "stem"]

_NOT_PLAIN = re.compile("[\\x00-\\x1f\\x7f\\ud800-\\udfff]")


class Calibration(NamedTuple):
    """The center of k-space, acquired for coil maps and not for the image.

    Attributes:
        kspace: (H, W, C), complex64: centered, on the grid of the image's k-space, of the same coils.
        sampled: (H, W), bool.
    """

    kspace: "np.ndarray"
    sampled: "np.ndarray"


@dataclass(frozen=True)
class RawSlice:
    """One slice as it was measured.

    Args:
        kspace: (H, W, T, C), complex64, zero where not sampled; of a static scan T is 1.
        sampled: (H or 1, W, T), bool.
        calibration: What coil maps are estimated of where the image's own lines leave gaps in the center.
    """

    kspace: "np.ndarray"
    sampled: "np.ndarray"
    calibration: Optional[Calibration] = None


@dataclass(frozen=True)
class RawScan:
    """One file (or folder of images), opened: what is known without reading its data.

    Args:
        path: The file.
        subject_id: Whom it shows; scans of one subject are never on two sides of a split.
        num_slices: Number of slices S.
        load_slice: Reads one slice, by its index from 0.
        names_subject: Whether the file says whom it shows; else ``subject_id`` is its name.
        is_cine: Whether it is a series; a static scan becomes 2D images.
        simulated: Whether its k-space is simulated. :class:`meddlr_greedy.preparation.sources.Source` sets it.
        undersampled: Whether it was acquired so, on purpose: it keeps its sampling mask and has no target.
        mask_file: Of what was sampled, where it is a file of its own.
        other_files: Further files that tell something of it. A scan made with others counts as another one.
        pixel_spacing_mm: Along readout and phase encode, where known.
        slice_spacing_mm: From the center of a slice to that of the next, of a single one its thickness, where known.
        frame_time_ms: Time between cardiac phases, where known.
        placement: Where the slices lie in the patient, where known.
        dicom: What is kept of the study, see :mod:`meddlr_greedy.headers.study`.
        notes: What a user should know of this file.
    """

    path: Path
    subject_id: str
    num_slices: int
    load_slice: Callable[[int], RawSlice]
    names_subject: bool = True
    is_cine: bool = True
    simulated: bool = False
    undersampled: bool = False
    mask_file: Optional[Path] = None
    other_files: Tuple[Path, ...] = ()
    pixel_spacing_mm: Optional[Tuple[float, float]] = None
    slice_spacing_mm: Optional[float] = None
    frame_time_ms: Optional[float] = None
    placement: Optional["Placement"] = None
    dicom: Mapping[str, Any] = field(default_factory=dict)
    notes: Tuple[str, ...] = ()


def plain_text(text: str) -> str:
    """A text that can be written anywhere: bytes of a path that are not UTF-8, and control characters, become "%FF"."""
    return _NOT_PLAIN.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", text)


def stem(path: Path) -> str:
    """The name of a folder, or of a file without what tells its format."""
    name = path.name if path.is_dir() else re.sub(r"\.(nii\.gz|[^.]+)$", "", path.name, flags=re.IGNORECASE)
    return plain_text(name)


def find_files(
    inputs: Sequence[str], suffixes: Tuple[str, ...], skip: Optional[Callable[[Path], bool]] = None
) -> List[Path]:
    """The files given, and those of these suffixes in the folders given.

    Args:
        inputs: Files and folders.
        suffixes: In lower case.
        skip: Tells which files in folders are left out.

    Raises:
        UserError: An input does not exist, or a folder holds no such file.
    """
    found: Dict[Path, None] = {}
    for given in map(Path, inputs):
        if given.is_dir():
            files = [p for p in sorted(given.rglob("*")) if p.name.lower().endswith(suffixes) and p.is_file()]
            files = [path for path in files if skip is None or not skip(path)]
            if not files:
                raise UserError(
                    f"{given}: found no {', '.join(suffixes)} file in this folder; for images, DICOM among them, use"
                    " 'prepare images'"
                )
            found.update(dict.fromkeys(files))
        elif given.is_file():
            found[given] = None
        else:
            raise UserError(f"{given}: no such file or folder")
    return list(found)
