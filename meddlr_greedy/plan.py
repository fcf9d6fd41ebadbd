r"""Predicts the memory of a training step before training: no GPU, no weights, nothing is computed.

Tells for a config as it is, and for its network in other numbers of modules with and without activation checkpointing,
what parameters, optimizer and activations need and the peak of a step. With --memory also which of them fit, the one
with the fewest operations among those, and how many features or unrolled steps would fit.

Example::

    meddlr-greedy plan --config-file cine/greedy.yaml --memory 24GB
    meddlr-greedy plan --config-file cine/greedy.yaml --memory 24GB --shape 224,160,20,8 \
        MODEL.UNROLLED.NUM_FEATURES 96
"""

import json
import re
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from meddlr.config import CfgNode
from tabulate import tabulate

from meddlr_greedy.arguments import CommandParser, add_config_arguments
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.config.shipped import find_config
from meddlr_greedy.console import Progress
from meddlr_greedy.data.catalog import register_datasets
from meddlr_greedy.errors import UserError, exit_with_one_line, shortened
from meddlr_greedy.files import check_not_read, writing, written_atomically
from meddlr_greedy.modeling.contract import check_keys_of_network
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.search import FEATURES, STEPS, alternatives, largest, modules_of, with_modules
from meddlr_greedy.planning.step_memory import plan_step, work_area_of_ffts

__all__ = ["build_parser", "main"]

_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}

# Beyond what there is.
_LARGEST_MEMORY, _MOST_MAPS = 10**18, 1000

# The largest values that are tried.
_BOUNDS = {FEATURES: 2048, STEPS: 32}

# Of features and of steps, for backpropagation and greedy.
_SEARCHES = 4

# Operations closer than this count as equal.
_TIE = 0.01

_RULE = (
    "fastest: the fewest operations of those that fit, an estimate (2 for each multiplication and addition of"
    " convolutions, 5 n log2 n for an FFT, 1 for each number that another operation writes; recomputation included);"
    f" within {_TIE:.0%} the fewest modules"
)


_NOT_SEEN = (
    "not in these numbers, on a GPU: the work area of cuFFT (an estimate: at most about {:.1f} MB, the size of what it"
    " transforms), workspaces of cuDNN, what the allocator cannot use of its blocks, the CUDA context (some hundred MB)"
)


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
    if args.json:
        check_not_read("--json", [args.json], [find_config(args.config_file)] if args.config_file else [])
    cfg = load_config(args.config_file, args.opts)
    check_keys_of_network(cfg)
    example = _example(cfg, args.shape, args.maps)
    plan = _plan(cfg, example, budget)
    plan["seconds"] = round(time.perf_counter() - start, 1)
    print(_as_text(plan))
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


def _example(cfg: CfgNode, shape: Optional[str], num_maps: Optional[int]) -> Example:
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


def _plan(cfg: CfgNode, example: Example, budget: Optional[int]) -> Dict[str, Any]:
    plan: Dict[str, Any] = {
        "device": cfg.MODEL.DEVICE,
        "batch_size": cfg.SOLVER.TRAIN_BATCH_SIZE,
        "kspace": list(example.tensors["kspace"][0]),
        "memory": budget,
        "work_area_of_ffts": work_area_of_ffts(cfg, example) if cfg.MODEL.DEVICE.startswith("cuda") else 0,
        "config": plan_step(cfg, example)._asdict(),
        "alternatives": [],
    }
    others = alternatives(cfg)
    with Progress(len(others) + (0 if budget is None else _SEARCHES), "planning", "parts") as progress:
        for (modules, checkpoint), other in others.items():
            memory = plan_step(other, example)
            row: Dict[str, Any] = {"modules": modules, "checkpoint": checkpoint, **memory._asdict()}
            if budget is not None:
                row["fits"] = memory.fits(budget)
            plan["alternatives"].append(row)
            progress.update()
        if budget is not None:
            plan["fastest"] = _fastest([row for row in plan["alternatives"] if row["fits"]])
            plan["largest"] = _all_largest(cfg, example, budget, progress)
    return plan


