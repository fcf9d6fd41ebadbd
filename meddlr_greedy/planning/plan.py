"""The plan of a config: its memory as it is, that of its alternatives, and what would fit; and the plan as text."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from meddlr.config import CfgNode
from tabulate import tabulate

from meddlr_greedy.console import Progress
from meddlr_greedy.errors import UserError
from meddlr_greedy.planning.around import around_call
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.search import (
    FEATURES,
    IMAGE,
    STEPS,
    Method,
    alternatives,
    growth_of,
    image_of,
    largest,
    modules_of,
    with_method,
)
from meddlr_greedy.planning.step_memory import StepMemory, plan_step, work_area_of_ffts
from meddlr_greedy.planning.work import seconds_of, time_operations

__all__ = ["as_text", "compare_methods", "make_plan"]

# What grows until it does not fit, and its name in the plan.
_GROWING = {FEATURES: "features", STEPS: "steps", IMAGE: "image"}

# Of the tiles that are searched with.
_SEARCHED_TILE = 24

# What takes the same time but for this counts as equally fast.
_TIE = 0.02

_RULE = (
    "fastest: the least {} of those that fit, but for 8-bit activations, whose gradient is another one; within"
    f" {_TIE:.0%} the fewest modules, then the least memory"
)
_TIME = "predicted time (each kind of operation, and what is around it, was timed on this machine)"
_OPERATIONS = (
    "number of operations, an estimate (2 for each multiplication and addition of convolutions, 5 n log2 n for an FFT,"
    " 1 for each number that another operation writes; recomputation included)"
)

_NOT_SEEN = (
    "not in these numbers, on a GPU: the work area of cuFFT (an estimate: at most about {:.1f} MB, the size of what it"
    " transforms), workspaces of cuDNN, what the allocator cannot use of its blocks, the CUDA context (some hundred MB)"
)


def make_plan(cfg: CfgNode, example: Example, budget: Optional[int], timed: bool = True) -> Dict[str, Any]:
    """Plans a config as it is and its alternatives.

    Args:
        cfg: The config.
        example: What the data look like.
        budget: Memory of the device in bytes; ``None`` asks for no more than the needs.
        timed: Whether the alternatives that fit a budget are compared by the predicted time of a training step; else,
            and where the device is not there, by their operations.

    Returns:
        The plan in bytes and seconds, as the command writes it to JSON.
    """
    plan: Dict[str, Any] = {
        "device": cfg.MODEL.DEVICE,
        "batch_size": cfg.SOLVER.TRAIN_BATCH_SIZE,
        "kspace": list(example.tensors["kspace"][0]),
        "memory": budget,
        "work_area_of_ffts": work_area_of_ffts(cfg, example) if cfg.MODEL.DEVICE.startswith("cuda") else 0,
        "config": plan_step(cfg, example).as_numbers(),
    }
    methods = alternatives(cfg, example.tensors["kspace"][0][0])
    searches = [] if budget is None else _searches(cfg)
    with Progress(len(methods) + sum(len(search.keys) for search in searches), "planning", "parts") as progress:
        plan.update(compare_methods(methods, example, budget, timed, progress))
        if budget is not None:
            plan["largest"] = [_largest(search, example, budget, progress) for search in searches]
    return plan


def compare_methods(
    methods: Dict[Method, CfgNode],
    example: Example,
    budget: Optional[int],
    timed: bool = True,
    progress: Optional[Progress] = None,
) -> Dict[str, Any]:
    """The rows of a plan that compare ways to train a network; arguments as of :func:`make_plan`.

    Returns:
        "alternatives", a row for each method that the network can be trained by; and, with a budget, the method that is
        the "fastest" of those that fit, ``None`` where none does.
    """
    found: Dict[Method, StepMemory] = {}
    for method, cfg in methods.items():
        memory = _plan_if_possible(method, cfg, example)
        if memory is not None:
            found[method] = memory
        if progress is not None:
            progress.update()
    rows = [{**method._asdict(), **memory.as_numbers()} for method, memory in found.items()]
    if budget is None:
        return {"alternatives": rows}
    (device,) = {cfg.MODEL.DEVICE for cfg in methods.values()}
    timed = timed and (device == "cpu" or torch.cuda.is_available())
    if timed:
        time_operations([memory.work for memory in found.values() if memory.fits(budget)], device)
    for row, memory in zip(rows, found.values()):
        row["fits"] = memory.fits(budget)
        row["seconds"] = _seconds(memory, device) if row["fits"] and timed else None
    return {"alternatives": rows, "fastest": _fastest([row for row in rows if row["fits"]])}


def _plan_if_possible(method: Method, cfg: CfgNode, example: Example) -> Optional[StepMemory]:
    """None where the network cannot be trained like that: no tiles of what sees the whole image, for example."""
    try:
        return plan_step(cfg, example)
    except UserError:
        if method.suits_every_network:
            raise
        return None


def _seconds(memory: StepMemory, device: str) -> float:
    """Of a training step; a GPU computes while Python goes on."""
    around = around_call() if device == "cpu" else 0.0
    return seconds_of(memory.work, device, around)


def _fastest(rows: List[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """The method of the row that takes the least; None where there are no rows."""
    rows = [row for row in rows if not _method(row).gives_up_digits]
    if not rows:
        return None
    measure = "operations" if rows[0]["seconds"] is None else "seconds"
    least = min(row[measure] for row in rows)
    ties = [row for row in rows if row[measure] <= (1 + _TIE) * least]
    return _method(min(ties, key=lambda row: (row["modules"], row["peak"])))._asdict()


def _method(row: Dict[str, Any]) -> Method:
    return Method(**{key: row[key] for key in Method._fields})


class _Search(NamedTuple):
    """For the largest network and image of a way to train."""

    training: str
    cfg: CfgNode
    keys: Sequence[str]  #: of what is searched for


def _searches(cfg: CfgNode) -> List[_Search]:
    steps = cfg.get_recursive(STEPS)
    greedy = cfg if modules_of(cfg) != 1 else with_method(cfg, Method(steps))
    tiles = with_method(cfg, Method(steps, tile=_SEARCHED_TILE))
    return [
        _Search("backpropagation", with_method(cfg, Method(1)), list(_GROWING)),
        _Search("greedy", greedy, list(_GROWING)),
        _Search(f"greedy, tiles of {_SEARCHED_TILE} rows", tiles, [IMAGE]),
    ]


def _largest(search: _Search, example: Example, budget: int, progress: Progress) -> Dict[str, Any]:
    """Most features at the config's steps, most steps at its features, and the largest image for both."""
    row: Dict[str, Any] = {"training": search.training}
    for key in search.keys:
        label = _GROWING[key]
        try:
            found = largest(growth_of(search.cfg, example, key), budget)
        except UserError:
            if not any(search.cfg.MISC.GREEDY.TILE):
                raise
            row[label], found = None, None  # no tiles of this network
        if found is not None:
            row[label] = list(image_of(example, found.value)) if key == IMAGE and found.value else found.value
            row[f"{label}_is_bound"] = found.is_bound
            row[f"parameters_with_{label}"] = found.memory.parameters if found.memory else 0
        progress.update()
    return row


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
        is_timed = any(row["seconds"] is not None for row in plan["alternatives"])
        rule = _RULE.format(_TIME if is_timed else _OPERATIONS)
        parts.append(rule if plan["fastest"] else "none of them fits")
        parts.append(tabulate(_rows_of_largest(plan["largest"]), headers="keys", floatfmt=".1f", tablefmt=style))
    if plan["work_area_of_ffts"]:
        parts.append(_NOT_SEEN.format(plan["work_area_of_ffts"] / 1e6))
    parts.append(f"planned in {plan['seconds']} s")
    return "\n\n".join(parts)


