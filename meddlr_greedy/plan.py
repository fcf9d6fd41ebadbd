r"""Predicts the memory of a training step before training: no GPU, no weights, nothing is computed.

Tells for a config as it is what parameters, optimizer and activations need and the peak of a step and of an evaluation;
and the same for its network in other numbers of modules, with activation checkpointing, 8-bit activations and tiles.
With --memory also in which of them training and evaluation fit, the fastest among those, and how many features or
unrolled steps and how large an image would fit. The time of a step is predicted: each kind of operation is timed on
this machine, where it has the device.

Example::

    meddlr-greedy plan --config-file cine/greedy.yaml --memory 24GB
    meddlr-greedy plan --config-file cine/greedy.yaml --memory 24GB --shape 224,160,20,8 \
        MODEL.UNROLLED.NUM_FEATURES 96
"""

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence

from meddlr_greedy.arguments import CommandParser, add_config_arguments
from meddlr_greedy.errors import UserError, exit_with_one_line, shortened
from meddlr_greedy.files import check_not_read, writing, written_atomically

if TYPE_CHECKING:
    from meddlr.config import CfgNode

    from meddlr_greedy.planning.example import Example

__all__ = ["build_parser", "main"]

_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}

# Beyond what there is.
_LARGEST_MEMORY, _MOST_MAPS = 10**18, 1000


def build_parser(prog: Optional[str] = None) -> CommandParser:
    """The parser of the command; ``prog`` is how it was called."""
    parser = CommandParser(prog or "python -m meddlr_greedy.plan", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--memory", metavar="SIZE", help=f"memory of the device, for example 24GB; {', '.join(_UNITS)}")
    parser.add_argument(
        "--shape",
        metavar="H,W,T,C",
        help="k-space of a slice of the data (2D: H,W,C); default: that of the first example of DATASETS.TRAIN",
    )
    parser.add_argument("--maps", type=int, metavar="M", help="map sets, with --shape (default: 1)")
    parser.add_argument(
        "--untimed", action="store_true", help="with --memory: count operations instead of timing them, which is faster"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the plan, in bytes")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> Dict[str, Any]:
    """Plans a training step.

    Args:
        argv: Arguments of the command line; default: those of the process.
        prog: How the command was called.

    Returns:
        Dict[str, Any]: The plan, as ``--json`` writes it.
    """
    args = build_parser(prog).parse_args(argv)

    start = time.perf_counter()
    budget = _bytes(args.memory) if args.memory is not None else None
    # What needs torch, whose import takes seconds, is imported once the arguments are known to be right.
    from meddlr_greedy.config.loading import load_config
    from meddlr_greedy.config.shipped import find_config
    from meddlr_greedy.engine.memory import keep_freed_memory
    from meddlr_greedy.engine.setup import use_threads
    from meddlr_greedy.modeling.contract import check_keys_of_network
    from meddlr_greedy.planning.plan import as_text, make_plan

    if args.json:
        check_not_read("--json", [args.json], [find_config(args.config_file)] if args.config_file else [])
    keep_freed_memory()  # as a training does, whose operations are timed
    cfg = load_config(args.config_file, args.opts)
    use_threads(cfg)  # time depends on them and, on a CPU, memory
    check_keys_of_network(cfg)
    example = _example(cfg, args.shape, args.maps)
    plan = make_plan(cfg, example, budget, timed=not args.untimed)
    plan["seconds"] = round(time.perf_counter() - start, 1)
    print(as_text(plan))
    if args.json:
        with writing(args.json, "--json"), written_atomically(args.json) as partial:
            partial.write_text(json.dumps(plan, indent=1) + "\n")
    return plan


def _bytes(text: str) -> int:
    number = re.fullmatch(r"(\d{1,20}(?:\.\d{1,20})?) ?(" + "|".join(_UNITS) + ")", text, re.ASCII)
    size = int(float(number[1]) * _UNITS[number[2]]) if number else 0
    if not 0 < size <= _LARGEST_MEMORY:
        raise UserError(
            f"--memory: found {shortened(text)}, allowed is a number with a unit, {', '.join(_UNITS)}: 24GB"
            f" (at most {_LARGEST_MEMORY // 10**9:g} GB)"
        )
    return size


def _example(cfg: "CfgNode", shape: Optional[str], num_maps: Optional[int]) -> "Example":
    from meddlr_greedy.data.catalog import register_datasets
    from meddlr_greedy.planning.example import Example

    if shape is None:
        if num_maps is not None:
            raise UserError(f"--maps: found {num_maps}, which is for --shape; the data have their own")
        register_datasets()
        return Example.from_data(cfg)
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", shape, re.ASCII) or (num_maps or 1) > _MOST_MAPS:
        raise UserError(
            f"--shape: found {shortened(shape)}{'' if num_maps is None else f' with --maps {num_maps}'}, allowed are"
            f" H,W,T,C for cine and H,W,C for 2D, numbers of six digits at most, and {_MOST_MAPS} maps: 224,160,20,8"
        )
    return Example.from_shape(cfg, [int(n) for n in shape.split(",")], 1 if num_maps is None else num_maps)


if __name__ == "__main__":
    main()
