r"""Predicts how training spreads over 1 to 64 devices: greedy pipelines, backprop pipelines, data parallelism.

Measured on the machine at hand, with all its cores (or GPUs) busy: forward F, local loss L, backward B and update U of
a module of a cine network for one example; B', the backward that also gives the gradient of the module's input, which
backpropagation needs of all modules but the first; the time c of the batch from one process to the next. From these,
for K modules on D devices, of which p = min(D, K) form a pipeline and R = D / p such pipelines are replicas:

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
import contextlib
import json
import os
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

import numpy as np
import torch
import torch.distributed as dist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from meddlr.config import get_cfg
from meddlr.modeling import build_model
from tabulate import tabulate

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.engine.launch import check_device
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.files import written_atomically
from meddlr_greedy.jobs.environment import in_job
from meddlr_greedy.jobs.job import Job
from meddlr_greedy.jobs.launch import launch
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.parallel.channel import Message, Receiver, Sender
from meddlr_greedy.parallel.partition import balanced_partition
from meddlr_greedy.parallel.trainer import choose_backend
from projects.cine.measuring import Batch, held_megabytes, make_batch, make_cfg, versions
from projects.cine.pipeline_runner import NETWORK, chain_throughput
from projects.cine.tables import in_words, insert_table, write_json

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


# ---- the model


@dataclass(frozen=True)
class Measured:
    """One module for one example, and the way to the next process; seconds and bytes.

    Attributes:
        forward_s: F.
        loss_s: L.
        backward_s: B, of the parameters.
        through_s: B', of the parameters and the input image.
        update_s: U.
        prepare_first_s: What the first stage does with a batch before its modules.
        prepare_later_s: The same for the stages that receive it.
        latency_s: Time of an empty message.
        transfer_s: c, time of the whole message.
        message_bytes: Size of what a greedy stage hands on.
        image_bytes: Size of the image in it.
        gradient_bytes: Size of the parameters of a module.
        activation_bytes: What is held for the backward of a module.
    """

    forward_s: float
    loss_s: float
    backward_s: float
    through_s: float
    update_s: float
    prepare_first_s: float
    prepare_later_s: float
    latency_s: float
    transfer_s: float
    message_bytes: int
    image_bytes: int
    gradient_bytes: int
    activation_bytes: int

    @property
    def bytes_per_s(self) -> float:
        return self.message_bytes / max(self.transfer_s - self.latency_s, 1e-9)

    @property
    def image_transfer_s(self) -> float:
        """c': the time of the gradient of an image."""
        return self.latency_s + self.image_bytes / self.bytes_per_s

    def all_reduce_s(self, num_bytes: float, num: int) -> float:
        """a_R: averaging ``num_bytes`` over ``num`` processes in a ring."""
        return 2 * (num - 1) * (self.latency_s + num_bytes / (num * self.bytes_per_s))

    def prepare_s(self, num_stages: int) -> List[float]:
        return [self.prepare_first_s] + [self.prepare_later_s] * (num_stages - 1)


def greedy_throughput(stages: Sequence[float], transfer_s: float) -> float:
    """Examples per second of a greedy pipeline in steady state; ``stages``: seconds of each."""
    return 1 / max(*stages, transfer_s)


def backprop_throughput(
    forward: Sequence[float],
    backward: Sequence[float],
    micro_batches: int,
    update_s: float = 0.0,
    transfer_s: float = 0.0,
    gradient_transfer_s: float = 0.0,
) -> float:
    """Examples per second of GPipe and 1F1B; ``forward``, ``backward``: seconds of each stage for a micro-batch."""
    both = [f + b for f, b in zip(forward, backward)]
    hops = (len(both) - 1) * (transfer_s + gradient_transfer_s)
    return micro_batches / (sum(both) + (micro_batches - 1) * max(*both, transfer_s) + hops + update_s)


def data_parallel_throughput(
    forward_s: float, backward_s: float, update_s: float, num_replicas: int, all_reduce_s: float
) -> float:
    """Examples per second of ``num_replicas`` devices with the whole network each."""
    return num_replicas / (forward_s + max(backward_s, all_reduce_s) + update_s)


