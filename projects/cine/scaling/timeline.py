"""Draws which device works on which mini-batch, and when: greedy learning against backpropagation in a pipeline.

Backpropagation runs the schedule 1F1B with a flush before each update (PipeDream-Flush: Narayanan et al., ICML 2021): a
stage runs as many forwards ahead as stages follow it, then one backward after each forward. All its micro-batches see
the same weights, so the pipeline drains at each update. In the greedy pipeline a stage updates after each example.

Example::

    python -m projects.cine.scaling.timeline --output projects/cine/results
    python -m projects.cine.scaling.timeline --from results/scaling/scaling.json   # with measured times
"""

import json
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.errors import UserError, exit_with_one_line
from projects.cine.support.tables import save_figure

__all__ = ["Task", "draw", "greedy_schedule", "one_forward_one_backward"]

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
NUM_STAGES, MICRO_BATCHES, NUM_EXAMPLES = 4, 4, 12

_COLORS = {FORWARD: "#aed6f1", BACKWARD: "#2e86c1", UPDATE: "#1b2631"}
_MARK = "#c0392b"


class Task(NamedTuple):
    """What a stage does at one time.

    Attributes:
        stage: From 0.
        kind: ``FORWARD``, ``BACKWARD`` or ``UPDATE``.
        example: From 0; for an update, the last one before it.
        start: Seconds.
        end: Seconds.
    """

    stage: int
    kind: str
    example: int
    start: float
    end: float


class _Step(NamedTuple):
    kind: str
    example: int


def greedy_schedule(
    seconds: Dict[str, float], num_stages: int, num_examples: int, transfer_s: float = 0.0
) -> List[Task]:
    """Greedy learning: forward, backward and update of each example, in every stage.

    Args:
        seconds: Time of a stage for each kind of task.
        num_stages: p.
        num_examples: Mini-batches, of one example each.
        transfer_s: From one stage to the next.
    """
    order = [_Step(kind, t) for t in range(num_examples) for kind in (FORWARD, BACKWARD, UPDATE)]

    def comes_from(stage: int, step: _Step) -> int:
        return stage - 1 if step.kind == FORWARD else stage  # no gradient comes from another stage

    return _simulate([order] * num_stages, comes_from, seconds, transfer_s)


def one_forward_one_backward(
    seconds: Dict[str, float], num_stages: int, num_examples: int, micro_batches: int, transfer_s: float = 0.0
) -> List[Task]:
    """Backpropagation, 1F1B: one update for each ``micro_batches`` micro-batches of one example.

    ``num_examples`` is a multiple of ``micro_batches``; for the rest see :func:`greedy_schedule`.
    """
    orders = []
    for stage in range(num_stages):
        order: List[_Step] = []
        ahead = min(num_stages - 1 - stage, micro_batches)
        for first in range(0, num_examples, micro_batches):
            examples = range(first, first + micro_batches)
            order += [_Step(FORWARD, t) for t in examples[:ahead]]
            for t in examples:
                order += [_Step(FORWARD, t + ahead)] if t + ahead in examples else []
                order += [_Step(BACKWARD, t)]
            order += [_Step(UPDATE, examples[-1])]
        orders.append(order)

    def comes_from(stage: int, step: _Step) -> int:
        neighbor = {FORWARD: stage - 1, BACKWARD: stage + 1}.get(step.kind, stage)
        return neighbor if neighbor < num_stages else stage

    return _simulate(orders, comes_from, seconds, transfer_s)


def _simulate(
    orders: Sequence[Sequence[_Step]],
    comes_from: Callable[[int, _Step], int],
    seconds: Dict[str, float],
    transfer_s: float,
) -> List[Task]:
    """Every stage goes through its order, and waits for the same step of the stage that its input comes from."""
    ends: Dict[tuple, float] = {}
    tasks: List[Task] = []
    free, done = [0.0] * len(orders), [0] * len(orders)
    while any(count < len(order) for count, order in zip(done, orders)):
        count_before = len(tasks)
        for stage, order in enumerate(orders):
            while done[stage] < len(order):
                step = order[done[stage]]
                source = comes_from(stage, step)
                waits = source not in (stage, -1)
                if waits and (source, step) not in ends:
                    break
                start = max(free[stage], ends[source, step] + transfer_s) if waits else free[stage]
                free[stage] = ends[stage, step] = start + seconds[step.kind]
                tasks.append(Task(stage, step.kind, step.example, start, free[stage]))
                done[stage] += 1
        assert len(tasks) > count_before, "the stages wait for each other"
    return tasks


