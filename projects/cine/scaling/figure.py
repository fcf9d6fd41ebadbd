"""Figure and table of the scaling model."""

from pathlib import Path
from typing import Any, Dict, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tabulate import tabulate

from meddlr_greedy.files import written_atomically
from projects.cine.scaling.model import DATA_PARALLEL, GREEDY, MICRO_BATCHES, Prediction

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


def draw(predictions: Sequence[Prediction], path: Path) -> None:
    """Speed-up and memory against devices, a column for each network; PNG."""
    figure = Figure(figsize=(11, 6.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(DRAWN_MODULES), sharex=True, sharey="row")
    styles: Dict[str, Dict[str, Any]] = {
        GREEDY: {"color": "#c0392b", "linewidth": 2.6, "marker": "o", "zorder": 5},
        DATA_PARALLEL: {
            **{"color": "0.3", "linestyle": "--", "marker": "s", "markersize": 9, "markerfacecolor": "none"},
            "zorder": 4,
        },
        **{
            f"1F1B, {name}": {"color": color, "marker": marker}
            for name, color, marker in zip(MICRO_BATCHES, ("#85c1e9", "#2e86c1", "#1b4f72"), "v^D")
        },
        **{
            f"GPipe, {name}": {"color": color, "linestyle": ":", "linewidth": 1.2}
            for name, color in zip(MICRO_BATCHES, ("#85c1e9", "#2e86c1", "#1b4f72"))
        },
    }
    labels = {
        GREEDY: "greedy pipeline (1 example per update and replica)",
        DATA_PARALLEL: "data parallel (D examples per update)",
        "1F1B, m = 1": "backprop pipeline, 1 micro-batch of 1 example per update",
        "1F1B, m = 8": "backprop pipeline, 8 micro-batches per update",
        "1F1B, m = 4p": "backprop pipeline, 4 micro-batches per stage and update",
        "GPipe, m = 8": "the same by GPipe, which holds more (solid: 1F1B)",
    }
    for column, modules in zip(axes.T, DRAWN_MODULES):
        speed, memory = column
        speed.plot(DEVICES, DEVICES, color="0.8", linewidth=6, solid_capstyle="round", zorder=0)
        for way, style in styles.items():
            of_way = [p for p in predictions if p.way == way and p.modules == modules]
            style = {"linewidth": 1.6, "markersize": 5, **style}
            if not way.startswith("GPipe"):  # as fast as 1F1B
                speed.plot([p.devices for p in of_way], [p.speedup for p in of_way], label=labels[way], **style)
            if way != "GPipe, m = 1":
                label = labels.get(way) if way == "GPipe, m = 8" else None
                memory.plot([p.devices for p in of_way], [p.held_mb for p in of_way], label=label, **style)
        speed.set_title(f"{modules} modules")
        memory.set_xlabel("devices D")
        for axis in column:
            axis.set_xscale("log", base=2)
            axis.set_yscale("log", base=2)
            axis.set_xticks(DEVICES, [str(d) for d in DEVICES])
            axis.grid(color="0.92")
            if modules < DEVICES[-1]:
                axis.axvspan(modules, DEVICES[-1] * 1.15, color="0.5", alpha=0.08, linewidth=0)
            axis.set_xlim(0.9, DEVICES[-1] * 1.15)
        speed.yaxis.set_major_formatter("{x:g}")
        memory.yaxis.set_major_formatter("{x:g}")
    axes[0, 0].set_ylabel("times the throughput of backprop\non one device")
    axes[1, 0].set_ylabel("MB held on the fullest device")
    figure.suptitle(
        "Predicted from the times of one module, measured with all cores (or GPUs) of one machine busy\n"
        "(thick gray: D times; shaded: more devices than modules, so replicas of the pipeline)",
        fontsize=10,
    )
    handles, names = axes[0, 0].get_legend_handles_labels()
    more, their_names = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles + more, names + their_names, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png")


def table_of(predictions: Sequence[Prediction]) -> str:
    """Speed-up over backpropagation on one device, a row for each network and number of devices."""
    rows: Dict[Any, Dict[str, Any]] = {}
    for p in predictions:
        row = rows.setdefault((p.modules, p.devices), {"modules": p.modules, "devices": p.devices})
        if not p.way.startswith("GPipe"):
            row[p.way.replace("1F1B", "GPipe, 1F1B")] = p.speedup
    return tabulate(list(rows.values()), headers="keys", floatfmt=".3g", tablefmt="github")
