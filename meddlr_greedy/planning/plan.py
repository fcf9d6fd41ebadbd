"""The plan of a config: its memory as it is, that of its alternatives, and what would fit; and the plan as text."""

from typing import Any, Dict, List, Optional, Tuple

from meddlr.config import CfgNode
from tabulate import tabulate

from meddlr_greedy.console import Progress
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.search import FEATURES, STEPS, alternatives, largest, modules_of, with_modules
from meddlr_greedy.planning.step_memory import plan_step, work_area_of_ffts

__all__ = ["as_text", "make_plan"]

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


def make_plan(cfg: CfgNode, example: Example, budget: Optional[int]) -> Dict[str, Any]:
    """Plans a config as it is and its alternatives.

    Args:
        cfg: The config.
        example: What the data look like.
        budget: Memory of the device in bytes; ``None`` asks for no more than the needs.

    Returns:
        The plan in bytes, as the command writes it to JSON.
    """
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


def as_text(plan: Dict[str, Any], style: str = "simple") -> str:
    """The tables of a plan; ``style`` is one of tabulate's."""
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
