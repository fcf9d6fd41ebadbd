"""Simulates a multi-coil cine data set, from a beating-heart phantom or from a series of cine images.

    python -m meddlr_greedy.preparation.simulate --output datasets/phantom
    python -m meddlr_greedy.preparation.simulate --output datasets/pig --images pig_cine_sax.npz \\
        --acquired-matrix 224 160 --matrix 128 128 --split 0-6,13-19 7-8 9-12

The way of a slice: magnitude -> smooth phase -> coil sensitivities -> k-space at the full matrix -> center of k-space
(the field of view stays, the resolution drops, as a scanner would acquire it) -> noise. Then, as for measured data:
ESPIRiT maps from the mean over frames, and the target as the coil combination of the fully sampled k-space.

A slice is a function of the seed, the subject and its own index, and not of the split or of what was simulated before.
"""

import argparse
import functools
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.data.scan_file import write_scan
from meddlr_greedy.errors import UserError, check, exit_with_one_line
from meddlr_greedy.ops.acquisition import (
    Acquisition,
    acquire,
    coil_sensitivities,
    noise_reference,
    random_smooth_phase,
    seeded_generator,
)
from meddlr_greedy.preparation.annotations import ScanEntry, annotations, say_what_is_next
from meddlr_greedy.preparation.coil_maps import CoilMaps, sense_arrays
from meddlr_greedy.preparation.phantom import FIELD_OF_VIEW_MM, Anatomy, beating_heart
from meddlr_greedy.preparation.readers.images import CineSeries, load_series
from meddlr_greedy.preparation.readers.scan import RawScan, RawSlice, are_neighbors, stem
from meddlr_greedy.preparation.splits import SLICE_BLOCKS, SPLITS, parse_split

__all__ = ["simulate_phantom_dataset", "simulate_series_dataset", "simulated_scan"]

_DESCRIPTION = "Simulated multi-coil cine"
_FORMAT = 2  # raised when the same parameters come to give other data, so that old files are not taken for new


# --- One scan ---


@dataclass(frozen=True)
class _Scan:
    """One file to write: some slices of one subject."""

    split: str
    name: str
    subject_id: str
    slices: Sequence[int]
    load: Callable[[], CineSeries]  # all slices of the subject
    parameters: Dict[str, Any]  # everything that the content is a function of

    @property
    def file_name(self) -> str:
        return f"{self.split}/{self.name}.h5"


def _simulate_slice(
    magnitude: np.ndarray,
    acquisition: Acquisition,
    noise_std: float,
    subject_id: str,
    slice_id: int,
    coil_maps: CoilMaps,
) -> Dict[str, np.ndarray]:
    """From magnitude (T, H0, W0) to the arrays of one slice as they lie in the file."""
    kspace = _acquire_slice(magnitude, acquisition, noise_std, subject_id, slice_id)
    coil_maps = replace(coil_maps, calib_width=min(coil_maps.calib_width, *acquisition.matrix))
    return sense_arrays(kspace, kspace.mean(axis=2), coil_maps)


def _acquire_slice(
    magnitude: np.ndarray, acquisition: Acquisition, noise_std: float, subject_id: str, slice_id: int
) -> np.ndarray:
    """From magnitude (T, H0, W0) to k-space (H, W, T, C)."""
    shape, seed = (magnitude.shape[1], magnitude.shape[2]), acquisition.seed
    phase = random_smooth_phase(shape, len(magnitude), seeded_generator(seed, subject_id, "phase", slice_id))
    kspace = acquire(
        magnitude * np.exp(1j * phase),
        coil_sensitivities(shape, acquisition.coils, seeded_generator(seed, subject_id, "coils")),
        acquisition.matrix,
        noise_std,
        seeded_generator(seed, subject_id, "noise", slice_id),
    )
    return np.ascontiguousarray(kspace.transpose(2, 3, 1, 0))


def _write_scan(path: Path, scan: _Scan, acquisition: Acquisition, coil_maps: CoilMaps, progress: tqdm) -> None:
    series = scan.load()
    noise_std = acquisition.noise * noise_reference(series.magnitude)

    def slices() -> Iterator[Dict[str, np.ndarray]]:
        for slice_id in scan.slices:
            magnitude = series.magnitude[slice_id]
            yield _simulate_slice(magnitude, acquisition, noise_std, scan.subject_id, slice_id, coil_maps)
            progress.update()

    attributes = {
        "subject_id": scan.subject_id,
        "slices": list(scan.slices),
        "parameters": json.dumps(scan.parameters),
        "pixel_spacing_mm": _acquired_spacing(series, acquisition),
        "slice_spacing_mm": series.slice_spacing_mm if are_neighbors(scan.slices) else None,
        "frame_time_ms": series.frame_time_ms,
    }
    write_scan(path, len(scan.slices), slices(), attributes)


