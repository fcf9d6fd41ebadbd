"""Simulates a multi-coil cine data set, from a beating-heart phantom or from a series of cine images.

    python -m projects.cine.simulate --output datasets/phantom
    python -m projects.cine.simulate --output datasets/pig --images pig_cine_sax.npz \\
        --acquired-matrix 224 160 --matrix 128 128 --split 0-6,13-19 7-8 9-12

The way of a slice: magnitude -> smooth phase -> coil sensitivities -> k-space at the full matrix -> centre of k-space
(the field of view stays, the resolution drops, as a scanner would acquire it) -> noise. Then, as for measured data:
ESPIRiT maps from the mean over frames, and the target as the coil combination of the fully sampled k-space.

A slice is a function of the seed, the subject and its own index, and not of the split or of what was simulated before.
"""

import argparse
import functools
import hashlib
import io
import json
import os
import shlex
import tempfile
import time
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import h5py
import numpy as np
import sigpy as sp
import torch
from sigpy.mri import birdcage_maps
from tqdm import tqdm

from meddlr_greedy.data.datasets import ROOT_VARIABLE, datasets_root
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.ops.espirit import espirit_maps
from projects.cine.phantom import FIELD_OF_VIEW_MM, Anatomy, beating_heart

__all__ = [
    "Acquisition",
    "CineSeries",
    "acquire",
    "coil_sensitivities",
    "crop_kspace",
    "load_series",
    "noise_reference",
    "parse_split",
    "simulate_phantom_dataset",
    "simulate_series_dataset",
    "smooth_phase",
]

SPLITS = ("train", "val", "test")
CONFIG = Path(__file__).parents[2] / "configs" / "cine" / "greedy.yaml"
_DESCRIPTION = "Simulated multi-coil cine"
_LARGEST_MAGNITUDE = 1e15  # sums of its squares over an image and its coils still fit into complex64
_FORMAT = 2  # raised when the same parameters come to give other data, so that old files are not taken for new
_SPACE = (-2, -1)  # (H, W) of arrays ordered (C, T, H, W)


@dataclass(frozen=True)
class Acquisition:
    """How k-space is acquired from an image.

    Args:
        matrix: Acquired points (H, W) along readout and phase encode.
        coils: Number of coils C.
        noise: Standard deviation of the real and of the imaginary part of the noise in each coil image, relative to
            :func:`noise_reference`. FFTs are orthonormal and maps have unit norm over coils: noise of the same standard
            deviation is in k-space and, where maps are not zero, in the target.
        seed: Decides every random choice.

    Raises:
        UserError: where a value is not allowed.
    """

    matrix: Tuple[int, int] = (96, 80)
    coils: int = 8
    noise: float = 0.01
    seed: int = 0

    def __post_init__(self):
        _check(min(self.matrix) >= 8, "--matrix", self.matrix, "at least 8 along both axes")
        _check(self.coils >= 1, "--coils", self.coils, "at least 1")
        _check(0 <= self.noise <= 100, "--noise", self.noise, "0 to 100")
        _check(0 <= self.seed < 2**63, "--seed", self.seed, "0 to 2**63 - 1")


@dataclass(frozen=True)
class CineSeries:
    """Cine images of one subject: magnitude (S, T, H, W), finite and not negative; the file they are from, if any."""

    magnitude: np.ndarray
    pixel_spacing_mm: Optional[Tuple[float, float]] = None
    frame_time_ms: Optional[float] = None
    path: Path = Path()
    sha256: str = ""


# --- Physics ---


def noise_reference(magnitude: np.ndarray) -> float:
    """The signal that noise is relative to: the 95th percentile of the magnitude over all pixels of a subject."""
    return float(np.percentile(magnitude, 95))


def smooth_phase(shape: Tuple[int, int], num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Phase of the image: a polynomial of order 2 in space, and a smooth bump that swells once per heart beat (flow).

    Returns:
        Radians, shape (T, H, W).
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    offset, *slopes = rng.uniform(-1, 1, 6) * (np.pi, 1, 1, 0.7, 0.7, 0.7)
    static = offset + sum(a * term for a, term in zip(slopes, (x, y, x * y, x * x, y * y)))
    centre_x, centre_y = rng.uniform(-0.2, 0.2, 2)
    bump = np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 0.15)
    beat = np.cos(2 * np.pi * np.arange(num_frames) / num_frames + rng.uniform(0, 2 * np.pi))
    return static + rng.uniform(0.1, 0.4) * beat[:, None, None] * bump


