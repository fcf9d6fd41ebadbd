"""Measures what greedy learning and the cine operators buy, as ratios inside one run.

All sides of a comparison run in turn, in random order, on the same tensors; a ratio is taken round by round and quoted
as median with its 95 % bootstrap interval. Writes <output>/<command>.json and prints a table.

Example::

    python -m projects.cine.benchmark memory --output results/benchmark
    python -m projects.cine.benchmark plan   --output results/benchmark
    python -m projects.cine.benchmark step   --output results/benchmark --threads 2
    python -m projects.cine.benchmark timing --output results/benchmark
    python -m projects.cine.benchmark all    --output results/benchmark    # 20 minutes
    python -m projects.cine.benchmark parts  --output results/benchmark --threads 2
    python -m projects.cine.benchmark loader --output results/benchmark
    python -m projects.cine.benchmark reconstruct --output results/benchmark    # 3 GB of temporary files
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import h5py
import numpy as np
import torch
from matplotlib.figure import Figure
from meddlr.config import get_cfg
from meddlr.forward import SenseModel
from meddlr.modeling import build_loss_computer, build_model
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from sigpy.mri.app import EspiritCalib
from tabulate import tabulate
from torch import nn

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.data.catalog import register_datasets
from meddlr_greedy.data.loader import ExampleLoader
from meddlr_greedy.data.seeding import seed_transform
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from meddlr_greedy.engine.launch import check_device
from meddlr_greedy.engine.memory import keep_freed_memory
from meddlr_greedy.errors import exit_with_one_line
from meddlr_greedy.files import written_atomically
from meddlr_greedy.modeling.regularizers.spatiotemporal import (
    SpatioTemporalConv,
    SpatioTemporalResBlock,
    SpatioTemporalResNet,
)
from meddlr_greedy.ops.acquisition import acquire, coil_sensitivities
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.espirit import espirit_maps
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import plan_step
from meddlr_greedy.preparation.phantom import beating_heart
from projects.cine.measuring import (
    Batch,
    Step,
    held_megabytes,
    interleave,
    make_batch,
    make_cfg,
    measured_peak,
    ratio,
    run_in_turn,
    versions,
    write_example_scan,
)
from projects.cine.pipeline_runner import METHODS, NETWORK, SIDES, TimedStep, TimingCase, run_side
from projects.cine.tables import in_words, insert_table, write_json

RECIPE = Path(__file__).parents[2] / "configs" / "cine" / "dl_espirit.yaml"


# ---- the sides of a comparison


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


def forward_backward(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Step:
    leaf = x.clone().requires_grad_()
    return lambda: function(leaf).abs().sum().backward()


class StockConv(nn.Module):
    """The (2+1)D convolution written with two Conv3d."""

    def __init__(self, conv: SpatioTemporalConv):
        super().__init__()
        mid, c_in, k, _ = conv.spatial.weight.shape
        self.spatial = nn.Conv3d(c_in, mid, (1, k, k), padding=(0, k // 2, k // 2))
        self.temporal = nn.Conv3d(
            mid, conv.temporal.weight.shape[0], (k, 1, 1), padding=(k // 2, 0, 0), padding_mode="circular"
        )
        self.spatial.load_state_dict({"weight": conv.spatial.weight[:, :, None], "bias": conv.spatial.bias})
        self.temporal.load_state_dict({"weight": conv.temporal.weight[..., None], "bias": conv.temporal.bias})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.temporal(torch.relu_(self.spatial(x)))


def with_conv3d(module: nn.Module) -> nn.Module:
    """The same (2+1)D block or network, its convolutions replaced by :class:`StockConv`."""
    for child in module.modules():
        for name, part in list(child.named_children()):
            if isinstance(part, SpatioTemporalConv):
                setattr(child, name, StockConv(part))
    return module


class StockCine(GeneralizedUnrolledCNN):
    """A cine network from stock parts: meddlr's SenseModel on (B, H, W, T, C), Conv3d."""

    def reg(self, *, image: torch.Tensor, model: nn.Module, dims: Any) -> torch.Tensor:
        x = torch.view_as_real(image)
        num_batch, height, width, frames, num_maps, _ = x.shape
        x = model(x.reshape(num_batch, height, width, frames, 2 * num_maps).permute(0, 4, 3, 1, 2))
        x = x.permute(0, 3, 4, 2, 1).reshape(num_batch, height, width, frames, num_maps, 2)
        return torch.view_as_complex(x.contiguous())


