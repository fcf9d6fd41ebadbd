"""Prepares measured cine (ISMRMRD, CMRxRecon) or cine images (DICOM, NIfTI, npy, npz) as a data set to train on.

    python -m meddlr_greedy.prepare ismrmrd OCMR/fs_*.h5 --output datasets/ocmr --jobs 4
    python -m meddlr_greedy.prepare cmrxrecon MultiCoil/Cine/TrainingSet/FullSample --output datasets/cmrxrecon --maps 2
    python -m meddlr_greedy.prepare images dicom/patient* --output datasets/patients --matrix 128 128

The way of a slice: k-space, prewhitened and without readout oversampling -> virtual coils -> ESPIRiT maps from the mean
over cardiac phases -> target, the coil combination of fully sampled k-space. Images take the way of
simulation to k-space. What is undersampled on purpose keeps its mask and has no target.

Each file becomes <output>/scans/<name>.h5 as soon as it is done; run again, the command keeps what is there. A file
that cannot be used is reported and skipped, and the exit status is then 2. Splits are by subject; where there is one
subject only they are blocks of its slices, and the annotations say so.
"""

import argparse
import time
from typing import Any, Dict, Optional, Sequence

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.errors import check, exit_with_one_line
from meddlr_greedy.ops.acquisition import Acquisition
from meddlr_greedy.preparation.annotations import say_what_is_next
from meddlr_greedy.preparation.coil_maps import CoilMaps
from meddlr_greedy.preparation.dataset import prepare_dataset
from meddlr_greedy.preparation.slice import COMPRESSIONS, DEFAULT_COILS, MISSING, Preparation


def build_parser(prog: Optional[str] = None) -> CommandParser:
    """The parser of the command; ``prog`` is how it was called."""
    parser = CommandParser(prog or "python -m meddlr_greedy.prepare", __doc__)
    commands = parser.add_subparsers(dest="source", required=True, metavar="{ismrmrd,cmrxrecon,images}")
    shared = _shared_options()
    measured = _measured_options()

    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    commands.add_parser(
        "ismrmrd",
        parents=[shared, measured],
        help="ISMRMRD files, as of OCMR",
        description="ISMRMRD files (.h5, .mrd) of Cartesian 2D cine, e.g. OCMR (https://ocmr.info; mind its terms).\n"
        "Files named us_... are taken to be undersampled on purpose.\n\n"
        "    python -m meddlr_greedy.prepare ismrmrd OCMR/fs_*.h5 --output datasets/ocmr --split 0.7 0.1 0.2",
        **raw,
    )
    challenge = commands.add_parser(
        "cmrxrecon",
        parents=[shared, measured],
        help="files of the CMRxRecon challenges 2023 to 2025",
        description="MATLAB v7.3 files of the CMRxRecon challenges 2023 to 2025; a folder is a subject.\n\n"
        "    python -m meddlr_greedy.prepare cmrxrecon TrainingSet/FullSample --output datasets/cmrxrecon",
        **raw,
    )
    challenge.add_argument(
        "--masks", metavar="FOLDER", help="of undersampled files: where their masks are (default: beside them)"
    )
    challenge.add_argument(
        "--readout-oversampling", type=int, default=1, metavar="FACTOR", help="to be removed (default: %(default)s)"
    )
    simulated = commands.add_parser(
        "images",
        parents=[shared],
        help="DICOM series, NIfTI, npy or npz",
        description="Simulates k-space, coils and phase from magnitude images: folders of DICOM files (one view),\n"
        "NIfTI files (x, y, slice, phase), and npy or npz as for python -m meddlr_greedy.preparation.simulate.\n\n"
        "    python -m meddlr_greedy.prepare images dicom/patient* --output datasets/patients --matrix 128 128",
        **raw,
    )
    pair = {"nargs": 2, "type": int, "metavar": ("H", "W")}
    simulated.add_argument(
        "--acquired-matrix", **pair, help="what the scanner acquired, where its images are interpolated"
    )
    simulated.add_argument("--matrix", **pair, help="readout and phase-encode points (default: all that was acquired)")
    simulated.add_argument("--coils", type=int, default=8, help="simulated coils (default: %(default)s)")
    simulated.add_argument(
        "--noise", type=float, default=0.01, metavar="SD", help="relative to the signal (default: %(default)s)"
    )
    simulated.add_argument("--seed", type=int, default=0, help="of coils, phase and noise")
    return parser


