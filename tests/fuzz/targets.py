"""What is fuzzed: for each kind of file a small valid one, how it is changed, and what reads it."""

import gzip
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Tuple

import matplotlib.pyplot  # noqa: F401 (once, and not in each child)
import numpy as np
import scipy.io

from meddlr_greedy import compare, eval_net, prepare, reconstruct, train_net
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.scan_file import check_mask, check_values, read_header, read_slice, write_scan
from meddlr_greedy.engine.run_files import load_network
from meddlr_greedy.headers.placement import Placement
from meddlr_greedy.preparation.sources import Source
from meddlr_greedy.readers.cmrxrecon import CmrxreconReader
from meddlr_greedy.readers.fastmri import FastmriReader
from meddlr_greedy.readers.images import ImagesReader
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from meddlr_greedy.readers.kspace_files import KspaceFileReader
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.dicom import check_placed
from tests.conftest import COMMON, GREEDY
from tests.fuzz import mutators as m
from tests.helpers.evaluation import write_run
from tests.helpers.fastmri import fastmri_kspace, write_fastmri
from tests.helpers.heart import WIDTH, make_heart
from tests.helpers.mrd_lines import ALONE, Line, header, oversampled, space, write_lines
from tests.helpers.scanners import (
    Mrd,
    matlab_axes,
    write_dicom,
    write_enhanced,
    write_mat,
    write_mat5,
    write_mrd,
    write_nifti,
)
from tests.helpers.scans import random_complex, write_dataset
from tests.helpers.stacks import reconstruct_by, write_placed_scan


@dataclass
class Target:
    """A kind of input.

    Attributes:
        name: What it is called.
        make: Writes a valid one into a folder.
        files: Globs of the files that may be changed, with the ways to change them beside those of all files.
        run: Reads what is in a folder; files may be written into ``folder / "out"`` alone.
        command: The same as arguments of a real command, after ``python -m meddlr_greedy.<command>``.
        weight: How often it is taken.
        can_move: Whether a copy elsewhere is valid, too. Else it holds the path of its folder, and is written anew.
    """

    name: str
    make: Callable[[Path], Any]
    files: List[Tuple[str, List[Callable]]]
    run: Callable[[Path], Any]
    command: Callable[[Path], List[str]]
    weight: int = 4
    can_move: bool = True


class ImpossibleScanError(AssertionError):
    """A reader took a file for a scan that no scanner acquires."""


def _read_raw(reader: Any, **options: Any) -> Callable[[Path], None]:
    """Opens all scans and reads their first slices; what comes out has to be a scan."""

    def read(folder: Path) -> None:
        source = Source(reader, [str(folder / "data")], options)
        for path in source.find(folder / "out"):
            scan = source.open_scan(path)
            raw = scan.load_slice(0)
            height, width, frames, coils = raw.kspace.shape
            spacings = [*(scan.pixel_spacing_mm or ()), scan.slice_spacing_mm or 1, scan.frame_time_ms or 1]
            for is_sane in (
                min(height, width, frames, coils, scan.num_slices) >= 1,
                raw.sampled.shape in ((height, width, frames), (1, width, frames)) and raw.sampled.dtype == bool,
                raw.kspace.dtype == np.complex64 and np.isfinite(raw.kspace).all(),
                all(0 < spacing < 1e6 for spacing in spacings),
            ):
                if not is_sane:
                    raise ImpossibleScanError(f"{scan}, k-space {raw.kspace.dtype} of shape {raw.kspace.shape}")

    return read


def _prepare(*reader: str) -> Callable[[Path], List[str]]:
    return lambda folder: ["prepare", *reader, str(folder / "data"), "--output", str(folder / "out")]


def _heart() -> Any:
    return make_heart(0)


def _magnitude() -> np.ndarray:
    return np.round(1000 * np.abs(_heart().image)).astype(np.uint16)[:1, :3, ::2, ::2]