def _acquired_spacing(series: CineSeries, acquisition: Acquisition) -> Optional[Tuple[float, float]]:
    if series.pixel_spacing_mm is None:
        return None
    spacing = np.asarray(series.pixel_spacing_mm) * series.magnitude.shape[-2:] / acquisition.matrix
    return float(spacing[0]), float(spacing[1])


def simulated_scan(
    series: CineSeries, acquisition: Acquisition, acquired_matrix: Optional[Tuple[int, int]] = None
) -> RawScan:
    """A series of images as if it had been measured: its slices are simulated where they are loaded.

    Args:
        series: From :func:`meddlr_greedy.preparation.readers.images.load_images`.
        acquisition: How k-space is acquired.
        acquired_matrix: As for :func:`simulate_series_dataset`.

    Raises:
        UserError: where a matrix is not allowed.
    """
    _check_matrices(series, acquisition, acquired_matrix)
    noise_std = acquisition.noise * noise_reference(series.magnitude)
    name = stem(series.path)
    name = name if name == series.subject_id else f"{series.subject_id}/{name}"

    def load(slice_id: int) -> RawSlice:
        kspace = _acquire_slice(series.magnitude[slice_id], acquisition, noise_std, name, slice_id)
        return RawSlice(kspace, np.ones((1, *kspace.shape[1:3]), bool))

    return RawScan(
        path=series.path,
        subject_id=series.subject_id,
        num_slices=len(series.magnitude),
        load_slice=load,
        names_subject=series.names_subject,
        pixel_spacing_mm=_acquired_spacing(series, acquisition),
        slice_spacing_mm=series.slice_spacing_mm,
        frame_time_ms=series.frame_time_ms,
    )


# --- The data set ---


def simulate_phantom_dataset(
    output: os.PathLike,
    acquisition: Optional[Acquisition] = None,
    subjects: int = 9,
    slices: int = 3,
    frames: int = 12,
    split: Optional[Sequence[str]] = None,
    overwrite: bool = False,
    progress: bool = False,
    coil_maps: Optional[CoilMaps] = None,
) -> Path:
    """Writes a data set of beating-heart phantoms, split by subjects.

    Args:
        output: Folder of the data set, ``<root>/<name>``.
        acquisition: By default ``Acquisition()``.
        subjects: Number of subjects, one file each.
        slices: Slices S of each, evenly spaced from base to apex.
        frames: Cardiac phases T.
        split: As for :func:`parse_split`, of subjects; by default about 70, 10 and 20 %.
        overwrite: Whether another simulated data set in ``output`` is replaced.
        progress: Whether to show a progress bar.
        coil_maps: By default ``CoilMaps()``; its calibration region is cut to the matrix.

    Returns:
        ``output``.

    Raises:
        UserError: where an argument is not allowed, or ``output`` cannot be written or holds something else.
    """
    acquisition, coil_maps = acquisition or Acquisition(), coil_maps or CoilMaps()
    for option, value in (("--subjects", subjects), ("--slices", slices), ("--frames", frames)):
        check(value >= 1, option, value, "at least 1")
    positions = (np.arange(slices) + 0.5) / slices
    # Drawn finer than acquired: cropping k-space then blurs and rings as it does for a real object.
    shape = (2 * acquisition.matrix[0], 2 * acquisition.matrix[1])

    def draw(subject_id: str) -> CineSeries:
        def rng():
            return seeded_generator(acquisition.seed, subject_id, "anatomy")

        magnitude = [beating_heart(shape, frames, position, rng()) for position in positions]
        return CineSeries(
            magnitude=np.stack(magnitude),
            pixel_spacing_mm=(FIELD_OF_VIEW_MM / shape[0], FIELD_OF_VIEW_MM / shape[1]),
            frame_time_ms=60_000 / Anatomy.random(rng()).heart_rate_bpm / frames,
        )

    scans = []
    for split_name, members in parse_split(split, subjects, "subjects").items():
        for subject in members:
            subject_id = f"subject{subject:03d}"
            scans.append(
                _Scan(
                    split=split_name,
                    name=subject_id,
                    subject_id=subject_id,
                    slices=range(slices),
                    load=functools.partial(draw, subject_id),
                    parameters=_parameters(acquisition, coil_maps, source="beating-heart phantom", frames=frames),
                )
            )
    return _write_dataset(output, scans, acquisition, coil_maps, frames, "subjects", overwrite, progress)


