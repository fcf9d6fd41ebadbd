"""Whether the planner names the fastest of the methods that fit, and predicts the memory of each.

Of ten networks, each with a limit of memory, the planner compares the ways to train them. The peak of each is measured;
of those that fit by the plan, a training step is timed, all in turn, but for 8-bit activations, which are never named
the fastest: their gradient is another one. The shortest step of each counts, as it does in the plan.
"""

import time
from functools import partial
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from meddlr.config import CfgNode

from meddlr_greedy.engine.step import StepOnBatch
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.plan import compare_methods
from meddlr_greedy.planning.search import Method, alternatives
from projects.cine.benchmarks.options import Options
from projects.cine.support.measuring import Batch, interleave, make_batch, make_cfg, measured_peak

__all__ = ["CASES", "Case", "fastest"]

# What counts as equally fast, and as well predicted.
_TIME, _MEMORY = 0.03, 0.05


class Case(NamedTuple):
    """A network, its data, and the memory that there is."""

    arch: str
    shape: Tuple[int, ...]  #: H, W, for cine T, and coils
    steps: int
    features: int
    limit: float  #: MB
    implicit: bool = False  #: the gradient of the solution of conjugate gradients

    def as_text(self) -> str:
        """The case as the tables name it."""
        backward = ", implicit" if self.implicit else ""
        return f"{self.arch}{backward}, {self.steps} x {self.features}, {'x'.join(map(str, self.shape))}"

    def config(self, device: str) -> CfgNode:
        """The config of its plain network."""
        cfg = make_cfg(device, self.arch, self.steps, self.features).clone().defrost()
        cfg.MODEL.UNROLLED.STEP_SIZES = (_STEP_SIZES[self.arch],)
        cfg.MODEL.UNROLLED.DC.EPS = 0.0  # meddlr's conjugate gradients run all of their iterations, as planned
        cfg.MISC.GREEDY.CG_BACKWARD = "implicit" if self.implicit else "unrolled"
        cfg.SOLVER.TRAIN_BATCH_SIZE = cfg.SOLVER.TEST_BATCH_SIZE = 1
        return cfg.freeze()

    def batch(self, example: Example, device: str) -> Batch:
        """A random batch of the tensors that the planner knows of."""
        *pixels, num_coils = self.shape
        batch = example.batch(1, partial(torch.ones, device=device))
        for name, tensor in make_batch(device, pixels, num_coils).items():
            batch[name] = tensor.expand_as(batch[name]).contiguous()
        return batch


_STEP_SIZES = {
    "GeneralizedUnrolledCNN": -2.0,
    "CGUnrolledCNN": 0.1,
    "CineUnrolledCNN": -2.0,
    "CGCineUnrolledCNN": 0.1,
    "InvertibleCineUnrolledCNN": -0.4,
    "InvertibleCGCineUnrolledCNN": 0.5,
}

#: With plenty of memory and with little.
CASES = [
    Case("GeneralizedUnrolledCNN", (128, 128, 8), steps=4, features=32, limit=1000),
    Case("GeneralizedUnrolledCNN", (96, 96, 4), steps=6, features=16, limit=10),
    Case("CGUnrolledCNN", (96, 96, 4), steps=4, features=16, limit=10),
    Case("CineUnrolledCNN", (64, 48, 8, 4), steps=4, features=16, limit=100),
    Case("CineUnrolledCNN", (96, 64, 8, 8), steps=5, features=8, limit=45),
    Case("CineUnrolledCNN", (64, 48, 6, 4), steps=3, features=24, limit=40),
    Case("CGCineUnrolledCNN", (64, 48, 8, 4), steps=4, features=16, limit=100),
    Case("CGCineUnrolledCNN", (96, 48, 6, 4), steps=4, features=8, limit=22, implicit=True),
    Case("InvertibleCineUnrolledCNN", (48, 48, 6, 4), steps=3, features=16, limit=1000),
    Case("InvertibleCGCineUnrolledCNN", (48, 32, 4, 4), steps=3, features=8, limit=10),
]
_SMALL = [
    Case("CineUnrolledCNN", (48, 16, 4, 2), steps=2, features=4, limit=10),
    Case("CGUnrolledCNN", (12, 12, 2), steps=2, features=4, limit=0.001),
]