def _fastest(rows: List[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """Modules and checkpointing of the row with the fewest operations; None where there are no rows."""
    if not rows:
        return None
    fewest = min(row["operations"] for row in rows)
    row = min((row for row in rows if row["operations"] <= (1 + _TIE) * fewest), key=lambda row: row["modules"])
    return {"modules": row["modules"], "checkpoint": row["checkpoint"]}


def _all_largest(cfg: CfgNode, example: Example, budget: int, progress: Progress) -> List[Dict[str, Any]]:
    """Most features at the config's steps, and most steps at its features, for backpropagation and greedy."""
    steps = cfg.get_recursive(STEPS)
    sides = {
        "backpropagation": with_modules(cfg, 1, False),
        "greedy": cfg if modules_of(cfg) != 1 else with_modules(cfg, steps, False),
    }
    rows = []
    for side, side_cfg in sides.items():
        row: Dict[str, Any] = {"training": side}
        for name, key in (("features", FEATURES), ("steps", STEPS)):
            found = largest(side_cfg, example, budget, key, _BOUNDS[key])
            row[name] = found.value
            row[f"{name}_is_bound"] = found.is_bound
            row[f"parameters_with_{name}"] = found.memory.parameters if found.memory else 0
            progress.update()
        rows.append(row)
    return rows


# ---- on the console


def _as_text(plan: Dict[str, Any], style: str = "simple") -> str:
    config = plan["config"]
    parts = [
        f"k-space {tuple(plan['kspace'])}, batch size {plan['batch_size']}, {plan['device']}; MB: 10^6 bytes",
        tabulate(_rows_of_config(config), headers=["config as it is", "MB"], floatfmt=".1f", tablefmt=style),
        tabulate(_rows_of_alternatives(plan), headers="keys", floatfmt=".1f", tablefmt=style),
    ]
    if plan["memory"] is not None:
        fastest = plan["fastest"]
        parts.append(_RULE if fastest else "none of them fits")
        parts.append(tabulate(_rows_of_largest(plan["largest"]), headers="keys", floatfmt=".1f", tablefmt=style))
    if plan["work_area_of_ffts"]:
        parts.append(_NOT_SEEN.format(plan["work_area_of_ffts"] / 1e6))
    parts.append(f"planned in {plan['seconds']} s")
    return "\n\n".join(parts)


def _rows_of_config(memory: Dict[str, Any]) -> List[Tuple[str, float]]:
    rows = [(key, memory[key] / 1e6) for key in ("parameters", "gradients", "optimizer", "batch")]
    rows += [(f"activations of module {k}", n / 1e6) for k, n in enumerate(memory["activations"], start=1)]
    return [*rows, ("peak of a training step", memory["peak"] / 1e6), ("evaluation", memory["evaluation"] / 1e6)]


def _rows_of_alternatives(plan: Dict[str, Any]) -> List[Dict[str, Any]]:
    end_to_end = plan["alternatives"][0]["operations"]
    rows = []
    for found in plan["alternatives"]:
        row = {
            "modules": found["modules"],
            "checkpoint": "yes" if found["checkpoint"] else "no",
            "parameters MB": found["parameters"] / 1e6,
            "optimizer MB": found["optimizer"] / 1e6,
            "activations MB": max(found["activations"]) / 1e6,
            "peak MB": found["peak"] / 1e6,
            "operations": f"{found['operations'] / end_to_end:.2f}x",
        }
        if plan["memory"] is not None:
            chosen = plan["fastest"] == {key: found[key] for key in ("modules", "checkpoint")}
            row["fits"] = "yes, fastest" if chosen else "yes" if found["fits"] else "no"
        rows.append(row)
    return rows


def _rows_of_largest(rows: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    out = []
    for row in rows:
        line: Dict[str, Any] = {"training": row["training"]}
        for name in ("features", "steps"):
            line[f"most {name}"] = f"at least {row[name]}" if row[f"{name}_is_bound"] else row[name]
            line[f"parameters MB with most {name}"] = row[f"parameters_with_{name}"] / 1e6
        out.append(line)
    return out


if __name__ == "__main__":
    main()