def simulate_series_dataset(
    output: os.PathLike,
    series: CineSeries,
    acquisition: Optional[Acquisition] = None,
    acquired_matrix: Optional[Tuple[int, int]] = None,
    split: Optional[Sequence[str]] = None,
    overwrite: bool = False,
    progress: bool = False,
    coil_maps: Optional[CoilMaps] = None,
) -> Path:
    """Writes a data set from the cine images of one subject, split into blocks of slices.

    Args:
        output: Folder of the data set, ``<root>/<name>``.
        series: From :func:`load_series`.
        acquisition: By default that of ``Acquisition()`` at the acquired matrix.
        acquired_matrix: Points (H, W) that the scanner acquired, where its images are interpolated to a larger matrix:
            outside lie no measured data. By default the matrix of the images.
        split: As for :func:`parse_split`, of slices; by default about 70, 10 and 20 %.
        overwrite: Whether another simulated data set in ``output`` is replaced.
        progress: Whether to show a progress bar.
        coil_maps: By default ``CoilMaps()``; its calibration region is cut to the matrix.

    Returns:
        ``output``.

    Raises:
        UserError: where an argument is not allowed, or ``output`` cannot be written or holds something else.
    """
    num_slices, num_frames, *full = series.magnitude.shape
    acquired_matrix = acquired_matrix or (full[0], full[1])
    acquisition = acquisition or Acquisition(matrix=(acquired_matrix[0], acquired_matrix[1]))
    _check_matrices(series, acquisition, acquired_matrix)
    coil_maps = coil_maps or CoilMaps()
    parameters = _parameters(acquisition, coil_maps, source=series.path.name, sha256=series.sha256)
    scans = [
        _Scan(
            split=split_name,
            name=f"{series.path.stem}_{split_name}",
            subject_id=series.path.stem,
            slices=members,
            load=lambda: series,
            parameters=parameters,
        )
        for split_name, members in parse_split(split, num_slices, "slices").items()
        if members
    ]
    return _write_dataset(output, scans, acquisition, coil_maps, num_frames, SLICE_BLOCKS, overwrite, progress)


def _check_matrices(series: CineSeries, acquisition: Acquisition, acquired_matrix: Optional[Sequence[int]]) -> None:
    full = series.magnitude.shape[-2:]
    acquired = tuple(acquired_matrix or full)
    check(
        all(8 <= n <= limit for n, limit in zip(acquired, full)),
        "--acquired-matrix",
        acquired,
        f"8 to {tuple(full)}, the matrix of {series.path}",
    )
    check(
        all(n <= limit for n, limit in zip(acquisition.matrix, acquired)),
        "--matrix",
        acquisition.matrix,
        f"up to the acquired matrix {acquired} of {series.path}, since k-space holds nothing beyond",
    )


def _parameters(acquisition: Acquisition, coil_maps: CoilMaps, **source: Any) -> Dict[str, Any]:
    return {"format": _FORMAT, **asdict(acquisition), "coil_maps": coil_maps.parameters, **source}


def _write_dataset(
    output: os.PathLike,
    scans: List[_Scan],
    acquisition: Acquisition,
    coil_maps: CoilMaps,
    num_frames: int,
    split_by: str,
    overwrite: bool,
    progress: bool,
) -> Path:
    """Writes scans and annotations into a temporary folder beside ``output``, which then takes its place."""
    check(os.fspath(output) != "", "--output", "''", "the folder of a data set")
    size = (*acquisition.matrix, num_frames, acquisition.coils)
    entries = [ScanEntry(scan.split, scan.file_name, scan.subject_id, scan.slices, size) for scan in scans]
    contents = annotations(entries, _DESCRIPTION, split_by, scans[0].parameters)
    folder = Path(output).resolve()
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output: {output}: found a file, allowed a folder")
        if _already_holds(folder, contents, overwrite):
            if progress:
                print(f"{output}: already holds this data set; kept")
            return Path(output)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            new = Path(temporary, "new")
            (new / "annotations").mkdir(parents=True)
            num_slices = sum(len(scan.slices) for scan in scans)
            with tqdm(total=num_slices, desc=folder.name, unit="slice", disable=not progress) as bar:
                for scan in scans:
                    _write_scan(new / scan.file_name, scan, acquisition, coil_maps, bar)
            for name, text in contents.items():
                (new / "annotations" / name).write_text(text)
            if folder.exists():
                folder.rename(Path(temporary, "old"))
            new.rename(folder)
    except OSError as error:
        raise UserError(f"--output: {output}: cannot be written ({error})") from error
    return Path(output)