# ---- measuring


_PEAK_AFTER_EACH = """
import json, resource, sys
from meddlr_greedy import reconstruct

peaks = []
for path in sys.argv[4:]:
    reconstruct.main(["--config-file", sys.argv[1], "--weights", sys.argv[2], "--output", sys.argv[3], path])
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(json.dumps(peaks))
"""


def peaks_of_reconstruct(config: Path, weights: Path, output: Path, paths: Sequence[Path]) -> List[int]:
    """Peak resident bytes of a process of its own, after each of the scans that it reconstructs in turn."""
    command = [sys.executable, "-c", _PEAK_AFTER_EACH, *map(str, (config, weights, output, *paths))]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_acquired(path: Path, num_slices: int, shape: Sequence[int], num_coils: int) -> None:
    """A scan of noise without target, every fourth line sampled; ``shape`` is (H, W, T)."""
    batch = make_batch("cpu", shape, num_coils)
    with h5py.File(path, "w") as file:
        for name in ("kspace", "maps"):
            values = batch[name].numpy()
            data = file.create_dataset(name, (num_slices, *values.shape[1:]), np.complex64)
            for s in range(num_slices):
                data[s] = values[0]


# ---- the commands

# Networks and k-space of one example that `plan` measures.
PLANNED = [
    ("GeneralizedUnrolledCNN", (96, 96, 4)),
    ("CGUnrolledCNN", (96, 96, 4)),
    ("CineUnrolledCNN", (64, 48, 12, 4)),
    ("CGCineUnrolledCNN", (64, 48, 12, 4)),
]


def memory(args: argparse.Namespace) -> Dict[str, Any]:
    """Bytes held for backward against the number of modules: 2D and cine, 32 features."""
    rows = []
    cases = {"2D": ("GeneralizedUnrolledCNN", (96, 96)), "cine": ("CineUnrolledCNN", (64, 48, 12))}
    for kind, (arch, shape) in cases.items():
        batch = make_batch(args.device, shape, num_coils=4)
        end_to_end = held_megabytes(make_cfg(args.device, arch, 8, 32, 1), batch)
        for steps, modules in ((8, 1), (8, 2), (8, 4), (8, 8), (16, 16)):
            held = held_megabytes(make_cfg(args.device, arch, steps, 32, modules), batch)
            fewer = end_to_end / held if steps == 8 else None
            rows.append({"network": kind, "steps": steps, "modules": modules, "held_mb": held, "times_fewer": fewer})
    return {"rows": rows}


def plan(args: argparse.Namespace) -> Dict[str, Any]:
    """Peak memory of a training step, as planned and as measured: 4 steps, 32 features, 2D and cine, PGD and CG."""
    rows = []
    for arch, shape in PLANNED:
        for modules in (0, 2, 4):
            cfg = make_cfg(args.device, arch, 4, 32, modules).clone().defrost()
            if "CG" in arch:
                cfg.MODEL.UNROLLED.STEP_SIZES = (0.1,)
                cfg.MODEL.UNROLLED.DC.EPS = 0.0  # so that meddlr's runs all of its iterations, as planned
            cfg.SOLVER.TRAIN_BATCH_SIZE = 1
            example = Example.of_shape(cfg.freeze(), shape)
            planned, measured = plan_step(cfg, example).peak, measured_peak(cfg, example)
            rows.append(
                {
                    "network": arch,
                    "modules": modules or "backpropagation",
                    "planned_mb": planned / 1e6,
                    "measured_mb": measured / 1e6,
                    "planned/measured": planned / measured,
                }
            )
    return {"rows": rows}


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
            cfg.MISC.GREEDY = type(cfg)(asdict(GreedyConfig.from_cfg(cfg)))
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