def _shared_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("inputs", nargs="+", metavar="INPUT", help="files, and folders that are searched for files")
    options.add_argument("--output", required=True, metavar="FOLDER", help="the data set, <root>/<name>")
    options.add_argument("--overwrite", action="store_true", help="replace files made with other options")
    options.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="files at the same time (default: %(default)s)"
    )
    options.add_argument(
        "--split",
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help="of subjects: fractions (0.7 0.1 0.2), counts (14 2 4), ranges (0-6,13-19 7-8 9-12) or names "
        "(P001,P002 P003 none); of slices where there is one subject (default: about 70, 10 and 20 %%)",
    )
    options.add_argument("--split-seed", type=int, metavar="N", help="shuffle the subjects before counting them")
    options.add_argument(
        "--subject-pattern",
        metavar="REGEX",
        help="its first group, found in a file's path, is the subject (default: what the file says, else its name)",
    )
    maps = options.add_argument_group("ESPIRiT maps")
    maps.add_argument("--maps", type=int, default=1, metavar="M", help="map sets, 1 or 2 (default: %(default)s)")
    maps.add_argument("--calib", type=int, default=20, metavar="N", help="calibration region (default: %(default)s)")
    maps.add_argument(
        "--crop",
        type=float,
        default=CoilMaps.crop,
        metavar="X",
        help="maps are zero where the eigenvalue is below this, 0 for nowhere (default: %(default)s)",
    )
    maps.add_argument("--soft-maps", action="store_true", help="maps fade out around --crop instead of stopping at it")
    return options


def _measured_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--coils", type=int, metavar="V", help=f"virtual coils (default: {DEFAULT_COILS})")
    options.add_argument(
        "--compression",
        choices=[*COMPRESSIONS],
        default="geometric",
        help="to virtual coils: geometric, for each readout position; svd, one for all (default: %(default)s)",
    )
    options.add_argument(
        "--missing",
        choices=MISSING,
        default="refuse",
        help="of a fully sampled scan, missing phases and lines: taken from the nearest phase (default: %(default)s)",
    )
    options.add_argument(
        "--undersampled", action="store_true", help="undersampled on purpose: keep the mask, no target"
    )
    options.add_argument(
        "--pixel-spacing", nargs=2, type=float, metavar=("MM", "MM"), help="where the files do not tell"
    )
    options.add_argument("--frame-time", type=float, metavar="MS", help="where the files do not tell")
    return options


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """The command ``python -m meddlr_greedy.prepare``; ``prog`` is how it was called."""
    arguments = build_parser(prog).parse_args(argv)
    start = time.perf_counter()
    coil_maps = CoilMaps(arguments.maps, arguments.calib, arguments.crop, arguments.soft_maps)
    options: Dict[str, Any] = {}
    if arguments.source == "images":
        preparation = Preparation(coil_maps, coils=None, compression="none")
        acquisition = {name: getattr(arguments, name) for name in ("coils", "noise", "seed")}
        if arguments.matrix is not None:
            acquisition["matrix"] = tuple(arguments.matrix)
        Acquisition(**acquisition)  # refuses wrong values before a file is opened
        options = {"acquisition": acquisition, "acquired_matrix": arguments.acquired_matrix}
    else:
        compressed = arguments.compression != "none"
        if not compressed:
            check(arguments.coils is None, "--coils", arguments.coils, "only with --compression geometric or svd")
        preparation = Preparation(
            coil_maps,
            coils=(DEFAULT_COILS if arguments.coils is None else arguments.coils) if compressed else None,
            compression=arguments.compression,
            missing=arguments.missing,
            pixel_spacing_mm=None if arguments.pixel_spacing is None else tuple(arguments.pixel_spacing),
            frame_time_ms=arguments.frame_time,
        )
        options["undersampled"] = arguments.undersampled
        if arguments.source == "cmrxrecon":
            options.update(masks=arguments.masks, readout_oversampling=arguments.readout_oversampling)
    output = prepare_dataset(
        arguments.output,
        arguments.source,
        arguments.inputs,
        preparation,
        options,
        split=arguments.split,
        split_seed=arguments.split_seed,
        subject_pattern=arguments.subject_pattern,
        jobs=arguments.jobs,
        overwrite=arguments.overwrite,
        progress=True,
    )
    say_what_is_next(output.resolve(), time.perf_counter() - start)


if __name__ == "__main__":
    main()
