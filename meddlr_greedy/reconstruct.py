"""Reconstructs scans with a trained network; targets are not needed.

INPUT is an HDF5 file with kspace (slice, readout, phase encode, cardiac phase, coil), maps (slice, readout, phase
encode, 1, coil, map set) and, if what is sampled cannot be told from the zeros in kspace, mask (slice, 1, phase encode,
cardiac phase, 1); without the cardiac phase for 2D. For each INPUT, three files are written to DIR:

  <name>_recon.h5    image (slice, readout, phase encode, cardiac phase, map set), complex, and INPUT's attributes
  <name>_recon.nii   its magnitude, axes (readout, phase encode, slice, cardiac phase)
  <name>_recon.gif   the middle slice beating (2D: a PNG)

The NIfTI header holds INPUT's attributes pixel_spacing_mm (readout, phase encode), slice_spacing_mm and frame_time_ms.

Slices are read, reconstructed and written one at a time: memory does not depend on their number.

Weights: --weights, else the best checkpoint in the config's OUTPUT_DIR, else the last, else MODEL.WEIGHTS. Checkpoints
of greedy and of end-to-end training fit the config of either.

Example::

    python -m meddlr_greedy.reconstruct --config-file configs/cine/greedy.yaml \\
        --weights results/cine/greedy/model_best.pth scan1.h5 scan2.h5 --output results/recon
"""

import os
import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence

import h5py
import numpy as np
import torch
from meddlr.config import CfgNode
from meddlr.modeling import build_model
from meddlr.utils import env
from torch import nn
from tqdm import tqdm

import meddlr_greedy
from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer, find_weights
from meddlr_greedy.engine.launch import check_device
from meddlr_greedy.errors import UserError, exit_with_one_line, naming
from meddlr_greedy.evaluation.figures import draw_cine_gif, draw_recon_figure
from meddlr_greedy.files import written_atomically
from meddlr_greedy.reconstruction.acquired import AcquiredScan
from meddlr_greedy.reconstruction.nifti import NiftiWriter
from meddlr_greedy.reconstruction.reconstructor import Reconstruction, Reconstructor, use_modules

__all__ = ["main", "reconstruct_scan"]


def reconstruct_scan(
    scan: AcquiredScan, reconstructor: Reconstructor, folder: Path, attributes: Optional[Dict[str, str]] = None
) -> List[Path]:
    """Reconstructs a scan slice by slice and writes its files, each whole or not at all.

    Args:
        scan: The scan.
        reconstructor: The network.
        folder: Where to write; it must exist.
        attributes: Are added to those of the scan in the HDF5 file.

    Returns:
        List[Path]: The files.

    Raises:
        UserError: A slice cannot be used, or a file cannot be written; then none is.
    """
    num_slices, *image_shape = scan.shape[:-1]
    stem = f"{scan.name}_recon"
    hdf5, nifti, picture = (
        folder / f"{stem}{suffix}" for suffix in (".h5", ".nii", ".gif" if scan.is_cine else ".png")
    )
    middle = num_slices // 2
    shown: Optional[Reconstruction] = None
    with _writing(folder), written_atomically(hdf5) as h5_partial, written_atomically(nifti) as nifti_partial:
        shape = (*image_shape, scan.num_maps)
        # Before hours of work; and HDF5 itself does not survive a full disk.
        _check_room(h5_partial, num_slices * int(np.prod(shape)) * np.dtype(np.complex64).itemsize)
        with _created(h5_partial) as h5_file, open(nifti_partial, "wb") as nifti_file:
            h5_file.attrs.update({**scan.attributes, **(attributes or {})})
            images = h5_file.create_dataset("image", (num_slices, *shape), np.complex64, chunks=(1, *shape))
            volumes = NiftiWriter(
                nifti_file,
                (*image_shape[:2], num_slices, *image_shape[2:]),
                scan.geometry.pixel_spacing_mm,
                scan.slice_spacing_mm,
                scan.geometry.frame_time_ms,
                f"meddlr_greedy {meddlr_greedy.__version__}: {scan.name}",
            )
            for acquired in tqdm(scan, desc=scan.name, unit="slice", dynamic_ncols=True):
                recon = reconstructor(acquired)
                images[acquired.slice_id] = recon.image
                volumes.write_slice(acquired.slice_id, np.linalg.norm(recon.image, axis=-1))
                if acquired.slice_id == middle:
                    shown = recon
        assert shown is not None
        _draw(scan, middle, shown, picture)
    return [hdf5, nifti, picture]