def coil_sensitivities(shape: Tuple[int, int], num_coils: int, rng: np.random.Generator) -> np.ndarray:
    """Sensitivities of a ring of coils (sigpy's birdcage), placed off centre and with unequal gains.

    Returns:
        complex64, shape (C, H, W); the root sum of squares over coils is about 1 and varies smoothly.
    """
    grid = [int(np.ceil(1.1 * n)) for n in shape]
    # Corners lie at sqrt(2): no coil stands inside the image.
    maps = birdcage_maps((num_coils, *grid), r=rng.uniform(1.42, 1.55))
    # A window of the shape asked for, anywhere in the larger grid, is the ring moved against the body.
    top, left = (int(rng.uniform(0, large - n + 1)) for large, n in zip(grid, shape))
    gains = rng.uniform(0.7, 1.3, num_coils) * np.exp(2j * np.pi * rng.uniform(size=num_coils))
    maps = gains[:, None, None] * maps[:, top : top + shape[0], left : left + shape[1]]
    return maps.astype(np.complex64)


def crop_kspace(kspace: np.ndarray, matrix: Tuple[int, int]) -> np.ndarray:
    """The centre (..., H, W) of a centred k-space, scaled so that image intensities stay (orthonormal FFTs)."""
    scale = np.sqrt(np.prod(matrix) / np.prod(kspace.shape[-2:]))
    return sp.resize(kspace, (*kspace.shape[:-2], *matrix)) * kspace.dtype.type(scale)


def acquire(
    image: np.ndarray,
    sensitivities: np.ndarray,
    matrix: Tuple[int, int],
    noise_std: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Fully sampled k-space of one slice.

    Args:
        image: Complex, shape (T, H0, W0).
        sensitivities: Complex, shape (C, H0, W0).
        matrix: Acquired points (H, W).
        noise_std: Standard deviation of the real and of the imaginary part of the noise.
        rng: Draws the noise.

    Returns:
        complex64, shape (C, T, H, W).
    """
    coil_images = sensitivities[:, None] * image.astype(np.complex64)
    kspace = crop_kspace(sp.fft(coil_images, axes=_SPACE), matrix)
    noise = rng.standard_normal((2, *kspace.shape), np.float32)
    return kspace + np.float32(noise_std) * (noise[0] + 1j * noise[1])


def combine_coils(kspace: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Image of each map set, (T, H, W, M), from fully sampled k-space (C, T, H, W) and maps (H, W, C, M)."""
    coil_images = sp.ifft(kspace, axes=_SPACE)
    return np.einsum("hwcm,cthw->thwm", maps.conj(), coil_images)


def _random(seed: int, *key: Any) -> np.random.Generator:
    """An independent generator for each (seed, key)."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, key)).encode())])


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
    magnitude: np.ndarray, acquisition: Acquisition, noise_std: float, subject_id: str, slice_id: int
) -> Dict[str, np.ndarray]:
    """From magnitude (T, H0, W0) to the arrays of one slice as they lie in the file."""
    shape, seed = (magnitude.shape[1], magnitude.shape[2]), acquisition.seed
    phase = smooth_phase(shape, len(magnitude), _random(seed, subject_id, "phase", slice_id))
    kspace = acquire(
        magnitude * np.exp(1j * phase),
        coil_sensitivities(shape, acquisition.coils, _random(seed, subject_id, "coils")),
        acquisition.matrix,
        noise_std,
        _random(seed, subject_id, "noise", slice_id),
    )
    maps = espirit_maps(kspace.mean(axis=1), calib_width=min(20, *acquisition.matrix))
    return {
        "kspace": kspace.transpose(2, 3, 1, 0),
        "maps": maps[:, :, None],
        "target": combine_coils(kspace, maps).transpose(1, 2, 0, 3),
    }


def _write_scan(path: Path, scan: _Scan, acquisition: Acquisition, progress: tqdm) -> None:
    series = scan.load()
    noise_std = acquisition.noise * noise_reference(series.magnitude)
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for i, slice_id in enumerate(scan.slices):
            magnitude = series.magnitude[slice_id]
            arrays = _simulate_slice(magnitude, acquisition, noise_std, scan.subject_id, slice_id)
            for key, value in arrays.items():
                if key not in file:
                    file.create_dataset(key, (len(scan.slices), *value.shape), np.complex64)
                file[key][i] = value
            progress.update()
        attributes: Dict[str, Any] = {
            "subject_id": scan.subject_id,
            "slices": list(scan.slices),
            "parameters": json.dumps(scan.parameters),
        }
        if series.pixel_spacing_mm is not None:
            full = np.asarray(series.magnitude.shape[-2:])
            attributes["pixel_spacing_mm"] = np.asarray(series.pixel_spacing_mm) * full / acquisition.matrix
        if series.frame_time_ms is not None:
            attributes["frame_time_ms"] = series.frame_time_ms
        file.attrs.update(attributes)


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

    Returns:
        ``output``.

    Raises:
        UserError: where an argument is not allowed, or ``output`` cannot be written or holds something else.
    """
    acquisition = acquisition or Acquisition()
    for option, value in (("--subjects", subjects), ("--slices", slices), ("--frames", frames)):
        _check(value >= 1, option, value, "at least 1")
    positions = (np.arange(slices) + 0.5) / slices
    # Drawn finer than acquired: cropping k-space then blurs and rings as it does for a real object.
    shape = (2 * acquisition.matrix[0], 2 * acquisition.matrix[1])

    def draw(subject_id: str) -> CineSeries:
        def rng():
            return _random(acquisition.seed, subject_id, "anatomy")

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
                    parameters=_parameters(acquisition, source="beating-heart phantom", frames=frames),
                )
            )
    return _write_dataset(output, scans, acquisition, frames, "subjects", overwrite, progress)


