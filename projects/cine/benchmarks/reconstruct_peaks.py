"""Reconstructs scans in turn, and prints the peak resident memory after each; for a process of its own.

The last line printed is a JSON list of bytes, one for each scan.

Example::

    python -m projects.cine.benchmarks.reconstruct_peaks config.yaml model_best.pth results/recon scan1.h5 scan2.h5
"""

import json
import re
import resource
from pathlib import Path
from typing import Optional, Sequence

from meddlr_greedy import reconstruct
from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.errors import exit_with_one_line


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.benchmarks.reconstruct_peaks", __doc__)
    parser.add_argument("config", help="config of the network, a YAML file")
    parser.add_argument("weights", help="its checkpoint")
    parser.add_argument("output", help="folder of the images")
    parser.add_argument("scans", nargs="+", help="HDF5 files")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.benchmarks.reconstruct_peaks``."""
    args = build_parser().parse_args(argv)
    peaks = []
    for scan in args.scans:
        reconstruct.main(["--config-file", args.config, "--weights", args.weights, "--output", args.output, scan])
        peaks.append(_peak_bytes())
    print(json.dumps(peaks))


def _peak_bytes() -> int:
    """Peak resident memory of this program. Linux counts in ``ru_maxrss`` that of the process that started it, too."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