def fastest(options: Options) -> Dict[str, Any]:
    """The fastest method as planned and as measured, and the peak of every method, of ten networks."""
    rows: List[Dict[str, Any]] = []
    peaks: Dict[str, List[Dict[str, Any]]] = {}
    for case in _SMALL if options.small else CASES:
        row, found = _compared(case, options)
        rows.append(row)
        peaks[case.as_text()] = found
    return {"rows": rows, "more_rows": _by_method(peaks), "all": peaks}


def _compared(case: Case, options: Options) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
    cfg = case.config(options.device)
    example = Example.from_shape(cfg, case.shape)
    configs = alternatives(cfg, case.shape[0])
    plan = compare_methods(configs, example, int(1e6 * case.limit))
    found: Dict[Method, Dict[str, Any]] = {}
    for planned in plan["alternatives"]:
        method = Method(**{key: planned[key] for key in Method._fields})
        measured = measured_peak(configs[method], example)
        # Here is one batch alone.
        peak = planned["peak"] - planned["copied_ahead"]
        found[method] = {
            "method": _name(method),
            "planned_mb": peak / 1e6,
            "measured_mb": measured / 1e6,
            "planned/measured": peak / measured,
            "planned_s": planned["seconds"],
        }
    timed = {m: row for m, row in found.items() if row["planned_s"] is not None and not m.gives_up_digits}
    if plan["fastest"] is None:
        return {"case": case.as_text(), "limit_mb": case.limit, "named": "none fits"}, list(found.values())
    steps = {m: StepOnBatch.from_config(configs[m], batch=case.batch(example, options.device)) for m in timed}
    for method, seconds in _seconds_in_turn(steps, options.rounds or 7).items():
        timed[method].update(measured_s=min(seconds), all_s=seconds)
    named = Method(**plan["fastest"])
    cheapest = min(timed, key=lambda method: timed[method]["measured_s"])
    times = timed[named]["measured_s"] / timed[cheapest]["measured_s"]
    row = {
        "case": case.as_text(),
        "limit_mb": case.limit,
        "named": _name(named),
        **{key: timed[named][key] for key in ("planned_mb", "measured_mb")},
        "measured cheapest": _name(cheapest),
        "compared": len(timed),
        "time of the cheapest": f"{times:.3f}",
        f"within {100 * _TIME:g} %": "yes" if times <= 1 + _TIME else "no",
    }
    return row, list(found.values())


def _seconds_in_turn(steps: Dict[Method, StepOnBatch], rounds: int) -> Dict[Method, List[float]]:
    sides = {_name(method): step.run for method, step in steps.items()}
    found = interleave(sides, rounds, warmup=1, clock=time.process_time)
    return {method: found[_name(method)] for method in steps}


def _name(method: Method) -> str:
    modules = "backpropagation" if method.modules == 1 else f"{method.modules} modules"
    return f"{modules}, {method.keys}" if method.keys else modules


def _by_method(peaks: Dict[str, List[Dict[str, Any]]]) -> List[Dict[str, Any]]:
    """Planned against measured peaks of all methods of a kind, and the case that is planned worst."""
    kinds: Dict[str, List[Tuple[str, Dict[str, Any]]]] = {}
    for case, rows in peaks.items():
        for row in rows:
            kind = row["method"].partition(", ")[2] or ("backpropagation" if "back" in row["method"] else "modules")
            kinds.setdefault(kind, []).append((case, row))
    table = []
    for kind, found in kinds.items():
        ratios = [row["planned/measured"] for _, row in found]
        case, worst = max(found, key=lambda pair: abs(pair[1]["planned/measured"] - 1))
        table.append(
            {
                "method": kind,
                "configs": len(found),
                "planned/measured": f"{min(ratios):.3f} to {max(ratios):.3f}",
                f"within {100 * _MEMORY:g} %": f"{sum(abs(r - 1) <= _MEMORY for r in ratios)} of {len(ratios)}",
                "furthest": f"{case}, {worst['method']}",
                "planned_mb": worst["planned_mb"],
                "measured_mb": worst["measured_mb"],
            }
        )
    return table