def simulate_series_dataset(
    output: os.PathLike,
    series: CineSeries,
    acquisition: Optional[Acquisition] = None,
    acquired_matrix: Optional[Tuple[int, int]] = None,
    split: Optional[Sequence[str]] = None,
    overwrite: bool = False,
    progress: bool = False,
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

    Returns:
        ``output``.

    Raises:
        UserError: where an argument is not allowed, or ``output`` cannot be written or holds something else.
    """
    num_slices, num_frames, *full = series.magnitude.shape
    height, width = acquired_matrix or full
    acquired = (height, width)
    _check(
        all(8 <= n <= limit for n, limit in zip(acquired, full)),
        "--acquired-matrix",
        acquired,
        f"8 to {tuple(full)}, the matrix of {series.path}",
    )
    acquisition = acquisition or Acquisition(matrix=acquired)
    _check(
        all(n <= limit for n, limit in zip(acquisition.matrix, acquired)),
        "--matrix",
        acquisition.matrix,
        f"up to the acquired matrix {acquired} of {series.path}, since k-space holds nothing beyond",
    )
    parameters = _parameters(acquisition, source=series.path.name, sha256=series.sha256)
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
    split_by = "slice blocks of one subject"
    return _write_dataset(output, scans, acquisition, num_frames, split_by, overwrite, progress)


def load_series(path: os.PathLike) -> CineSeries:
    """Reads the cine images of one subject.

    Args:
        path: ``.npy`` with the magnitude (slice, phase, row, column), or ``.npz`` with it as ``magnitude`` and
            optionally ``pixel_spacing_mm`` (2,) and ``trigger_time_ms`` (..., phase).
            Rows are the readout, columns the phase encodes.

    Raises:
        UserError: where the file is missing, unreadable, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix not in (".npy", ".npz"):
        raise UserError(f"{path}: found a '{path.suffix}' file, allowed .npy or .npz")
    try:
        content = path.read_bytes()
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        is_npy = isinstance(loaded, np.ndarray)
        arrays = {"magnitude": loaded} if is_npy else {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a readable {path.suffix} file of plain arrays ({error})") from error
    if "magnitude" not in arrays:
        raise UserError(f"{path}: no array 'magnitude'; found {', '.join(arrays) or 'none'}")

    magnitude = arrays["magnitude"]
    found = f"{magnitude.dtype} of shape {magnitude.shape}"
    if magnitude.ndim != 4 or 0 in magnitude.shape:
        raise UserError(f"{path}: magnitude: found {found}, allowed (slice, phase, row, column)")
    if magnitude.dtype.kind not in "uif":
        raise UserError(f"{path}: magnitude: found {found}, allowed real numbers")
    if not np.isfinite(magnitude).all():
        raise UserError(f"{path}: magnitude: found NaN or infinite values, allowed finite ones")
    if magnitude.min() < 0 or magnitude.max() > _LARGEST_MAGNITUDE:
        raise UserError(
            f"{path}: magnitude: found {magnitude.min():g} to {magnitude.max():g}, allowed 0 to {_LARGEST_MAGNITUDE:g}"
        )
    empty = np.flatnonzero(~magnitude.any(axis=(1, 2, 3)))
    if empty.size:
        raise UserError(f"{path}: magnitude: slice {empty[0]} is zero everywhere")

    num_frames = magnitude.shape[1]
    spacing = _optional(path, arrays, "pixel_spacing_mm", (2,))
    if spacing is not None and spacing.min() <= 0:
        raise UserError(f"{path}: pixel_spacing_mm: found {spacing.min():g}, allowed above 0")
    trigger = _optional(path, arrays, "trigger_time_ms", (..., num_frames))
    if trigger is not None and (np.diff(trigger) <= 0).any():
        raise UserError(f"{path}: trigger_time_ms: found times that do not increase from phase to phase")
    return CineSeries(
        magnitude=magnitude,
        pixel_spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        frame_time_ms=None if trigger is None or num_frames < 2 else float(np.diff(trigger).mean()),
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _optional(path: Path, arrays: Dict[str, np.ndarray], key: str, shape: Tuple) -> Optional[np.ndarray]:
    if key not in arrays:
        return None
    array = arrays[key]
    fits = array.shape[-1:] == shape[1:] if shape[0] is ... else array.shape == shape
    if not fits or not array.size or array.dtype.kind not in "uif" or not np.isfinite(array).all():
        allowed = str(shape).replace("Ellipsis", "...")
        raise UserError(
            f"{path}: {key}: found {array.dtype} of shape {array.shape}, allowed finite numbers of shape {allowed}"
        )
    return array if array.dtype.kind == "f" else array.astype(float)  # differences of unsigned integers wrap around


def parse_split(split: Optional[Sequence[str]], num_items: int, what: str) -> Dict[str, List[int]]:
    """Which subjects or slices go to train, val and test.

    Args:
        split: Three specifications in this order. Either three counts, ``("14", "2", "4")``: consecutive blocks, in
            sum ``num_items``. Or three lists of ranges, both ends included, ``("0-6,13-19", "7-8", "9-12")``,
            ``"none"`` for an empty one; what is left out is not used (a slice beside a block, say, since neighbours
            resemble each other). ``None`` gives counts of about 70, 10 and 20 %.
        num_items: Number of subjects or slices.
        what: "subjects" or "slices", for messages.

    Returns:
        Indices of each split.

    Raises:
        UserError: where it cannot be read, does not fit or overlaps, or nothing is left to train on.
    """
    if split is None:
        held_out = [max(1, round(0.1 * num_items)), max(1, round(0.2 * num_items))]
        if num_items <= sum(held_out):
            raise UserError(f"--split: {num_items} {what} are too few for the default; allowed e.g. --split 1 0 0")
        split = [str(n) for n in (num_items - sum(held_out), *held_out)]
    found = " ".join(map(str, split))
    try:
        train, val, test = split
        if all(spec.isdecimal() for spec in split):
            bounds = np.cumsum([0, *map(int, split)])
            members = [list(range(a, b)) for a, b in zip(bounds[:-1], bounds[1:])]
            if bounds[-1] != num_items:
                raise UserError(f"--split: found {found} (sum {bounds[-1]}), allowed a sum of {num_items} {what}")
        else:
            members = [_parse_ranges(spec) for spec in (train, val, test)]
    except (ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"--split: found {found}, allowed three counts (14 2 4) or three lists of ranges (0-6,13-19 7-8 9-12)"
        ) from error
    used = sum(members, [])
    if len(set(used)) < len(used):
        raise UserError(f"--split: found {found}, allowed ranges that do not overlap")
    if used and max(used) >= num_items:
        raise UserError(f"--split: found {found}, allowed {what} 0 to {num_items - 1}")
    if not members[0]:
        raise UserError(f"--split: found {found}, allowed at least one of the {what} to train on")
    return dict(zip(SPLITS, members))


def _parse_ranges(spec: str) -> List[int]:
    """``"0-2,5-5"`` to [0, 1, 2, 5]."""
    if spec == "none":
        return []
    members: List[int] = []
    for part in spec.split(","):
        first, last = map(int, part.split("-"))
        if last < first:
            raise ValueError(part)
        members += range(first, last + 1)
    return members


def _parameters(acquisition: Acquisition, **source: Any) -> Dict[str, Any]:
    return {"format": _FORMAT, **asdict(acquisition), **source}


def _write_dataset(
    output: os.PathLike,
    scans: List[_Scan],
    acquisition: Acquisition,
    num_frames: int,
    split_by: str,
    overwrite: bool,
    progress: bool,
) -> Path:
    """Writes scans and annotations into a temporary folder beside ``output``, which then takes its place."""
    _check(os.fspath(output) != "", "--output", "''", "the folder of a data set")
    annotations = _annotations(scans, acquisition, num_frames, split_by)
    folder = Path(output).resolve()
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output: {output}: found a file, allowed a folder")
        if _already_holds(folder, annotations, overwrite):
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
                    _write_scan(new / scan.file_name, scan, acquisition, bar)
            for name, text in annotations.items():
                (new / "annotations" / name).write_text(text)
            if folder.exists():
                folder.rename(Path(temporary, "old"))
            new.rename(folder)
    except OSError as error:
        raise UserError(f"--output: {output}: cannot be written ({error})") from error
    return Path(output)


def _annotations(scans: List[_Scan], acquisition: Acquisition, num_frames: int, split_by: str) -> Dict[str, str]:
    """File name -> content, of the splits that are not empty."""
    annotations = {}
    for split in SPLITS:
        images = [
            {
                "file_name": scan.file_name,
                "subject_id": scan.subject_id,
                "slices": list(scan.slices),
                "kspace_size": [len(scan.slices), *acquisition.matrix, num_frames, acquisition.coils],
            }
            for scan in scans
            if scan.split == split
        ]
        info = {"description": _DESCRIPTION, "split_by": split_by, "parameters": scans[0].parameters}
        if images:
            annotations[f"{split}.json"] = json.dumps({"info": info, "images": images}, indent=1) + "\n"
    return annotations


def _already_holds(folder: Path, annotations: Dict[str, str], overwrite: bool) -> bool:
    """Whether the data set of these annotations is there; a UserError where something else may not be replaced."""
    stored = {path.name: path.read_text(errors="replace") for path in folder.glob("annotations/*.json")}
    if stored == annotations:
        return True
    content = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    is_simulated = stored and all(_DESCRIPTION in text for text in stored.values())
    if content and not (is_simulated and {*content} <= {*SPLITS, "annotations"}):
        raise UserError(f"--output: {folder}: found {', '.join(content)}, allowed a new folder or a simulated data set")
    if content and not overwrite:
        raise UserError(f"--output: {folder}: found another data set, allowed a new folder, or --overwrite")
    return False


def _check(condition: bool, option: str, found: Any, allowed: str) -> None:
    if not condition:
        raise UserError(f"{option}: found {found}, allowed {allowed}")


# --- Command line ---


def _parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m projects.cine.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
        help="readout and phase-encode points, taken from the centre of k-space (default: 96 80; of images the "
        "acquired matrix)",
    )
    acquisition.add_argument("--coils", type=int, default=8, help="(default: %(default)s)")
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
        _check(value is None, f"--{option.replace('_', '-')}", value, reason)


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.simulate``."""
    arguments = _parse_arguments(argv)
    start = time.perf_counter()
    shared = {"split": arguments.split, "overwrite": arguments.overwrite, "progress": True}
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
    _say_what_is_next(output.resolve(), time.perf_counter() - start)


def _say_what_is_next(output: Path, seconds: float) -> None:
    sizes = {}
    for split in SPLITS:
        annotation = output / "annotations" / f"{split}.json"
        images = json.loads(annotation.read_text())["images"] if annotation.exists() else []
        sizes[split] = [image["kspace_size"] for image in images]
    counts = ", ".join(f"{sum(size[0] for size in found)} {split}" for split, found in sizes.items())
    print(f"{output}: {counts} slices of (H, W, T, C) = {tuple(sizes['train'][0][1:])}, {seconds:.0f} s")
    command = ["python", "-m", "meddlr_greedy.train_net", "--config-file", os.path.relpath(CONFIG)]
    for split, found in sizes.items():
        command += [f"DATASETS.{split.upper()}", f"({json.dumps(f'{output.name}_{split}')},)" if found else "()"]
    if not torch.cuda.is_available():
        command += ["MODEL.DEVICE", "cpu"]
    is_default = output.parent == Path("datasets").resolve() == datasets_root().resolve()
    where = "" if is_default else f"{ROOT_VARIABLE}={shlex.quote(str(output.parent))} "
    print(f"Next, train on it:\n  {where}{shlex.join(command)}")


if __name__ == "__main__":
    main()