def _already_holds(folder: Path, contents: Dict[str, str], overwrite: bool) -> bool:
    """Whether the data set of these annotations is there; a UserError where something else may not be replaced."""
    stored = {path.name: path.read_text(errors="replace") for path in folder.glob("annotations/*.json")}
    if stored == contents:
        return True
    content = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    is_simulated = stored and all(_DESCRIPTION in text for text in stored.values())
    if content and not (is_simulated and {*content} <= {*SPLITS, "annotations"}):
        raise UserError(f"--output: {folder}: found {', '.join(content)}, allowed a new folder or a simulated data set")
    if content and not overwrite:
        raise UserError(f"--output: {folder}: found another data set, allowed a new folder, or --overwrite")
    return False


# --- Command line ---


def _parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = CommandParser("python -m meddlr_greedy.preparation.simulate", __doc__)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the data set, <root>/<name>")
    parser.add_argument("--overwrite", action="store_true", help="replace another simulated data set in FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--split",
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help="of subjects (phantom) or slices (images): three counts, e.g. 6 1 2, or three lists of ranges, e.g. "
        "0-6,13-19 7-8 9-12, where 'none' is an empty one (default: about 70, 10 and 20 %%)",
    )

    phantom = parser.add_argument_group("phantom (the default)")
    phantom.add_argument("--subjects", type=int, metavar="N", help="(default: 9)")
    phantom.add_argument("--slices", type=int, metavar="S", help="slices per subject (default: 3)")
    phantom.add_argument("--frames", type=int, metavar="T", help="cardiac phases (default: 12)")

    images = parser.add_argument_group("images of one subject")
    images.add_argument(
        "--images",
        metavar="FILE",
        help=".npy (slice, phase, row, column), or .npz with it as 'magnitude' (and optionally pixel_spacing_mm, "
        "trigger_time_ms); rows are the readout, columns the phase encodes",
    )
    images.add_argument(
        "--acquired-matrix",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="what the scanner acquired, where its images are interpolated (default: the images' matrix)",
    )

    acquisition = parser.add_argument_group("acquisition")
    acquisition.add_argument(
        "--matrix",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="readout and phase-encode points, taken from the center of k-space (default: 96 80; of images the "
        "acquired matrix)",
    )
    acquisition.add_argument("--coils", type=int, default=8, help="(default: %(default)s)")
    acquisition.add_argument("--maps", type=int, default=1, help="ESPIRiT map sets, 1 or 2 (default: %(default)s)")
    acquisition.add_argument(
        "--noise",
        type=float,
        default=0.01,
        metavar="SD",
        help="standard deviation of the real and the imaginary part in each coil image, relative to the 95th "
        "percentile of the subject's image magnitude (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    _refuse_options_of_the_other_source(arguments)
    return arguments


def _refuse_options_of_the_other_source(arguments: argparse.Namespace) -> None:
    if arguments.images is None:
        refused, reason = ["acquired_matrix"], "only with --images"
    else:
        refused, reason = ["subjects", "slices", "frames"], "only without --images"
    for option in refused:
        value = getattr(arguments, option)
        check(value is None, f"--{option.replace('_', '-')}", value, reason)


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m meddlr_greedy.preparation.simulate``."""
    arguments = _parse_arguments(argv)
    start = time.perf_counter()
    coil_maps = CoilMaps(arguments.maps)
    shared = {"coil_maps": coil_maps, "split": arguments.split, "overwrite": arguments.overwrite, "progress": True}
    settings = {key: getattr(arguments, key) for key in ("coils", "noise", "seed")}
    if arguments.matrix is not None:
        settings["matrix"] = tuple(arguments.matrix)
    if arguments.images is None:
        sizes = {key: getattr(arguments, key) for key in ("subjects", "slices", "frames")}
        given = {key: value for key, value in sizes.items() if value is not None}
        output = simulate_phantom_dataset(arguments.output, Acquisition(**settings), **given, **shared)
    else:
        series = load_series(arguments.images)
        settings.setdefault("matrix", tuple(arguments.acquired_matrix or series.magnitude.shape[-2:]))
        output = simulate_series_dataset(
            arguments.output, series, Acquisition(**settings), arguments.acquired_matrix, **shared
        )
    say_what_is_next(output.resolve(), time.perf_counter() - start)


if __name__ == "__main__":
    main()