def _draw(scan: AcquiredScan, slice_id: int, recon: Reconstruction, path: Path) -> None:
    draw = draw_cine_gif if scan.is_cine else draw_recon_figure
    draw(
        {"zero-filled": recon.zero_filled, "reconstruction": recon.image},
        path,
        target=scan.read_target(slice_id),
        title=f"{scan.name}, slice {slice_id}",
        **scan.geometry._asdict(),
    )


def _check_room(path: Path, num_bytes: int) -> None:
    """Raises OSError where a file of that size cannot be written."""
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, num_bytes)


@contextmanager
def _created(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file. Where the disk is full, closing it raises RuntimeError; here it is OSError, as elsewhere."""
    file = h5py.File(path, "w")
    try:
        yield file
    finally:
        try:
            file.close()
        except RuntimeError as error:
            raise OSError(str(error)) from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        of_hdf5 = re.search(r"error message = '(.*?)'", str(error))
        reason = of_hdf5.group(1) if of_hdf5 else error.strerror or error
        raise UserError(f"--output: {folder} cannot be written: {reason}") from error


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = CommandParser("python -m meddlr_greedy.reconstruct", __doc__)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="scan to reconstruct, an HDF5 file")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the config of the training run")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the images; files are replaced")
    parser.add_argument("--weights", default="", metavar="FILE", help="checkpoint")
    parser.add_argument(
        "--modules", type=int, metavar="K", help="stop after the first K greedy modules (default: as in the config)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: MODEL.DEVICE)")
    args = parser.parse_args(argv)

    cfg = load_config(args.config_file, [] if args.device is None else ["MODEL.DEVICE", args.device])
    device = check_device(cfg)
    if cfg.MISC.GREEDY.RUN.THREADS:
        torch.set_num_threads(cfg.MISC.GREEDY.RUN.THREADS)
    weights = find_weights(
        env.get_path_manager().get_local_path(cfg.OUTPUT_DIR), given=args.weights, fallback=cfg.MODEL.WEIGHTS
    )
    # All that can be known at once is, before the first scan is reconstructed.
    scans = [AcquiredScan(path) for path in args.inputs]
    _check_names(scans)
    model = _load_model(cfg, weights, device)
    if args.modules is not None:
        use_modules(model, args.modules)
    reconstructor = Reconstructor(cfg, model)
    for scan in scans:
        reconstructor.check(scan)
    folder = Path(args.output)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)

    print(f"weights: {weights}")
    made_by = {"weights": os.path.abspath(weights), "config_file": os.path.abspath(args.config_file)}
    if args.modules is not None:
        made_by["modules"] = str(args.modules)
    for scan in scans:
        start = time.perf_counter()
        files = reconstruct_scan(scan, reconstructor, folder, made_by)
        seconds = (time.perf_counter() - start) / len(scan)
        expected = ["pixel_spacing_mm", "slice_spacing_mm", *(["frame_time_ms"] if scan.is_cine else [])]
        missing = [name for name in expected if name not in scan.attributes]
        if missing:
            print(f"note: {scan.path} has no attribute {', '.join(missing)}; 1 stands in the NIfTI header")
        print(
            f"{scan.path}: {len(scan)} slices of {scan.shape[1:-1]}, {seconds:.2f} s each: {', '.join(map(str, files))}"
        )


def _load_model(cfg: CfgNode, weights: str, device: torch.device) -> nn.Module:
    with naming("MODEL"):
        model = build_model(cfg).to(device)
    GreedyCheckpointer(model, cfg.OUTPUT_DIR).load(weights)
    return model


def _check_names(scans: Sequence[AcquiredScan]) -> None:
    """Two scans of one name would have the same files."""
    paths: Dict[str, str] = {}
    for scan in scans:
        other = paths.setdefault(scan.name, scan.path)
        if other != scan.path:
            raise UserError(f"{scan.path}: has the same name as {other}; reconstruct them to different folders")


if __name__ == "__main__":
    main()