def draw(greedy: Dict[str, float], backprop: Dict[str, float], path: Path, transfer_s: float = 0.0) -> None:
    """Draws both pipelines over the same time, as PNG.

    Args:
        greedy: Time of a stage for each kind of task, in greedy learning.
        backprop: The same in backpropagation.
        path: To write.
        transfer_s: From one stage to the next.
    """
    panels = {
        "Greedy: an update after each example; nobody waits for a gradient": greedy_schedule(
            greedy, NUM_STAGES, NUM_EXAMPLES, transfer_s
        ),
        f"Backpropagation (1F1B): an update after {MICRO_BATCHES} examples; the pipeline drains and fills"
        " again": one_forward_one_backward(backprop, NUM_STAGES, NUM_EXAMPLES, MICRO_BATCHES, transfer_s),
    }
    unit = greedy[FORWARD]
    end = max(task.end for tasks in panels.values() for task in tasks) / unit
    figure = Figure(figsize=(12, 4.9), dpi=110, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True)
    for axis, (title, tasks) in zip(axes, panels.items()):
        _draw_tasks(axis, tasks, unit)
        last = max(task.end for task in tasks)
        busy = sum(task.end - task.start for task in tasks) / (NUM_STAGES * last)
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_title(f"{NUM_EXAMPLES} examples, devices {busy:.0%} busy", loc="right", fontsize=11, color=_MARK)
        axis.axvline(last / unit, color=_MARK, linewidth=1.5)
        axis.set_xlim(0, end * 1.005)
        axis.set_ylim(NUM_STAGES - 0.5, -0.5)
        axis.set_yticks(range(NUM_STAGES), [f"device {stage + 1}" for stage in range(NUM_STAGES)])
        axis.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[-1].set_xlabel("time (forward passes of a stage)")
    handles = [Patch(color=_COLORS[FORWARD], label="forward"), Patch(color=_COLORS[BACKWARD], label="backward")]
    handles += [Patch(color=_COLORS[UPDATE], label="update"), Patch(facecolor="0.94", edgecolor="0.8", label="idle")]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    save_figure(figure, path)


def _draw_tasks(axis: Axes, tasks: Sequence[Task], unit: float) -> None:
    last = max(task.end for task in tasks)
    for stage in range(NUM_STAGES):
        axis.add_patch(Rectangle((0, stage - 0.42), last / unit, 0.84, facecolor="0.94", edgecolor="0.8"))
    for task in tasks:
        start, width = task.start / unit, (task.end - task.start) / unit
        box = Rectangle((start, task.stage - 0.42), width, 0.84, facecolor=_COLORS[task.kind], edgecolor="white")
        box.set_linewidth(0 if task.kind == UPDATE else 0.8)
        axis.add_patch(box)
        if task.kind != UPDATE:
            color = "white" if task.kind == BACKWARD else "#1b2631"
            where = (start + width / 2, task.stage)
            axis.text(*where, str(task.example + 1), ha="center", va="center", fontsize=8, color=color)


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m projects.cine.scaling.timeline", __doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("results/scaling"), metavar="FOLDER", help="of pipeline.png"
    )
    parser.add_argument(
        "--from", dest="scaling", type=Path, metavar="FILE", help="scaling.json; else a backward takes two forwards"
    )
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command ``python -m projects.cine.scaling.timeline``."""
    args = build_parser().parse_args(argv)
    greedy = backprop = {FORWARD: 1.0, BACKWARD: 2.0, UPDATE: 0.1}
    transfer_s = 0.0
    if args.scaling:
        try:
            module = json.loads(args.scaling.read_text())["measured"]
            forward, update, transfer_s = module["forward_s"], module["update_s"], module["transfer_s"]
            greedy = {FORWARD: forward, BACKWARD: module["loss_s"] + module["backward_s"], UPDATE: update}
            backprop = {FORWARD: forward, BACKWARD: module["through_s"], UPDATE: update}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{args.scaling}: found no measured times ({error}); make it with projects.cine.scaling"
            ) from None
    draw(greedy, backprop, args.output / "pipeline.png", transfer_s)
    print(f"written: {args.output / 'pipeline.png'}")


if __name__ == "__main__":
    main()
