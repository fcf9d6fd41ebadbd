"""Prepares a data set to train on: of a scanner's k-space, of cine images, or of a phantom that needs no files.

    meddlr-greedy prepare phantom --output datasets/phantom
    meddlr-greedy prepare images dicom/patient* --output datasets/patients --matrix 128 128
    meddlr-greedy prepare ismrmrd OCMR/fs_*.h5 --output datasets/ocmr --jobs 4
    meddlr-greedy prepare cmrxrecon MultiCoil/Cine/TrainingSet/FullSample --output datasets/cmrxrecon --maps 2
    meddlr-greedy prepare fastmri knee/multicoil_train --output datasets/fastmri
    meddlr-greedy prepare maps kspace/*.h5 --output datasets/with_maps

Measured k-space is prewhitened, its readout oversampling is removed, and coils are compressed. For images and the
phantom, phase, coils and noise are simulated. ESPIRiT maps are estimated from the mean over cardiac phases, or from
lines that were acquired for calibration where those of the image leave gaps in the center. The target is the coil
combination of fully sampled k-space. Data undersampled on purpose keep their mask and have no target. Scans of one
cardiac phase become 2D images, for meddlr's 2D networks.

Each scan becomes <output>/scans/<name>.h5 as soon as it is done. Run again, the command keeps what is there. A scan
that cannot be used is reported and skipped, and the exit status is then 2. Splits are by subject. Where there is one
subject only, they are blocks of its slices, and the annotations say so. Files with the same content are told of, and
refused where they are in train and in test.
"""

import argparse
import time
from typing import Any, Dict, List, Optional, Sequence

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.errors import check, exit_with_one_line
from meddlr_greedy.plugins import import_plugins
from meddlr_greedy.preparation.settings import COMPRESSIONS, DEFAULT_COILS, MISSING, CoilMaps, Preparation
from meddlr_greedy.preparation.sources import Source, registered_readers
from meddlr_greedy.readers.reader import Reader


def build_parser(prog: Optional[str] = None) -> CommandParser:
    """The parser of the command, with a sub-command for each registered reader; ``prog`` is how it was called."""
    parser = CommandParser(prog or "python -m meddlr_greedy.prepare", __doc__)
    _add_imports(parser)
    readers = registered_readers()
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{','.join(readers)}}}")
    for reader in readers.values():
        command = commands.add_parser(reader.command, help=reader.help, description=reader.description)
        command.set_defaults(reader=reader, options=_add_arguments(command, reader))
    return parser


def _import_packages(argv: Optional[Sequence[str]], prog: Optional[str]) -> List[str]:
    """Imports what ``--imports`` names before the parser is built, since their readers are sub-commands too.

    Returns:
        The other arguments.
    """
    parser = CommandParser(prog or "python -m meddlr_greedy.prepare", add_help=False)
    _add_imports(parser)
    found, others = parser.parse_known_args(argv)
    import_plugins(found.imports, "--imports")
    return others


def _add_imports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--imports",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package with readers of your own, which become sub-commands; stands anywhere, also several times",
    )


def _add_arguments(parser: argparse.ArgumentParser, reader: Reader) -> List[str]:
    """Adds the arguments of a sub-command; returns the names of those that are passed to ``open_scan``."""
    reader.add_inputs(parser)
    before = {action.dest for action in parser._actions}
    reader.add_options(parser)
    options = [action.dest for action in parser._actions if action.dest not in before]
    if not reader.simulates:
        _add_measured_options(parser, reader.compression)
        options.append("undersampled")
    _add_dataset_options(parser, reader.reads_files)
    return options


def _add_dataset_options(parser: argparse.ArgumentParser, reads_files: bool) -> None:
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the data set, <root>/<name>")
    parser.add_argument("--overwrite", action="store_true", help="replace files made of other data or options")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="scans at the same time (default: %(default)s)"
    )
    parser.add_argument(
        "--split",
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help="of subjects: fractions (0.7 0.1 0.2; 0 0 1 for tests alone), counts (14 2 4), ranges "
        "(0-6,13-19 7-8 9-12) or names (P001,P002 P003 none); of slices where there is one subject (default: about "
        "70, 10 and 20 %%)",
    )
    parser.add_argument("--split-seed", type=int, metavar="N", help="shuffle the subjects before counting them")
    if reads_files:
        parser.add_argument(
            "--subject-pattern",
            metavar="REGEX",
            help="its first group, found in a file's path, is the subject (default: what the file says, else its name)",
        )
    maps = parser.add_argument_group("ESPIRiT maps")
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


def _add_measured_options(parser: argparse.ArgumentParser, compression: str) -> None:
    group = parser.add_argument_group("measured k-space")
    group.add_argument(
        "--coils",
        type=int,
        metavar="V",
        help=f"virtual coils, for scans that have more (default: {DEFAULT_COILS})",
    )
    group.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        default=compression,
        help="to virtual coils: geometric, for each readout position; svd, one for all; none, the coils stay (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--missing",
        choices=MISSING,
        default="refuse",
        help="of a fully sampled scan, missing phases and lines: taken from the nearest phase (default: %(default)s)",
    )
    group.add_argument("--undersampled", action="store_true", help="undersampled on purpose: keep the mask, no target")
    group.add_argument("--pixel-spacing", nargs=2, type=float, metavar=("MM", "MM"), help="where the files do not tell")
    group.add_argument("--frame-time", type=float, metavar="MS", help="where the files do not tell")


def _preparation(arguments: argparse.Namespace) -> Preparation:
    coil_maps = CoilMaps(arguments.maps, arguments.calib, arguments.crop, arguments.soft_maps)
    if arguments.reader.simulates:
        return Preparation(coil_maps, coils=None, compression="none")
    compressed = arguments.compression != "none"
    if not compressed:
        check(arguments.coils is None, "--coils", arguments.coils, "only with --compression geometric or svd")
    return Preparation(
        coil_maps,
        coils=(DEFAULT_COILS if arguments.coils is None else arguments.coils) if compressed else None,
        compression=arguments.compression,
        missing=arguments.missing,
        pixel_spacing_mm=None if arguments.pixel_spacing is None else tuple(arguments.pixel_spacing),
        frame_time_ms=arguments.frame_time,
    )


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """The command ``meddlr-greedy prepare``; ``prog`` is how it was called."""
    others = _import_packages(argv, prog)
    arguments = build_parser(prog).parse_args(others)
    start = time.perf_counter()
    options: Dict[str, Any] = {name: getattr(arguments, name) for name in arguments.options}
    source = Source(arguments.reader, arguments.inputs, options, getattr(arguments, "subject_pattern", None))
    preparation = _preparation(arguments)
    # What takes long to import, numpy and above all torch, is imported once the arguments are known to be right.
    from meddlr_greedy.preparation.dataset import prepare_dataset
    from meddlr_greedy.preparation.next_steps import say_what_is_next

    output = prepare_dataset(
        arguments.output,
        source,
        preparation,
        split=arguments.split,
        split_seed=arguments.split_seed,
        jobs=arguments.jobs,
        overwrite=arguments.overwrite,
        progress=True,
    )
    say_what_is_next(output.resolve(), time.perf_counter() - start)


if __name__ == "__main__":
    main()
