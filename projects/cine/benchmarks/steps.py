"""Time of training steps and of mini-batches, method by method."""

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
from meddlr_greedy.planning.example import Example
from projects.cine.benchmarks.clock import TimedStep
from projects.cine.benchmarks.options import Options
from projects.cine.benchmarks.sides import METHODS, NETWORK, SIDES, Side
from projects.cine.benchmarks.timed_runs import TimingCase, run_side
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
from projects.cine.support.tables import ratio_as_text, save_figure

__all__ = ["methods", "side_config", "step", "timing", "training_step"]


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


def step(options: Options) -> Dict[str, Any]:
    """Time of a training step, greedy against end to end: the same network, 8 steps, 64 features."""
    arch, shape = "GeneralizedUnrolledCNN", (64, 64)
    batch = make_batch(options.device, shape, num_coils=8)
    sides = {}
    for modules in (1, 2, 4, 8):
        cfg = make_cfg(options.device, arch, 8, 64, modules)
        sides[f"K = {modules}"] = training_step(cfg, build_model(cfg), batch)
    plain = make_cfg(options.device, arch, 8, 64)
    sides["backpropagation"] = training_step(plain, build_model(plain), batch)
    seconds = interleave(sides, options.rounds or 120)
    rows = [
        {
            "side": name,
            "median_s": float(np.median(values)),
            **{f"{key} to backprop": v for key, v in ratio(values, seconds["backpropagation"]).items()},
        }
        for name, values in seconds.items()
    ]
    return {"network": f"{arch}, 8 steps, 64 features, {shape}, 8 coils", "rows": rows}


def methods(options: Options) -> Dict[str, Any]:
    """Peak memory and time of a training step of every method, all in turn.

    The example is that of :func:`timing`, the network deeper; the invertible one is another network, with much less to
    compute. In one process, the trainer's own step on one batch is timed; with several, trainings time themselves.
    Memory is that of the whole step: parameters, optimizer's state and activations. That of parallel greedy is not
    measured here (each process holds its own modules).
    """
    rounds = options.rounds or 12
    shape = (*NETWORK["shape"], NETWORK["num_coils"])
    batch = make_batch(options.device, NETWORK["shape"], NETWORK["num_coils"])
    peaks: Dict[str, float] = {}
    sides: Dict[str, Callable[[], Dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, side in METHODS.items():
            if side.processes > 1:
                sides[name] = partial(run_side, TimingCase(device=options.device, iterations=6), side, Path(folder))
                continue
            cfg = side_config(side, options.device)
            example = Example.from_shape(cfg, shape)
            peaks[name] = measured_peak(cfg, example) / 1e6
            sides[name] = step = TimedStep(cfg, batch)
            for _ in range(2):  # what is slower the first time
                step()
        found = run_in_turn(sides, rounds)
    rows = []
    for name, times_by_round in found.items():
        row: Dict[str, Any] = {"method": name, "peak_mb": peaks.get(name)}
        row.update({key: float(np.median([r[key] for r in times_by_round])) for key in ("forward_s", "backward_s")})
        for other in ("backpropagation", "checkpointed backpropagation"):
            times = ratio([r["step_s"] for r in times_by_round], [r["step_s"] for r in found[other]])
            row[f"time of {other}"] = ratio_as_text(times, 2)
        rows.append(row)
    draw_methods(options.output / "all.png", rows)
    end_to_end = METHODS["backpropagation"]
    network = {**NETWORK, "modules": end_to_end.steps, "features": end_to_end.features}
    return {"network": network, "rounds": rounds, "rows": rows, "all": found}


def side_config(side: Side, device: str) -> Any:
    """The config of the network of a side, one example in a batch."""
    cfg = get_cfg()
    cfg.merge_from_other_cfg(type(cfg)(side.overrides))
    cfg.MODEL.DEVICE, cfg.SOLVER.TRAIN_BATCH_SIZE = device, 1
    cfg.MISC.GREEDY = GreedyConfig.from_cfg(cfg).as_node()
    return cfg.freeze()


def draw_methods(path: Path, rows: Sequence[Dict[str, Any]]) -> None:
    """Time against memory, a point for each method."""
    figure = Figure(figsize=(6.5, 3.6), dpi=150, layout="constrained")
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
    save_figure(figure, path)


def timing(options: Options) -> Dict[str, Any]:
    """Time of a mini-batch: backpropagation, greedy, and parallel greedy; 4 unrolled steps, as in the paper's figure.

    Whole runs of the real trainers, one thread in each process, the example read beforehand (in one of the sides by the
    real loader). Two independent greedy processes side by side are what two processes can do at best.
    """
    rounds = options.rounds or 6
    case = TimingCase(device=options.device)
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: partial(run_side, case, side, Path(folder)) for name, side in SIDES.items()}
        found = run_in_turn(sides, rounds)

    def per_batch(name: str) -> List[float]:
        return [1 / times["batches_per_s"] for times in found[name]]

    rows = []
    for name, times_by_round in found.items():
        row: Dict[str, Any] = {"side": name}
        for key in ("forward_s", "backward_s", "batches_per_s"):
            row[key] = float(np.median([times[key] for times in times_by_round]))
        for other in ("backpropagation", "greedy", "two independent processes"):
            faster = ratio(per_batch(other), per_batch(name))
            row[f"times as fast as {other}"] = ratio_as_text(faster, 2)
        rows.append(row)
    draw_timing(options.output / "timing.png", rows)
    return {"network": NETWORK, "rounds": rounds, "rows": rows, "all": found}


def draw_timing(path: Path, rows: Sequence[Dict[str, Any]]) -> None:
    """Forward and backward time of a mini-batch, as bars."""
    rows = [row for row in rows if row["side"] != "two independent processes"]
    figure = Figure(figsize=(7, 2.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    names = [row["side"] for row in rows]
    forward = [row["forward_s"] for row in rows]
    axes.barh(names, forward, label="forward", color="#4c78a8")
    axes.barh(names, [row["backward_s"] for row in rows], left=forward, label="loss, backward, update", color="#f58518")
    axes.invert_yaxis()
    axes.set_xlabel("seconds per mini-batch")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