def parts(args: argparse.Namespace) -> Dict[str, Any]:
    """The cine parts against the same from stock parts."""
    device = args.device
    rows = []

    def compare(name: str, ours: Step, stock: Step, rounds: int, **extra: float) -> None:
        seconds = interleave({"ours": ours, "stock": stock}, args.rounds or rounds)
        rows.append({"part": name, **ratio(seconds["stock"], seconds["ours"]), **extra})

    batch = make_batch(device, (64, 160, 20), num_coils=8)
    image = batch["target"]
    A, sense = CineSenseModel(batch["maps"], batch["mask"]), SenseModel(batch["maps"], weights=batch["mask"])

    def stock_normal(x: torch.Tensor) -> torch.Tensor:
        return sense(sense(x), adjoint=True)

    error = ((A.normal(image) - stock_normal(image)).norm() / stock_normal(image).norm()).item()
    compare(
        "A^H A, (1, 64, 160, 20, 8)",
        forward_backward(A.normal, image),
        forward_backward(stock_normal, image),
        rounds=30,
        relative_difference=error,
    )

    block = SpatioTemporalResBlock(16).to(device)
    stock_block = with_conv3d(copy.deepcopy(block))
    x = torch.randn(1, 16, 20, 64, 96, device=device)
    # Each side in the layout it is fast in.
    x_ours = x.contiguous(memory_format=torch.channels_last_3d)
    error = ((block(x_ours) - stock_block(x)).norm() / stock_block(x).norm()).item()
    compare(
        "(2+1)D block, 16 features, (20, 64, 96)",
        forward_backward(block, x_ours),
        forward_backward(stock_block, x),
        rounds=15,
        relative_difference=error,
    )

    rng = np.random.default_rng(0)
    size = (256, 256)
    kspace = acquire(beating_heart(size, 1, 0.5, rng), coil_sensitivities(size, 8, rng), size, 0.01, rng)[:, 0]
    on_device = torch.from_numpy(kspace).to(device)

    def stock_maps() -> np.ndarray:
        return EspiritCalib(kspace, calib_width=20, crop=0, show_pbar=False).run()

    ours_maps, theirs = espirit_maps(kspace, crop=0)[..., 0], stock_maps().transpose(1, 2, 0)
    # What of ours lies outside the direction of theirs: ESPIRiT leaves the phase free.
    outside = ours_maps - theirs * (theirs.conj() * ours_maps).sum(-1, keepdims=True)
    compare(
        "ESPIRiT, one map set, (8, 256, 256)",
        lambda: espirit_maps(on_device, crop=0),
        stock_maps,
        rounds=10,
        relative_difference=float(np.linalg.norm(outside) / np.linalg.norm(ours_maps)),
    )

    small = make_batch(device, (64, 96, 12), num_coils=8)
    cfg = make_cfg(device, "CineUnrolledCNN", 2, 16)
    network = build_model(cfg)
    blocks = nn.ModuleList(SpatioTemporalResNet(cfg) for _ in range(2))
    blocks.load_state_dict(network.resnets.state_dict())
    stock = StockCine(with_conv3d(blocks), step_sizes=-2.0).to(device)
    network.to(device).eval(), stock.eval()
    with torch.no_grad():
        ours_pred = network(small)["pred"]
        stock_pred = stock({**small, "kspace": small["kspace"].clone()})["pred"]
    error = ((ours_pred - stock_pred).norm() / stock_pred.norm()).item()
    compare(
        "cine training step, 2 unrolled steps, 16 features, (64, 96, 12, 8)",
        training_step(cfg, network, small),
        training_step(cfg, stock, small, loss="BasicLossComputer"),
        rounds=10,
        relative_difference=error,
    )
    return {"rows": rows}


#: H, W, T and C of the example that `loader` measures with.
LOADER_SHAPE = (224, 160, 20, 8)

# What `loader` measures: overrides of configs/cine/dl_espirit.yaml.
LOADER_CASES = {
    "DL-ESPIRiT recipe": [],
    "without the readout crop": ["MISC.GREEDY.READOUT_CROP", "0"],
    "and scaled by all frames": ["MISC.GREEDY.READOUT_CROP", "0", "MODEL.NORMALIZER.NAME", "TopMagnitudeNormalizer"],
}