def _data(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    return folder / "data"


def _make_nifti(folder: Path) -> None:
    path = write_nifti(_data(folder) / "s.nii.gz", _magnitude())
    (path.parent / "t.nii").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()


def _make_npz(folder: Path) -> None:
    times = 40.0 * np.arange(3)
    np.savez(_data(folder) / "s.npz", magnitude=_magnitude(), pixel_spacing_mm=[1.5, 1.25], trigger_time_ms=times)


def _make_mrd(folder: Path) -> None:
    coil_images = _heart().coil_images[:1, :2, :2]
    noise = np.random.default_rng(0).standard_normal((2, 2, 64)) + 0j
    write_mrd(_data(folder) / "s.h5", coil_images, Mrd(noise=noise, subject="a"))


def _make_real_time(folder: Path) -> None:
    """Two heartbeats, and lines for calibration in a space of their own."""
    kspace = oversampled(_heart().coil_images[0, 0, :2])
    stamps = [(beat, 60 * i) for beat in range(2) for i in range(6)]
    lines = [
        Line(kspace[:, :, 4 * i], 4 * i, repetition=i, clock=9000 + 360 * beat + since, since_trigger=since)
        for i, (beat, since) in enumerate(stamps)
    ]
    lines += [Line(kspace[:, :, line], line - 20, flags=ALONE, space=1) for line in range(20, 28)]
    spaces = space(64, WIDTH), space(64, 8, fov=(320, 240))
    write_lines(_data(folder) / "us_s.h5", header(*spaces), lines)


def _make_fastmri(folder: Path) -> None:
    kspace = fastmri_kspace(_heart().coil_images[:1, 0, :2])
    mask = np.arange(WIDTH) % 2 == 0
    write_fastmri(_data(folder) / "s.h5", kspace * mask, mask)


def _make_kspace_file(folder: Path) -> None:
    rng = np.random.default_rng(0)
    path = _data(folder) / "s.h5"
    arrays = {"kspace": random_complex(rng, 2, 16, 12, 3, 2), "mask": np.ones((2, 1, 12, 3, 1), np.uint8)}
    attributes = {"subject_id": "P1", "pixel_spacing_mm": (1.5, 1.25), "frame_time_ms": 40.0}
    write_scan(path, 2, ({name: array[i] for name, array in arrays.items()} for i in range(2)), attributes)


def _make_mat(folder: Path) -> None:
    write_mat(_data(folder) / "P001" / "cine_sax.mat", matlab_axes(_heart().kspace[:1, :2, :2]))


def _make_mat5(folder: Path) -> None:
    write_mat5(_data(folder) / "P001" / "cine_sax.mat", matlab_axes(_heart().kspace[:1, :2, :2]))


def _make_mat_images(folder: Path) -> None:
    """A file of each kind; one of them is changed."""
    images, data = _magnitude().transpose(2, 3, 0, 1), _data(folder)
    beside = {"trigger_time_ms": 40.0 * np.arange(3), "pixel_spacing_mm": [1.5, 1.25], "notes": {"by": "me"}}
    scipy.io.savemat(data / "5.mat", {"img": images, **beside})
    scipy.io.savemat(data / "7.mat", {"img": images, **beside}, do_compression=True)
    write_mat(data / "7.3.mat", images, "img")


def _make_scan_file(folder: Path) -> None:
    write_dataset(_data(folder), "beat", {"train": 1}, num_slices=2, height=16, width=12, num_coils=2, num_frames=4)


def _read_scan_files(folder: Path) -> None:
    for path in sorted((folder / "data").rglob("*.h5")):
        header = read_header(str(path))
        names = [name for name in ("kspace", "maps", "target", "mask") if name in header.contents]
        arrays = read_slice(str(path), 0, names)
        check_values(str(path), 0, arrays)
        if "mask" in arrays:
            check_mask(str(path), 0, "mask", arrays["mask"])


def _make_placed_scan(folder: Path) -> None:
    placement = Placement(8.0 * np.eye(3)[:2], np.array([1.0, 0, 0]), np.array([0, 0.6, 0.8]))
    attributes = {"pixel_spacing_mm": (1.5, 1.25), "slice_spacing_mm": 8.0, "frame_time_ms": 40.0, "subject_id": "a"}
    study = {"StudyInstanceUID": "1.2.3", "PatientID": "a", "ScanningSequence": ["GR"], "EchoTime": 1.5}
    attributes.update(placement.as_attributes(), dicom=json.dumps(study))
    images = np.random.default_rng(0).random((2, 16, 12, 4))
    write_placed_scan(_data(folder) / "s.h5", images, attributes)


def _write_dicom(folder: Path) -> None:
    """Without a network: k-space of the first coil stands for the image."""
    path = folder / "data" / "s.h5"
    check_placed(AcquiredScan(str(path)))
    reconstruct_by(lambda acquired: acquired.kspace[..., :1], path, folder / "out", dicom=True)


def _write_config(folder: Path) -> Path:
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    text = COMMON.format(arch="GreedyUnrolled", data="beat", out=run)
    text += GREEDY.format(arch="CineUnrolledCNN", modules=2)
    path = folder / "config.yaml"
    path.write_text(text.replace("FixedMaskFunc", "GoldenStepKtMaskFunc"))
    return path


class TrainedRun:
    """A run that was trained once, and its data; each input is a copy of it."""

    folder: Path

    @classmethod
    def train(cls, folder: Path) -> None:
        splits = {"train": 2, "val": 1, "test": 1}
        write_dataset(folder / "datasets", "beat", splits, num_slices=1, height=16, width=12, num_coils=2, num_frames=4)
        train_net.main(["--config-file", str(_write_config(folder))])

    @classmethod
    def copy(cls, folder: Path) -> None:
        shutil.copytree(cls.folder / "run", folder / "run")
        config = folder / "run" / "config.yaml"
        config.write_text(config.read_text().replace(str(cls.folder / "run"), str(folder / "run")))
        _write_config(folder)


def use_datasets(folder: Path) -> None:
    """The data sets of the trained run are those that configs name."""
    os.environ["MEDDLR_GREEDY_DATASETS"] = str(folder / "datasets")


def _load_weights(folder: Path) -> None:
    load_network(load_config(str(folder / "config.yaml")), str(folder / "run" / "model_final.pth"))


def _resume(folder: Path) -> List[str]:
    return ["train_net", "--config-file", str(folder / "config.yaml"), "--resume"]


def _make_runs(folder: Path) -> None:
    for i, name in enumerate("ab"):
        write_run(folder / name, i, ["x", "y"], seed=i)


def _compare(folder: Path) -> List[str]:
    return ["compare", str(folder / "a"), str(folder / "b"), "--output", str(folder / "out")]


COMMANDS = {
    "prepare": prepare.main,
    "train_net": train_net.main,
    "eval_net": eval_net.main,
    "reconstruct": reconstruct.main,
    "compare": compare.main,
}


def _called(command: Callable[[Path], List[str]]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        name, *arguments = command(folder)
        COMMANDS[name](arguments)

    return run


def _reconstruct(scan: Path, run: Path, folder: Path) -> List[str]:
    return ["reconstruct", str(scan), "--weights", str(run / "model_final.pth"), "--output", str(folder / "out")]


def _trained_scan() -> Path:
    return next((TrainedRun.folder / "datasets").rglob("*.h5"))


TARGETS = [
    Target(
        "npy",
        lambda folder: np.save(_data(folder) / "s.npy", _magnitude()),
        [("data/*", [m.change_number_in_text])],
        _read_raw(ImagesReader()),
        _prepare("images"),
    ),
    Target("npz", _make_npz, [("data/*", [])], _read_raw(ImagesReader()), _prepare("images")),
    Target(
        "nifti", _make_nifti, [("data/*", [m.change_nifti_header])], _read_raw(ImagesReader()), _prepare("images"), 6
    ),
    Target(
        "dicom",
        lambda folder: write_dicom(folder / "data", _magnitude(), "a"),
        [("data/*", [m.change_dicom, m.change_dicom])],
        _read_raw(ImagesReader()),
        _prepare("images"),
        6,
    ),
    Target(
        "enhanced dicom",
        lambda folder: write_enhanced(folder / "data" / "a", _magnitude(), "a"),
        [("data/*", [m.change_dicom, m.change_dicom])],
        _read_raw(ImagesReader()),
        _prepare("images"),
        6,
    ),
    Target("ismrmrd", _make_mrd, [("data/*", [m.change_hdf5] * 3)], _read_raw(IsmrmrdReader()), _prepare("ismrmrd"), 6),
    Target(
        "real-time ismrmrd",
        _make_real_time,
        [("data/*", [m.change_hdf5] * 3)],
        _read_raw(IsmrmrdReader(), phases=3),
        _prepare("ismrmrd", "--phases", "3"),
    ),
    Target(
        "fastmri", _make_fastmri, [("data/*", [m.change_hdf5] * 2)], _read_raw(FastmriReader()), _prepare("fastmri")
    ),
    Target(
        "k-space", _make_kspace_file, [("data/*", [m.change_hdf5])], _read_raw(KspaceFileReader()), _prepare("maps")
    ),
    Target(
        "cmrxrecon",
        _make_mat,
        [("data/*/*", [m.change_hdf5, m.change_hdf5])],
        _read_raw(CmrxreconReader()),
        _prepare("cmrxrecon"),
    ),
    Target("cmrxrecon, version 5", _make_mat5, [("data/*/*", [])], _read_raw(CmrxreconReader()), _prepare("cmrxrecon")),
    Target(
        "images in MAT files",
        _make_mat_images,
        [("data/7.3.mat", [m.change_hdf5]), ("data/[57].mat", []), ("data/[57].mat", [])],
        _read_raw(ImagesReader()),
        _prepare("images"),
    ),
    Target(
        "scan file",
        _make_scan_file,
        [("data/beat/**/*.h5", [m.change_hdf5, m.change_hdf5])],
        _read_scan_files,
        lambda folder: _reconstruct(next((folder / "data").rglob("*.h5")), TrainedRun.folder / "run", folder),
    ),
    Target(
        "placed scan file",
        _make_placed_scan,
        [("data/s.h5", [m.change_hdf5, m.change_hdf5])],
        _write_dicom,
        lambda folder: [*_reconstruct(folder / "data" / "s.h5", TrainedRun.folder / "run", folder), "--dicom"],
    ),
    Target(
        "config",
        _write_config,
        [("config.yaml", [m.change_yaml, m.change_yaml, m.change_number_in_text])],
        lambda folder: load_config(str(folder / "config.yaml")),
        lambda folder: ["train_net", "--config-file", str(folder / "config.yaml")],
        6,
        can_move=False,
    ),
    Target(
        "weights",
        TrainedRun.copy,
        [("run/model_final.pth", [m.change_checkpoint, m.change_checkpoint])],
        _load_weights,
        lambda folder: _reconstruct(_trained_scan(), folder / "run", folder),
        can_move=False,
    ),
    Target(
        "resumed run",
        TrainedRun.copy,
        [
            ("run/model_final.pth", [m.change_checkpoint, m.change_checkpoint]),
            ("run/last_checkpoint", []),
            ("run/metrics.json", [m.change_json_line]),
            ("run/model_best.pth", [m.change_checkpoint]),
        ],
        _called(_resume),
        _resume,
        3,
        can_move=False,
    ),
    Target(
        "compared runs",
        _make_runs,
        [
            ("a/test_results/*.csv", [m.change_csv, m.change_csv]),
            ("b/test_results/results.json", [m.change_json, m.change_json]),
            ("b/test_results/*.h5", [m.change_hdf5]),
        ],
        _called(_compare),
        _compare,
        3,
    ),
]

OF_ALL_FILES = [m.change_bytes, m.change_bytes, m.replace_by_junk]
