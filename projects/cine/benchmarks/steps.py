"""Time of training steps and of mini-batches, method by method."""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from meddlr.config import get_cfg
from meddlr.modeling import build_loss_computer, build_model
from torch import nn

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.files import written_atomically
from meddlr_greedy.planning.example import Example
from projects.cine.benchmarks.timed_runs import METHODS, NETWORK, SIDES, TimedStep, TimingCase, run_side
from projects.cine.support.measuring import (
    Batch,
    Step,
    interleave,
    make_batch,
    make_cfg,
    measured_peak,
    ratio,
    run_in_turn,
)


def training_step(cfg: Any, model: nn.Module, batch: Batch, loss: str = "LeanLossComputer") -> Step:
    """Forward, loss, backward and Adam's update of one mini-batch."""
    model = model.to(cfg.MODEL.DEVICE).train()
    loss_computer = build_loss_computer(cfg, loss)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step() -> None:
        inputs = {**batch, "kspace": batch["kspace"].clone()}  # the stock network changes its k-space
        value = loss_computer(inputs, model(inputs))["loss"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def step(args: argparse.Namespace) -> Dict[str, Any]:
    """Time of a training step, greedy against end to end: the same network, 8 steps, 64 features."""
    arch, shape = "GeneralizedUnrolledCNN", (64, 64)
    batch = make_batch(args.device, shape, num_coils=8)
    sides = {}
    for modules in (1, 2, 4, 8):
        cfg = make_cfg(args.device, arch, 8, 64, modules)
        sides[f"K = {modules}"] = training_step(cfg, build_model(cfg), batch)
    plain = make_cfg(args.device, arch, 8, 64)
    sides["backpropagation"] = training_step(plain, build_model(plain), batch)
    seconds = interleave(sides, args.rounds or 120)
    rows = [
        {
            "side": name,
            "median_s": float(np.median(values)),
            **{f"{key} to backprop": v for key, v in ratio(values, seconds["backpropagation"]).items()},
        }
        for name, values in seconds.items()
    ]
    return {"network": f"{arch}, 8 steps, 64 features, {shape}, 8 coils", "rows": rows}


def methods(args: argparse.Namespace) -> Dict[str, Any]:
    """Peak memory and time of a training step of every method, all in turn.

    The example of `timing`, a deeper network; the invertible one is another, with much less to compute. One process:
    the trainer's own step on one batch. Several: trainings that their own clocks time. Memory is that of the whole
    step, parameters and optimizer's state included, with its activations; of parallel greedy it is not measured here
    (each process holds its own modules).
    """
    rounds = args.rounds or 12
    shape = (*NETWORK["shape"], NETWORK["num_coils"])
    batch = make_batch(args.device, NETWORK["shape"], NETWORK["num_coils"])
    peaks: Dict[str, float] = {}
    sides: Dict[str, Callable[[], Dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, side in METHODS.items():
            if side.processes > 1:
                sides[name] = partial(run_side, TimingCase(device=args.device, iterations=6), side, Path(folder))
                continue
            cfg = get_cfg()
            cfg.merge_from_other_cfg(type(cfg)(side.overrides))
            cfg.MODEL.DEVICE, cfg.SOLVER.TRAIN_BATCH_SIZE = args.device, 1
            cfg.MISC.GREEDY = GreedyConfig.from_cfg(cfg).as_node()
            example = Example.of_shape(cfg.freeze(), shape)
            peaks[name] = measured_peak(cfg, example) / 1e6
            sides[name] = step = TimedStep(cfg, batch)
            for _ in range(2):  # what is slower the first time
                step()
        found = run_in_turn(sides, rounds)
    rows = []
    for name, of_rounds in found.items():
        row: Dict[str, Any] = {"method": name, "peak_mb": peaks.get(name)}
        row.update({key: float(np.median([r[key] for r in of_rounds])) for key in ("forward_s", "backward_s")})
        for other in ("backpropagation", "checkpointed backpropagation"):
            times = ratio([r["step_s"] for r in of_rounds], [r["step_s"] for r in found[other]])
            row[f"time of {other}"] = f"{times['ratio']:.2f} ({times['low']:.2f} to {times['high']:.2f})"
        rows.append(row)
    draw_methods(args.output / "all.png", rows)
    end_to_end = METHODS["backpropagation"]
    network = {**NETWORK, "modules": end_to_end.steps, "features": end_to_end.features}
    return {"network": network, "rounds": rounds, "rows": rows, "all": found}


def draw_methods(path: Path, rows: Sequence[Dict[str, Any]]) -> None:
    """Time against memory, a point for each method."""
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for row, marker in zip((row for row in rows if row["peak_mb"] is not None), "osv^D*PX"):
        seconds, color = row["forward_s"] + row["backward_s"], "#c0392b" if "greedy" in row["method"] else "#4c78a8"
        axes.plot(row["peak_mb"], seconds, marker, color=color, label=row["method"])
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_xlabel("peak memory of a training step (MB)")
    axes.set_ylabel("seconds per mini-batch")
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as partial:
        figure.savefig(partial, dpi=150)


def timing(args: argparse.Namespace) -> Dict[str, Any]:
    """Time of a mini-batch: backpropagation, greedy, and parallel greedy; 4 unrolled steps, as in the paper's figure.

    Whole training runs of the real trainers, one thread in each process, the example read beforehand (and once more
    with the real loader). Two independent greedy processes side by side are what two processes can do at best.
    """
    rounds = args.rounds or 6
    case = TimingCase(device=args.device)
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: partial(run_side, case, side, Path(folder)) for name, side in SIDES.items()}
        seconds = run_in_turn(sides, rounds)

    def per_batch(name: str) -> List[float]:
        return [1 / of_round["batches_per_s"] for of_round in seconds[name]]

    rows = []
    for name, of_rounds in seconds.items():
        row: Dict[str, Any] = {"side": name}
        for key in ("forward_s", "backward_s", "batches_per_s"):
            row[key] = float(np.median([of_round[key] for of_round in of_rounds]))
        for other in ("backpropagation", "greedy", "two independent processes"):
            faster = ratio(per_batch(other), per_batch(name))
            row[f"times as fast as {other}"] = f"{faster['ratio']:.2f} ({faster['low']:.2f} to {faster['high']:.2f})"
        rows.append(row)
    draw_timing(args.output / "timing.png", rows)
    return {"network": NETWORK, "rounds": rounds, "rows": rows, "all": seconds}


def draw_timing(path: Path, rows: Sequence[Dict[str, Any]]) -> None:
    """Forward and backward time of a mini-batch, as bars."""
    rows = [row for row in rows if row["side"] != "two independent processes"]
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    names = [row["side"] for row in rows]
    forward = [row["forward_s"] for row in rows]
    axes.barh(names, forward, label="forward", color="#4c78a8")
    axes.barh(names, [row["backward_s"] for row in rows], left=forward, label="loss, backward, update", color="#f58518")
    axes.invert_yaxis()
    axes.set_xlabel("seconds per mini-batch")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as partial:
        figure.savefig(partial, dpi=150)