def loader(args: argparse.Namespace) -> Dict[str, Any]:
    """Making an example against reading it, with 2 map sets; examples/s by workers.

    The file is in the page cache. Reading and making use one thread, as in a worker.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_example_scan(Path(folder) / "loader", LOADER_SHAPE, num_maps=2)
        register_datasets(Path(folder))

        def build(case: str, workers: int = 0) -> ExampleLoader:
            opts = ["MODEL.DEVICE", args.device, "DATASETS.TRAIN", "('loader_train',)", *LOADER_CASES[case]]
            opts += ["DATALOADER.NUM_WORKERS", str(workers)]
            return build_train_loader(load_config(str(RECIPE), opts), seed=0)

        def read() -> Dict[str, np.ndarray]:
            with h5py.File(path, "r") as file:
                return {key: file[key][0] for key in file}

        example = {**read(), "fname": path.stem, "slice_id": 0, "is_fixed": False}

        def transform(case: str) -> Step:
            dataset = build(case).dataset.dataset
            seed_transform(dataset.transform, 0)
            return lambda: dataset.transform(**example)

        seconds = interleave({"read": read, **{case: transform(case) for case in LOADER_CASES}}, args.rounds or 30)
        rows = []
        for case in LOADER_CASES:
            row = {"example": case, **{f"{k} to reading": v for k, v in ratio(seconds[case], seconds["read"]).items()}}
            for workers in (0, 1, 2):
                row[f"examples/s, {workers} workers"] = examples_per_second(build(case, workers), args.rounds or 30)
            rows.append(row)
        register_datasets()
    return {"shape": LOADER_SHAPE, "read_s": float(np.median(seconds["read"])), "rows": rows}


def examples_per_second(batches: ExampleLoader, count: int) -> float:
    """Examples that a loader of one example a batch gives in a second, once its workers run."""
    iterator = iter(batches)
    for _ in range(2 * batches.num_workers * (batches.prefetch_factor or 1) + 2):
        next(iterator)
    start = time.perf_counter()
    for _ in range(count):
        next(iterator)
    return count / (time.perf_counter() - start)


def reconstruct(args: argparse.Namespace) -> Dict[str, Any]:
    """Peak memory of reconstructing exams of 4 and of 64 slices, each in a process of its own."""
    shape, num_coils = (224, 160, 20), 8
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, scan = folder / "config.yaml", folder / "scan.h5"
        base = Path(__file__).parents[2] / "configs" / "cine" / "greedy.yaml"
        config.write_text(f"_BASE_: {base}\nMODEL: {{DEVICE: {args.device}, UNROLLED: {{NUM_FEATURES: 8}}}}\n")
        GreedyCheckpointer(build_model(load_config(str(config))), str(folder)).save("model")
        for num_slices in (4, 64):
            write_acquired(scan, num_slices, shape, num_coils)
            (peak,) = peaks_of_reconstruct(config, folder / "model.pth", folder, [scan])
            size = scan.stat().st_size / 1e6
            rows.append({"slices": num_slices, "file_mb": size, "peak_mb": peak / 1e6})
    return {"shape": [*shape, num_coils], "rows": rows}


COMMANDS = {**{f.__name__: f for f in (memory, plan, step, timing, parts, loader, reconstruct)}, "all": methods}


@exit_with_one_line
def main(argv: Sequence[str]) -> None:
    parser = CommandParser("python -m projects.cine.benchmark", __doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--output", type=Path, default=Path("results/benchmark"), help="folder of the JSON files")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 keeps torch's choice")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each comparison; 0 keeps each one's own")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="also put the table between its marks in FILE")
    args = parser.parse_args(argv)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = args.device
    check_device(cfg)
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()  # as in a training run
    torch.manual_seed(0)

    result = {**COMMANDS[args.command](args), "versions": versions(args.device)}
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{args.command}.json"
    write_json(path, result)
    table = tabulate(result["rows"], headers="keys", floatfmt=".3g", tablefmt="github")
    print(table)
    print(f"written: {path}")
    if args.readme:
        insert_table(args.readme, args.command, f"{table}\n\n{in_words(result['versions'])}.")


if __name__ == "__main__":
    main(sys.argv[1:])