@dataclass(frozen=True)
class Prediction:
    """
    Attributes:
        way: Name of the way of training.
        modules: K.
        devices: D = ``stages`` x replicas.
        stages: p.
        examples_per_update: Size of the mini-batch.
        examples_per_s: Throughput.
        speedup: Throughput over that of backpropagation on one device.
        efficiency: ``speedup`` / D.
        held_mb: MB held on the fullest device.
    """

    way: str
    modules: int
    devices: int
    stages: int
    examples_per_update: int
    examples_per_s: float
    speedup: float
    efficiency: float
    held_mb: float


GREEDY, DATA_PARALLEL = "greedy", "data parallel"
#: Name of the micro-batches m -> m for p stages; GPipe calls 4 p enough for its bubbles to matter little.
MICRO_BATCHES = {"m = 1": lambda p: 1, "m = 8": lambda p: 8, "m = 4p": lambda p: 4 * p}


def predict(measured: Measured, modules: int, devices: int) -> List[Prediction]:
    """Predictions of all ways to train K = ``modules`` on D = ``devices``.

    Raises:
        ValueError: where D is more than K and no multiple of it.
    """
    replicas, rest = divmod(devices, min(devices, modules))
    if rest:
        raise ValueError(f"{devices} devices are no multiple of {modules} modules")
    num_stages = devices // replicas
    of_one = _backprop(measured, modules, 1, 1, 1).throughput
    made = {(GREEDY, replicas): _greedy(measured, modules, num_stages, replicas)}
    for name, count in MICRO_BATCHES.items():
        m = count(num_stages)
        both = _backprop(measured, modules, num_stages, replicas, m)
        for schedule, held in (("GPipe", both.held_gpipe), ("1F1B", both.held_1f1b)):
            made[f"{schedule}, {name}", m * replicas] = (both.throughput, held)
    made[DATA_PARALLEL, devices] = _data_parallel(measured, modules, devices)
    return [
        Prediction(
            way=way,
            modules=modules,
            devices=devices,
            stages=1 if way == DATA_PARALLEL else num_stages,
            examples_per_update=examples,
            examples_per_s=throughput,
            speedup=throughput / of_one,
            efficiency=throughput / of_one / devices,
            held_mb=held / 1e6,
        )
        for (way, examples), (throughput, held) in made.items()
    ]


def _greedy(measured: Measured, modules: int, num_stages: int, replicas: int) -> Any:
    of_module = measured.forward_s + measured.loss_s + measured.backward_s + measured.update_s
    prepare = measured.prepare_s(num_stages)
    sizes = balanced_partition([prepare[0] + of_module] + [of_module] * (modules - 1), num_stages)
    stages = [
        before + size * of_module + measured.all_reduce_s(size * measured.gradient_bytes, replicas)
        for before, size in zip(prepare, sizes)
    ]
    neighbours = min(num_stages - 1, 2)
    in_flight = neighbours * GreedyConfig().BATCHES_IN_FLIGHT * measured.message_bytes
    transfer = measured.transfer_s if num_stages > 1 else 0.0
    return replicas * greedy_throughput(stages, transfer), measured.activation_bytes + in_flight


@dataclass(frozen=True)
class _Backprop:
    throughput: float
    held_gpipe: float
    held_1f1b: float


def _backprop(measured: Measured, modules: int, num_stages: int, replicas: int, micro_batches: int) -> _Backprop:
    backward_of = [measured.backward_s] + [measured.through_s] * (modules - 1)
    backward_of[-1] += measured.loss_s
    sizes = balanced_partition([measured.forward_s + b for b in backward_of], num_stages)
    firsts = np.cumsum([0, *sizes])
    forward = [before + size * measured.forward_s for before, size in zip(measured.prepare_s(num_stages), sizes)]
    backward = [sum(backward_of[first : first + size]) for first, size in zip(firsts, sizes)]
    update = max(
        size * measured.update_s + measured.all_reduce_s(size * measured.gradient_bytes, replicas) for size in sizes
    )
    throughput = backprop_throughput(
        forward, backward, micro_batches, update, measured.transfer_s, measured.image_transfer_s
    )
    held = [size * measured.activation_bytes for size in sizes]
    # Stage s of 1F1B is ahead of its backwards by as many micro-batches as stages follow it, and one.
    held_1f1b = max(min(micro_batches, num_stages - s) * of_stage for s, of_stage in enumerate(held))
    held_gpipe = micro_batches * max(held) if num_stages > 1 else max(held)
    return _Backprop(replicas * throughput, held_gpipe, held_1f1b)


