"""Figure and table of the scaling model."""

from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from projects.cine.scaling.model import DATA_PARALLEL, GREEDY, MICRO_BATCHES, Prediction
from projects.cine.support.tables import save_figure

__all__ = ["ASSUMPTIONS", "DEVICES", "MODULES", "draw", "speedup_table"]

MODULES = (4, 8, 16, 32, 64)
DEVICES = (1, 2, 4, 8, 16, 32, 64)
DRAWN_MODULES = (4, 16, 64)

ASSUMPTIONS = (
    "Times: one example, a module is one unrolled step, measured with all cores (or GPUs) of the machine busy; a device"
    " of the prediction is one process with its threads, a link is as fast as that between two processes here.",
    "All modules of a network take the same time. More devices than modules: replicas of the pipeline.",
    "Greedy: steady state, one update for each example, transfers overlap computation.",
    "Backprop pipelines (GPipe, 1F1B: the same bubbles): one update for each m micro-batches of one example; no"
    " recomputation; transfers are waited for only while the pipeline fills and drains (the best case).",
    "Data parallelism: one update for each D examples; all-reduce behind the backward (the best case).",
    "Memory: what is held for backward on the fullest device, and the batches in flight of greedy pipelines; without"
    " parameters.",
)

_BLUES = ("#85c1e9", "#2e86c1", "#1b4f72")
_STYLES: Dict[str, Dict[str, Any]] = {
    GREEDY: {"color": "#c0392b", "linewidth": 2.6, "marker": "o", "zorder": 5},
    DATA_PARALLEL: {
        **{"color": "0.3", "linestyle": "--", "marker": "s", "markersize": 9, "markerfacecolor": "none"},
        "zorder": 4,
    },
    **{
        f"1F1B, {name}": {"color": color, "marker": marker} for name, color, marker in zip(MICRO_BATCHES, _BLUES, "v^D")
    },
    **{
        f"GPipe, {name}": {"color": color, "linestyle": ":", "linewidth": 1.2}
        for name, color in zip(MICRO_BATCHES, _BLUES)
    },
}
_LABELS = {
    GREEDY: "greedy pipeline (1 example per update and replica)",
    DATA_PARALLEL: "data parallel (D examples per update)",
    "1F1B, m = 1": "backprop pipeline, 1 micro-batch of 1 example per update",
    "1F1B, m = 8": "backprop pipeline, 8 micro-batches per update",
    "1F1B, m = 4p": "backprop pipeline, 4 micro-batches per stage and update",
    "GPipe, m = 8": "the same by GPipe, which holds more (solid: 1F1B)",
}


def draw(predictions: Sequence[Prediction], path: Path) -> None:
    """Draws speed-up and memory against devices, a column for each network; PNG."""
    figure = Figure(figsize=(11, 6.9), dpi=110, layout="constrained")
    axes = figure.subplots(2, len(DRAWN_MODULES), sharex=True, sharey="row")
    for (speed, memory), modules in zip(axes.T, DRAWN_MODULES):
        _draw_curves(speed, memory, [p for p in predictions if p.modules == modules])
        speed.set_title(f"{modules} modules")
        memory.set_xlabel("devices D")
        for axis in (speed, memory):
            _scale_axes(axis, modules)
    axes[0, 0].set_ylabel("times the throughput of backprop\non one device")
    axes[1, 0].set_ylabel("MB held on the fullest device")
    figure.suptitle(
        "Predicted from the times of one module, measured with all cores (or GPUs) of one machine busy\n"
        "(thick gray: D times; shaded: more devices than modules, so replicas of the pipeline)",
        fontsize=10,
    )
    handles, names = _legend_entries(axes[:, 0])
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    save_figure(figure, path)


def _draw_curves(speed: Axes, memory: Axes, predictions: Sequence[Prediction]) -> None:
    """Draws all ways to train one network, into the axes of the speed-up and into those of the memory."""
    speed.plot(DEVICES, DEVICES, color="0.8", linewidth=6, solid_capstyle="round", zorder=0)
    for way, own_style in _STYLES.items():
        curve = [p for p in predictions if p.way == way]
        devices = [p.devices for p in curve]
        style: Dict[str, Any] = {"linewidth": 1.6, "markersize": 5, **own_style}
        if not way.startswith("GPipe"):  # as fast as 1F1B
            speed.plot(devices, [p.speedup for p in curve], label=_LABELS[way], **style)
        if way != "GPipe, m = 1":
            label = _LABELS[way] if way == "GPipe, m = 8" else None
            memory.plot(devices, [p.held_mb for p in curve], label=label, **style)


def _scale_axes(axis: Axes, modules: int) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xticks(DEVICES, [str(d) for d in DEVICES])
    axis.grid(color="0.92")
    if modules < DEVICES[-1]:
        axis.axvspan(modules, DEVICES[-1] * 1.15, color="0.5", alpha=0.08, linewidth=0)
    axis.set_xlim(0.9, DEVICES[-1] * 1.15)
    axis.yaxis.set_major_formatter("{x:g}")


def _legend_entries(axes: Sequence[Axes]) -> Tuple[list, list]:
    handles, names = [], []
    for axis in axes:
        own_handles, own_names = axis.get_legend_handles_labels()
        handles += own_handles
        names += own_names
    return handles, names


def speedup_table(predictions: Sequence[Prediction]) -> str:
    """Speed-up over backpropagation on one device, a row for each network and number of devices; Markdown."""
    rows: Dict[Any, Dict[str, Any]] = {}
    for p in predictions:
        row = rows.setdefault((p.modules, p.devices), {"modules": p.modules, "devices": p.devices})
        if not p.way.startswith("GPipe"):
            row[p.way.replace("1F1B", "GPipe, 1F1B")] = p.speedup
    return tabulate(list(rows.values()), headers="keys", floatfmt=".3g", tablefmt="github")
