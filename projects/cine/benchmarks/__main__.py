"""Measures what greedy learning and the cine operators buy, as ratios inside one run.

All sides of a comparison run in turn, in random order, on the same tensors; a ratio is taken round by round and quoted
as median with its 95 % bootstrap interval. Writes <output>/<command>.json and prints a table.

Example::

    python -m projects.cine.benchmarks memory --output results/benchmark
    python -m projects.cine.benchmarks plan   --output results/benchmark
    python -m projects.cine.benchmarks step   --output results/benchmark --threads 2
    python -m projects.cine.benchmarks timing --output results/benchmark
    python -m projects.cine.benchmarks all    --output results/benchmark    # 20 minutes
    python -m projects.cine.benchmarks parts  --output results/benchmark --threads 2
    python -m projects.cine.benchmarks loader --output results/benchmark
    python -m projects.cine.benchmarks reconstruct --output results/benchmark    # 3 GB of temporary files
"""

import sys
from pathlib import Path
from typing import Sequence

import torch
from meddlr.config import get_cfg
from tabulate import tabulate

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.engine.launch import check_device
from meddlr_greedy.engine.memory import keep_freed_memory
from meddlr_greedy.errors import exit_with_one_line
from projects.cine.benchmarks.data import loader, reconstruct
from projects.cine.benchmarks.memory import memory, plan
from projects.cine.benchmarks.parts import parts
from projects.cine.benchmarks.steps import methods, step, timing
from projects.cine.support.measuring import versions
from projects.cine.support.tables import in_words, insert_table, write_json

COMMANDS = {**{f.__name__: f for f in (memory, plan, step, timing, parts, loader, reconstruct)}, "all": methods}


@exit_with_one_line
def main(argv: Sequence[str]) -> None:
    parser = CommandParser("python -m projects.cine.benchmarks", __doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--output", type=Path, default=Path("results/benchmark"), help="folder of the JSON files")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 keeps torch's choice")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each comparison; 0 keeps each one's own")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="also put the table between its marks in FILE")
    args = parser.parse_args(argv)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = args.device
    check_device(cfg)
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()  # as in a training run
    torch.manual_seed(0)

    result = {**COMMANDS[args.command](args), "versions": versions(args.device)}
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{args.command}.json"
    write_json(path, result)
    table = tabulate(result["rows"], headers="keys", floatfmt=".3g", tablefmt="github")
    print(table)
    print(f"written: {path}")
    if args.readme:
        insert_table(args.readme, args.command, f"{table}\n\n{in_words(result['versions'])}.")


if __name__ == "__main__":
    main(sys.argv[1:])
