r"""Predicts how training spreads over 1 to 64 devices: greedy pipelines, backprop pipelines, data parallelism.

With all cores (or GPUs) of this machine busy, it measures for one module of a cine network and one example: forward F,
local loss L, backward B and update U; B', the backward that also gives the gradient of the module's input, which
backpropagation needs of all modules but the first; the time c of the batch from one process to the next. From these it
predicts, for K modules on D devices, of which p = min(D, K) form a pipeline and R = D / p such pipelines are replicas:

Greedy pipeline
    Stage s takes t_s: it prepares the batch, then F + L + B + U for each of its modules. No stage waits for a gradient,
    so once the pipeline has filled, each example takes as long as the slowest stage or transfer, without bubbles::

        throughput = R / max(max_s t_s, c)

Backprop pipeline, synchronous, m micro-batches of one example in each update
    GPipe (Huang et al., NeurIPS 2019) runs all forwards, then all backwards; 1F1B (PipeDream-Flush: Narayanan et al.,
    ICML 2021; after Narayanan et al., SOSP 2019) alternates them, and holds min(m, p) micro-batches in place of m. Both
    fill and drain the pipeline at each update. With the sums F_s, B_s and U_s of a stage, and c' for the gradient of an
    image::

        throughput = R m / (sum_s (F_s + B_s) + (m - 1) max(max_s (F_s + B_s), c) + (p - 1) (c + c') + max_s U_s)

    which for equal stages and free transfers is m / (m + p - 1) of p devices: the rest are bubbles. GPipe without its
    recomputation of activations; stages that never wait for a transfer once the pipeline is full.

Data parallelism, one example in each replica
    The gradients are averaged by a ring all-reduce (Patarasuk and Yuan, J. Parallel Distrib. Comput. 2009), behind
    the backward as far as possible (Li et al., VLDB 2020)::

        throughput = D / (F + max(B, a_D) + U),      a_R = 2 (R - 1) (latency + bytes / (R bandwidth))

Replicas of pipelines add a_R of a stage's own gradients to the stage.

Example::

    python -m projects.cine.scaling --output results/scaling --threads 1
    python -m projects.cine.scaling --output results/scaling --threads 1 --check 3   # against two real processes
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

import numpy as np
import torch
from meddlr.config import get_cfg

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.engine.setup import check_device
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.jobs.environment import in_job
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.jobs.launch import launch
from projects.cine.benchmarks.sides import NETWORK
from projects.cine.benchmarks.timed_runs import chain_throughput
from projects.cine.scaling.figure import ASSUMPTIONS, DEVICES, MODULES, draw, speedup_table
from projects.cine.scaling.measure import measure
from projects.cine.scaling.model import GREEDY, Measured, predict
from projects.cine.support.measuring import versions
from projects.cine.support.tables import check_page, publish_table, versions_as_text, write_json


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.scaling``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parse_arguments(arguments)
    path = args.output / "scaling.json"
    if in_job():
        _measure_in_job(args, path)
        return
    cfg = get_cfg()
    cfg.MODEL.DEVICE = args.device
    check_device(cfg)
    if args.page:
        check_page(args.page, "scaling")
    args.output.mkdir(parents=True, exist_ok=True)
    results, checks = [], []
    for _ in range(max(1, args.check)):
        results.append(_read(args.earlier) if args.earlier else _measure_in_processes(args, arguments, path))
        if args.check:
            checks.append(_check(Measured(**results[-1]["measured"]), args.device, args.threads))
    measured = _median([Measured(**result["measured"]) for result in results])
    predictions = [p for k in MODULES for d in DEVICES for p in predict(measured, k, d)]
    result = {
        **results[-1],
        "measured": asdict(measured),
        "assumptions": ASSUMPTIONS,
        "predictions": [asdict(p) for p in predictions],
    }
    if checks:
        result["check"] = {"rounds": checks, "ratio": float(np.median([check["ratio"] for check in checks]))}
        print(f"predicted / measured, the median of {args.check}: {result['check']['ratio']:.3f}")
    draw(predictions, args.output / "scaling.png")
    print("Times the throughput of backpropagation on one device:")
    note = f"{' '.join(ASSUMPTIONS)} {versions_as_text(result['versions'])}."
    publish_table("scaling", result, f"{speedup_table(predictions)}\n\n{note}", args.output, args.page)


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.scaling", __doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("results/scaling"), metavar="FOLDER", help="of the JSON file and figure"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of each process")
    parser.add_argument(
        "--processes", type=int, default=0, metavar="N", help="that measure side by side; 0: as many as keep all busy"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the modules are measured")
    parser.add_argument(
        "--from", dest="earlier", type=Path, metavar="FILE", help="JSON of an earlier run: not measured again"
    )
    parser.add_argument(
        "--check",
        type=int,
        default=0,
        metavar="N",
        help="N times in turn, measure and run a real pipeline of two processes",
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="also put the table between its marks in FILE")
    return parser


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    args = build_parser().parse_args(argv)
    if args.processes == 1:
        raise UserError("--processes: found 1, allowed are 2 (what a transfer needs) and more, or 0")
    if args.check and args.earlier:
        raise UserError("--check: not allowed with --from, since both sides must be measured in turn")
    return args


def _median(rounds: Sequence[Measured]) -> Measured:
    """The median of each value; bytes stay whole numbers."""
    values = [asdict(measured) for measured in rounds]
    return Measured(**{name: type(value)(np.median([v[name] for v in values])) for name, value in values[-1].items()})


def _measure_in_processes(args: argparse.Namespace, argv: Sequence[str], path: Path) -> Dict[str, Any]:
    """Measures in several processes of this command, of which the first writes what they found."""
    count = torch.cuda.device_count() if args.device == "cuda" else (os.cpu_count() or 1) // args.threads
    num = args.processes or max(2, count)
    print(f"measuring in {num} processes for {args.seconds:.0f} s, after their start")
    status = launch(num, argv, "projects.cine.scaling")
    if status:
        sys.exit(status)
    return _read(path)


def _measure_in_job(args: argparse.Namespace, path: Path) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    job = Job.join()
    with job.ending_together():
        measured = measure(args.device, args.seconds)
    if job.rank == 0:
        result = {
            "network": {"arch": "CineUnrolledCNN", **NETWORK},
            "measured": asdict(measured),
            "processes": job.world_size,
            "versions": versions(args.device),
        }
        write_json(path, result)


def _read(path: Path) -> Dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        Measured(**result["measured"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: found no measured times ({error}); give the scaling.json of an earlier run") from None
    return result


def _check(measured: Measured, device: str, threads: int) -> Dict[str, float]:
    """Predicted and measured throughput of a greedy pipeline of two processes."""
    num = 2
    (predicted,) = (p.examples_per_s for p in predict(measured, NETWORK["modules"], num) if p.way == GREEDY)
    found = chain_throughput(num, device, threads)
    print(
        f"{num} processes, {NETWORK['modules']} modules: predicted {predicted:.3f}, measured {found:.3f}"
        f" mini-batches/s, predicted / measured {predicted / found:.3f}"
    )
    return {"processes": num, "predicted": predicted, "measured": found, "ratio": predicted / found}


if __name__ == "__main__":
    main()