def _data_parallel(measured: Measured, modules: int, devices: int) -> Any:
    throughput = data_parallel_throughput(
        measured.prepare_first_s + modules * measured.forward_s,
        measured.loss_s + measured.backward_s + (modules - 1) * measured.through_s,
        modules * measured.update_s,
        devices,
        measured.all_reduce_s(modules * measured.gradient_bytes, devices),
    )
    return throughput, modules * measured.activation_bytes


# ---- measuring, in several processes


class Stopwatch:
    """Collects the seconds of named blocks."""

    def __init__(self, device: str):
        self._synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
        self.seconds: Dict[str, List[float]] = defaultdict(list)

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        self._synchronize()
        start = time.perf_counter()
        yield
        self._synchronize()
        self.seconds[name].append(time.perf_counter() - start)


def measure_modules(model: GreedyUnrolled, batch: Batch, device: str, seconds: float) -> Dict[str, float]:
    """Mean seconds of the parts of a training step, worked through again and again for ``seconds``."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    watch = Stopwatch(device)
    is_warm, start = False, time.perf_counter()
    while True:
        with watch.of("prepare_first_s"):
            problem = model.prepare(batch)
        image = problem.image
        handed_on = problem.handed_on(image)
        with watch.of("prepare_later_s"):
            model.prepare(handed_on)
        for k, parameters in enumerate(model.module_parameters()):
            leaf = image.detach().requires_grad_()
            reached = model.run_module(k, leaf, problem)
            ones = torch.ones_like(reached)
            with watch.of("through_s"):
                torch.autograd.grad(reached, [leaf, *parameters], ones)
            del reached
            image = image.detach()
            with watch.of("forward_s"):
                image = model.run_module(k, image, problem)
            with watch.of("loss_s"):
                outputs = {"pred": image, "target": problem.target, "signal_model": problem.A}
                loss = model.local_loss(problem.inputs, outputs)
            with watch.of("backward_s"):
                gradients = torch.autograd.grad(loss, parameters)
            image = image.detach()
            for p, gradient in zip(parameters, gradients):
                p.grad = gradient
            del loss, outputs, gradients
        with watch.of("update_s"):
            optimizer.step()
            optimizer.zero_grad()
        if not is_warm:  # the first round makes the optimizer's state, and more
            is_warm, start = True, time.perf_counter()
            watch.seconds.clear()
        elif time.perf_counter() - start > seconds:
            break
    means = {name: float(np.mean(values)) for name, values in watch.seconds.items()}
    means["update_s"] /= model.num_modules
    return means


def measure_transfer(job: Job, message: Message, device: str, stage_on_cpu: bool, count: int = 50) -> float:
    """Seconds of each of many messages in a row from process 0 to 1, as process 1 sees it; 0 elsewhere."""
    options = {"depth": GreedyConfig().BATCHES_IN_FLIGHT, "device": torch.device(device), "stage_on_cpu": stage_on_cpu}
    if job.rank == 0:
        sender = Sender(1, **options)
        for _ in range(count + 5):
            sender.put(message)
        sender.close()
    if job.rank != 1:
        return 0.0
    receiver = Receiver(0, **options)
    for _ in range(5):
        receiver.get()
    start = time.perf_counter()
    for _ in range(count):
        receiver.get()
    seconds = (time.perf_counter() - start) / count
    receiver.get()  # the end: only then may another channel take its place
    return seconds


def measure(device: str, seconds: float) -> Measured:
    """What the model needs, in each of the processes of this job."""
    job = Job.current()
    backend = choose_backend(device)
    job.init_process_group(backend)
    own_device = True
    if device.startswith("cuda"):
        torch.cuda.set_device(job.local_rank % torch.cuda.device_count())
        own_device = job.local_rank < torch.cuda.device_count()
    cfg = make_cfg(device, "CineUnrolledCNN", NETWORK["modules"], NETWORK["features"], NETWORK["modules"])
    batch = make_batch(device, NETWORK["shape"], NETWORK["num_coils"])
    held_mb = held_megabytes(cfg, batch)
    model: Any = build_model(cfg).to(device).train()
    # From here on side by side: cores share caches and memory, so a busy neighbour is part of what is measured.
    dist.barrier()
    means = measure_modules(model, batch, device, seconds) if own_device else None
    dist.barrier()
    handed_on = model.prepare(batch).handed_on(batch["target"])
    message = {key: value for key, value in handed_on.items() if isinstance(value, torch.Tensor)}
    stage_on_cpu = backend == "gloo"
    transfers = [measure_transfer(job, m, device, stage_on_cpu) for m in ({}, message)]
    of_all: List[Any] = [None] * job.world_size
    dist.all_gather_object(of_all, {"means": means, "transfers": transfers})
    of_busy = [of_one["means"] for of_one in of_all if of_one["means"]]
    latency_s, transfer_s = of_all[1]["transfers"]
    measured = Measured(
        **{name: float(np.mean([of_one[name] for of_one in of_busy])) for name in of_busy[0]},
        latency_s=latency_s,
        transfer_s=transfer_s,
        message_bytes=sum(tensor.nbytes for tensor in message.values()),
        image_bytes=batch["target"].nbytes,
        gradient_bytes=sum(p.nbytes for p in model.parameters()) // model.num_modules,
        activation_bytes=int(held_mb * 10**6),
    )
    job.finish()
    return measured


# ---- showing


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
        "(thick grey: D times; shaded: more devices than modules, so replicas of the pipeline)",
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


# ---- the command


@exit_with_one_line
def main(argv: Sequence[str]) -> None:
    parser = CommandParser("python -m projects.cine.scaling", __doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("results/scaling"), help="folder of the JSON file and figure"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument(
        "--processes", type=int, default=0, help="that measure side by side; 0: as many as keep all busy"
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
    parser.add_argument("--readme", type=Path, metavar="FILE", help="also put the table between its marks in FILE")
    args = parser.parse_args(argv)
    if args.processes == 1:
        raise UserError("--processes: found 1, allowed are 2 (what a transfer needs) and more, or 0")
    path = args.output / "scaling.json"
    if in_job():
        _measure_in_job(args, path)
        return
    cfg = get_cfg()
    cfg.MODEL.DEVICE = args.device
    check_device(cfg)
    if args.check and args.earlier:
        raise UserError("--check: not allowed with --from, since both sides must be measured in turn")
    args.output.mkdir(parents=True, exist_ok=True)
    results, checks = [], []
    for _ in range(max(1, args.check)):
        results.append(_read(args.earlier) if args.earlier else _measure_in_processes(args, argv, path))
        if args.check:
            checks.append(_check(Measured(**results[-1]["measured"]), args.device, args.threads))
    result = results[-1]
    result["measured"] = {
        name: type(value)(np.median([r["measured"][name] for r in results]))
        for name, value in result["measured"].items()
    }
    measured = Measured(**result["measured"])
    predictions = [p for k in MODULES for d in DEVICES for p in predict(measured, k, d)]
    result.update(assumptions=ASSUMPTIONS, predictions=[asdict(p) for p in predictions])
    draw(predictions, args.output / "scaling.png")
    table = table_of(predictions)
    print(f"{table}\n\nTimes the throughput of backpropagation on one device.")
    print("\n".join(ASSUMPTIONS))
    if checks:
        result["check"] = {"rounds": checks, "ratio": float(np.median([check["ratio"] for check in checks]))}
        print(f"predicted / measured, the median of {args.check}: {result['check']['ratio']:.3f}")
    write_json(path, result)
    print(f"written: {path}, {args.output / 'scaling.png'}")
    if args.readme:
        described = in_words(result["versions"])
        insert_table(args.readme, "scaling", f"{table}\n\n{' '.join(ASSUMPTIONS)} {described}.")


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
    main(sys.argv[1:])
