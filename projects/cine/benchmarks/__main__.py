"""Measures what greedy learning and the cine operators bring, as ratios inside one run.

All sides of a comparison run in turn, in random order, on the same tensors. A ratio is taken round by round, and quoted
as the median with its 95 % bootstrap interval. Prints a table and writes <output>/<command>.json.

    memory       what is held for backward, against the number of modules
    plan         peak memory of a training step, as planned and as measured
    fastest      whether the method that the planner names is the fastest, and the peak of every method as planned
                 (quarter of an hour)
    step         time of a training step, greedy against end to end
    all          peak memory and time of a training step of every method (20 minutes)
    tiles        memory and time of a training step by tiles, against the whole image (an hour)
    bounded      peak memory of a training step by tiles, against the size of the image and the depth of the network
    deep         one training step of 34 unrolled steps with 64 features, by tiles (an hour)
    timing       time of a mini-batch in trainings of one and of two processes
    parts        the parts of the cine networks against stock ones
    temporal     a training step with the convolution along time as matrix products, against torch's (15 minutes)
    limit        time of a training step against that of its convolutions at the rate of sgemm, and of its FFTs
    operators    data consistency against the FFTs and A^H A that it cannot do without
    loader       making an example against reading it, and what a training step waits for the loader
    reconstruct  peak memory of reconstruction, against the number of slices (3 GB of temporary files)
    large        peak memory of reconstruction of one slice of (512, 512, 30) with 16 coils (1 GB of temporary files)
    gpu          all that a GPU is to show, in eight minutes; --small and --device cpu: a dry run

Example::

    python -m projects.cine.benchmarks memory --output results/benchmark
    python -m projects.cine.benchmarks step --output results/benchmark --threads 2
    python -m projects.cine.benchmarks gpu --device cuda --output projects/cine/results --page projects/cine/GPU.md
    python -m projects.cine.benchmarks fastest --threads 1 --page projects/cine/RESULTS.md
    python -m projects.cine.benchmarks all --threads 1 --output projects/cine/results --page projects/cine/RESULTS.md
"""

from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

import torch
from meddlr.config import get_cfg
from tabulate import tabulate

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.engine.memory import keep_freed_memory
from meddlr_greedy.engine.setup import check_device
from meddlr_greedy.errors import check, exit_with_one_line
from projects.cine.benchmarks.bounded import bounded, deep
from projects.cine.benchmarks.fastest import fastest
from projects.cine.benchmarks.gpu import gpu
from projects.cine.benchmarks.large import large
from projects.cine.benchmarks.limit import limit
from projects.cine.benchmarks.loader import loader
from projects.cine.benchmarks.memory import memory, plan
from projects.cine.benchmarks.operators import operators
from projects.cine.benchmarks.options import Options
from projects.cine.benchmarks.parts import parts
from projects.cine.benchmarks.reconstruct import reconstruct
from projects.cine.benchmarks.steps import methods, step, timing
from projects.cine.benchmarks.temporal import temporal
from projects.cine.benchmarks.tiles import tiles
from projects.cine.support.measuring import versions
from projects.cine.support.tables import check_page, publish_table, versions_as_text

COMMANDS: Dict[str, Callable[[Options], Dict[str, Any]]] = {
    "memory": memory,
    "plan": plan,
    "fastest": fastest,
    "step": step,
    "all": methods,
    "tiles": tiles,
    "bounded": bounded,
    "deep": deep,
    "timing": timing,
    "parts": parts,
    "temporal": temporal,
    "limit": limit,
    "operators": operators,
    "loader": loader,
    "reconstruct": reconstruct,
    "large": large,
    "gpu": gpu,
}

_OF_PROCESSOR = ("fastest", "temporal", "limit", "operators")


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.benchmarks", __doc__)
    parser.add_argument("command", choices=COMMANDS, help="what to measure, see above")
    parser.add_argument(
        "--output", type=Path, default=Path("results/benchmark"), metavar="FOLDER", help="raw values and pictures"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 keeps torch's choice")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="of each comparison; 0 keeps its own number")
    parser.add_argument(
        "--small",
        action="store_true",
        help="of gpu, fastest, tiles, bounded, deep, large, temporal, limit, operators and loader: a dry run",
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="also put the table between its marks in FILE")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.benchmarks``."""
    args = build_parser().parse_args(argv)
    if args.command in _OF_PROCESSOR:
        check(
            args.device == "cpu", "--device", args.device, f"cpu for {args.command}, which counts the processor's time"
        )
    cfg = get_cfg()
    cfg.MODEL.DEVICE = args.device
    check_device(cfg)
    if args.page:
        check_page(args.page, args.command)
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()  # as in a training run
    torch.manual_seed(0)

    result = COMMANDS[args.command](Options(args.device, args.rounds, args.output, args.small))
    result["versions"] = versions(args.device)
    tables = [result["rows"], *([result["more_rows"]] if "more_rows" in result else [])]
    table = "\n\n".join(tabulate(rows, headers="keys", floatfmt=".3g", tablefmt="github") for rows in tables)
    note = f"{result['note']} " if "note" in result else ""
    text = f"{table}\n\n{note}{versions_as_text(result['versions'])}."
    publish_table(args.command, result, text, args.output, args.page)


if __name__ == "__main__":
    main()
