r"""Reconstructs scans with a trained network; targets are not needed.

INPUT is an HDF5 file with kspace (slice, readout, phase encode, cardiac phase, coil), maps (slice, readout, phase
encode, 1, coil, map set) and, if what is sampled cannot be told from the zeros in kspace, mask (slice, 1 or readout,
phase encode, cardiac phase, 1); without the cardiac phase for 2D. For each INPUT, these files are written to DIR:

  <name>_recon.h5    image (slice, readout, phase encode, cardiac phase, map set), complex, and INPUT's attributes
  <name>_recon.nii   its magnitude, axes (readout, phase encode, slice, cardiac phase)
  <name>_recon.gif   the middle slice beating (2D: a PNG)
  <name>_recon_dicom with --dicom: its magnitude, one DICOM file for each slice and cardiac phase

and report.html: all INPUTs to look at in a browser (it opens from disk, without network).

The NIfTI header holds INPUT's attributes pixel_spacing_mm (readout, phase encode), slice_spacing_mm and frame_time_ms.
Where INPUT tells the place of its slices in the patient (position_mm, readout_direction, phase_direction; files do that
were prepared of DICOM, NIfTI or ISMRMRD), it also holds sform and qform.

DICOM needs that place. Its images are a new series of the study that INPUT's attribute dicom names, else of a new one.
They hold neither the patient's name nor birth date, which scan files do not keep. A folder that is there is replaced.

Slices are read, reconstructed and written one at a time: memory does not depend on their number.
With MISC.GREEDY.TILE in the config, k-space of a slice of cine is read some cardiac phases at a time.

Config: --config-file, else the config.yaml beside the weights. One that is found there may not name packages to import
(MISC.GREEDY.RUN.IMPORTS): give it by --config-file, if you trust it.

Weights: --weights, else the best checkpoint in the config's OUTPUT_DIR, else the last, else MODEL.WEIGHTS. Checkpoints
of greedy and of end-to-end training fit the config of either. Trained networks come with the package (meddlr-greedy
zoo): zoo://NAME is the weights of one, with its config.

Examples::

    meddlr-greedy reconstruct --weights zoo://cine-phantom-8x scan.h5 --output results/recon
    meddlr-greedy reconstruct --weights results/cine/greedy/model_best.pth scan.h5 --output results/recon
    meddlr-greedy reconstruct --config-file cine/greedy.yaml \
        --weights results/cine/greedy/model_best.pth scan1.h5 scan2.h5 --output results/recon
    meddlr-greedy reconstruct --weights results/cine/greedy/model_best.pth scan.h5 --output results/recon --dicom
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Optional, Sequence

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.errors import exit_with_one_line, log_causes
from meddlr_greedy.files import check_not_read
from meddlr_greedy.locks import LOG_FILE, locked
from meddlr_greedy.zoo import is_zoo_name, local_file, zoo_names

if TYPE_CHECKING:
    from meddlr_greedy.reconstruction.acquired import AcquiredScan
    from meddlr_greedy.reconstruction.reconstructor import Reconstructor
    from meddlr_greedy.reconstruction.report import ReconstructionReport
    from meddlr_greedy.reconstruction.scan import OutputFiles

__all__ = ["build_parser", "main"]


def build_parser(prog: Optional[str] = None) -> CommandParser:
    """The parser of the command; ``prog`` is how it was called."""
    parser = CommandParser(prog or "python -m meddlr_greedy.reconstruct", __doc__)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="scan to reconstruct, an HDF5 file")
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="the config of the training run (default: config.yaml beside the weights)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the images; files are replaced")
    parser.add_argument("--weights", default="", metavar="FILE", help=f"checkpoint, or one of {', '.join(zoo_names())}")
    parser.add_argument(
        "--modules", type=int, metavar="K", help="stop after the first K greedy modules (default: as in the config)"
    )
    parser.add_argument("--dicom", action="store_true", help="also write the magnitude as a derived DICOM series")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: MODEL.DEVICE)")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Reconstructs scans.

    Args:
        argv: Arguments of the command line; default: those of the process.
        prog: How the command was called.
    """
    args = build_parser(prog).parse_args(argv)
    # What needs torch, whose import takes seconds, is imported once the arguments are known to be right.
    from meddlr.utils import env

    from meddlr_greedy.config.shipped import find_config
    from meddlr_greedy.engine.run_files import config_beside, find_weights, load_network, load_run_config
    from meddlr_greedy.engine.setup import check_device, use_threads
    from meddlr_greedy.evaluation.description import network_in_words
    from meddlr_greedy.modeling.contract import check_keys_of_network
    from meddlr_greedy.reconstruction.acquired import AcquiredScan
    from meddlr_greedy.reconstruction.dicom import check_placed
    from meddlr_greedy.reconstruction.reconstructor import Reconstructor, use_modules
    from meddlr_greedy.reconstruction.report import ReconstructionReport
    from meddlr_greedy.reconstruction.scan import output_files

    cfg = load_run_config(args.config_file, args.weights, [] if args.device is None else ["MODEL.DEVICE", args.device])
    check_keys_of_network(cfg)
    check_device(cfg, "MODEL.DEVICE" if args.device is None else "--device")
    use_threads(cfg)
    output_dir = env.get_path_manager().get_local_path(cfg.OUTPUT_DIR)
    weights = find_weights(output_dir, given=args.weights, fallback=cfg.MODEL.WEIGHTS)
    # All that can be known at once is, before the first scan is reconstructed.
    scans = [AcquiredScan(path) for path in args.inputs]
    folder = Path(args.output)
    files = output_files(scans, folder, args.dicom)
    for scan in scans if args.dicom else ():
        check_placed(scan)
    config_file = find_config(args.config_file) if args.config_file else config_beside(weights)
    report = ReconstructionReport(scans, folder, about=f"{network_in_words(cfg)}, weights {weights}")
    outputs = [report.path, *(f for paths in files for f in paths if f)]
    check_not_read("--output", outputs, [*args.inputs, local_file(weights), config_file])
    model, _ = load_network(cfg, weights, args.config_file)
    if args.modules is not None:
        use_modules(model, args.modules)
    reconstructor = Reconstructor(cfg, model)
    for scan in scans:
        reconstructor.check(scan)

    made_by = {
        "weights": weights if is_zoo_name(weights) else os.path.abspath(weights),
        "config_file": os.path.abspath(config_file),
    }
    if args.modules is not None:
        made_by["modules"] = str(args.modules)
    with locked(folder, "--output"):
        log_causes(folder / LOG_FILE)
        print(f"weights: {weights}")
        for scan, paths in zip(scans, files):
            _reconstruct(scan, reconstructor, paths, made_by, report)
            report.write()
        print(report.printed())


def _reconstruct(
    scan: "AcquiredScan",
    reconstructor: "Reconstructor",
    files: "OutputFiles",
    made_by: Dict[str, str],
    report: "ReconstructionReport",
) -> None:
    from meddlr_greedy.evaluation.description import FULLY_SAMPLED
    from meddlr_greedy.reconstruction.scan import header_notes, reconstruct_scan

    start = time.perf_counter()
    written = reconstruct_scan(scan, reconstructor, files, made_by, report.add)
    seconds = (time.perf_counter() - start) / len(scan)
    for note in header_notes(scan):
        print(f"note: {note}")
    sampled = report.sampled(scan.path)
    if sampled == FULLY_SAMPLED:
        print(f"note: {scan.path}: fully sampled, so there is nothing to fill in; 'eval' undersamples such scans first")
    print(
        f"{scan.path}: {len(scan)} slices of {scan.shape[1:-1]}, {sampled}, {seconds:.2f} s each:"
        f" {', '.join(map(str, written))}"
    )


if __name__ == "__main__":
    main()