def _rows_of_config(memory: Dict[str, Any]) -> List[Tuple[str, float]]:
    held = ["parameters", "gradients", "optimizer", *(["averages"] if memory["averages"] else []), "batch"]
    rows = [(key, memory[key] / 1e6) for key in held]
    rows += [(f"activations of module {k}", n / 1e6) for k, n in enumerate(memory["activations"], start=1)]
    return [*rows, ("peak of a training step", memory["peak"] / 1e6), ("evaluation", memory["evaluation"] / 1e6)]


def _rows_of_alternatives(plan: Dict[str, Any]) -> List[Dict[str, Any]]:
    end_to_end = plan["alternatives"][0]["operations"]
    rows = []
    for found in plan["alternatives"]:
        method = _method(found)
        row = {
            "modules": method.modules,
            "method": method.keys,
            "activations MB": max(found["activations"]) / 1e6,
            "peak MB": found["peak"] / 1e6,
            "operations": f"{found['operations'] / end_to_end:.2f}x",
        }
        if plan["memory"] is not None:
            chosen = plan["fastest"] == method._asdict()
            row["time s"] = "" if found["seconds"] is None else f"{found['seconds']:.3g}"
            row["fits"] = "yes, fastest" if chosen else "yes" if found["fits"] else "no"
        rows.append(row)
    return rows


def _rows_of_largest(rows: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    out = []
    for row in rows:
        line: Dict[str, Any] = {"training": row["training"]}
        for name in _GROWING.values():
            value = row.get(name)
            text = "x".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
            text = f"at least {text}" if row.get(f"{name}_is_bound") else text
            line["largest image" if name == "image" else f"most {name}"] = text
            if name != "image" and value is not None:
                line[f"parameters MB with most {name}"] = row[f"parameters_with_{name}"] / 1e6
        out.append(line)
    return out
