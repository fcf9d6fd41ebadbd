"""Training steps in this process: against the CPU, their time and memory, and what they wait for."""

import functools
import gc
import statistics
import warnings
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import torch
from meddlr.config import CfgNode
from meddlr.modeling import build_model
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from meddlr_greedy.engine.graphed_step import GraphedStep
from meddlr_greedy.engine.step import StepOnBatch
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.ops.devices import to_device
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import plan_step
from projects.cine.benchmarks.gpu.line import Found, NotRunError, Setting
from projects.cine.support.measuring import interleave, make_batch, make_cfg, measured_peak, ratio
from projects.cine.support.synchronizations import counted_on_fake_gpu, step_on_fake_gpu
from projects.cine.support.tables import ratio_as_text

__all__ = ["agreement", "convolutions", "full_size", "graphs", "kernels", "synchronizations", "variants"]

_STEP_SIZES = {"MODEL.UNROLLED.STEP_SIZES": (0.5,)}
_AMP, _CHECKPOINT = {"MISC.GREEDY.AMP": "bf16"}, {"MISC.GREEDY.CHECKPOINT": True}
_CHANNELS: Mapping[str, Any] = {"MISC.GREEDY.CHANNEL_MULTIPLE": 8}
#: Networks that are compared with the CPU: architecture, and keys that are set.
_NETWORKS: Dict[str, Tuple[str, Mapping[str, Any]]] = {
    "2D": ("GeneralizedUnrolledCNN", {}),
    "cine": ("CineUnrolledCNN", {}),
    "cine CG": ("CGCineUnrolledCNN", _STEP_SIZES),
    "cine, temporal frequency": ("CineUnrolledCNN", {"MODEL.UNROLLED.BLOCK_ARCHITECTURE": "TemporalFrequencyResNet"}),
    "cine, checkpointed": ("CineUnrolledCNN", _CHECKPOINT),
    "cine, bfloat16": ("CineUnrolledCNN", _AMP),
}
_MEDIAN, _MEDIAN_TF32 = 1e-3, 3e-2  # of the relative differences of gradients
_MOST_SYNCHRONIZATIONS = 2
_ROUNDS = 3
#: Words in the names of kernels -> what they do; the first that fits.
_KERNELS = {
    "Fourier transforms": ("fft",),
    "convolutions and matrix products": ("conv", "gemm", "cudnn", "cutlass", "xmma", "wgrad", "dgrad"),
    "copies": ("copy", "memcpy", "memset", "cat"),
}


def _cfg(setting: Setting, arch: str, modules: int, keys: Mapping[str, Any], steps: int, features: int) -> CfgNode:
    cfg = make_cfg(setting.device, arch, steps, features, modules).clone().defrost()
    cfg.SOLVER.TRAIN_BATCH_SIZE = 1
    for key, value in keys.items():
        cfg.set_recursive(key, value)
    return cfg.freeze()


def _large(setting: Setting, modules: int, keys: Mapping[str, Any] = MappingProxyType({})) -> Tuple[CfgNode, Example]:
    """A network of a size that is trained, and data of that size."""
    steps, features, shape = (3, 8, (24, 20, 6, 3)) if setting.small else (8, 64, (200, 180, 20, 10))
    cfg = _cfg(setting, "CineUnrolledCNN", min(modules, steps), keys, steps, features)
    return cfg, Example.from_shape(cfg, shape)


def _batch(example: Example) -> Dict[str, Any]:
    """A batch of ones, with what the loader says of its mask."""
    return {**example.batch(1, torch.ones), "constant_along_readout": example.constant_along_readout}


def _step(cfg: CfgNode, example: Example) -> StepOnBatch:
    return StepOnBatch.from_config(cfg, batch=_batch(example))


class _TF32:
    """Inside the block, convolutions and matrix products may, or may not, round to TF32."""

    def __init__(self, allowed: bool):
        self._allowed = allowed

    def __enter__(self) -> None:
        self._before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self._allowed

    def __exit__(self, *error: Any) -> None:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = self._before


def agreement(setting: Setting) -> Iterator[Found]:
    """Gradients against those of the CPU; without TF32 they are to be equal but for rounding."""
    for name, (arch, keys) in _NETWORKS.items():
        for modules in (1, 4):
            expected = _gradients("cpu", _cfg(setting, arch, modules, keys, 4, 8))
            for allowed in (False, True):
                setting.seconds_left  # noqa: B018 (raises where the time is over)
                with _TF32(allowed):
                    cfg = _cfg(setting, arch, modules, keys, 4, 8)
                    found, again = (_gradients(setting.device, cfg) for _ in range(2))
                errors = sorted(((x - y).norm() / y.norm().clamp(min=1e-12)).item() for x, y in zip(found, expected))
                median, same = errors[len(errors) // 2], all(map(torch.equal, found, again))
                rounds = allowed or keys is _AMP
                yield Found(
                    f"{name}, modules {modules}, TF32 {'on' if allowed else 'off'}",
                    f"median {median:.1e}, most {errors[-1]:.1e}; the same bits twice: {'yes' if same else 'no'}",
                    median <= (_MEDIAN_TF32 if rounds else _MEDIAN),
                )


def _gradients(device: str, cfg: CfgNode) -> List[torch.Tensor]:
    torch.manual_seed(0)
    model = build_model(cfg).to(device).train()
    is_cine = "Cine" in str(cfg.MODEL.META_ARCHITECTURE) or "Cine" in str(cfg.MISC.GREEDY.META_ARCHITECTURE)
    batch = make_batch(device, (24, 20, 12) if is_cine else (24, 20), num_coils=3)
    complex_l1(model(batch)["pred"], batch["target"]).backward()
    return [p.grad.detach().cpu() for p in model.parameters() if p.grad is not None]


def synchronizations(setting: Setting) -> Iterator[Found]:
    """How often a step waits for the device: counted without one, and, on a GPU, by torch."""
    with counted_on_fake_gpu() as counted:
        cfg, example = _large(setting, 8)
        places = step_on_fake_gpu(cfg, example, counted)
    yield Found("counted without a GPU", _listed(places), sum(places.values()) <= _MOST_SYNCHRONIZATIONS)
    if not setting.on_gpu:
        raise NotRunError("torch counts on a GPU alone")
    step = _step(*_large(setting, 8))
    step.run()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            step.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{Path(warning.filename).name}:{warning.lineno}" for warning in warned if "synchroniz" in str(warning.message)
    )
    yield Found("counted by torch", _listed(places), sum(places.values()) <= _MOST_SYNCHRONIZATIONS)


def _listed(places: Mapping[str, int]) -> str:
    return f"{sum(places.values())}: " + ", ".join(f"{place} ({count})" for place, count in places.items())


def variants(setting: Setting) -> Iterator[Found]:
    """Time and peak memory of a step, as measured and as planned."""
    cases: Tuple[Tuple[str, int, Mapping[str, Any], bool], ...] = (
        ("backpropagation", 1, {}, False),
        ("backpropagation, TF32", 1, {}, True),
        ("backpropagation, TF32, checkpointed", 1, _CHECKPOINT, True),
        ("backpropagation, bfloat16", 1, _AMP, True),
        ("2 modules, TF32", 2, {}, True),
        ("8 modules, TF32", 8, {}, True),
        ("8 modules, bfloat16", 8, _AMP, True),
        ("8 modules, TF32, channels in multiples of 8", 8, _CHANNELS, True),
        ("8 modules, bfloat16, channels in multiples of 8", 8, {**_AMP, **_CHANNELS}, True),
    )
    yield from _measured(setting, [(name, *_large(setting, n, keys), tf32) for name, n, keys, tf32 in cases])


def full_size(setting: Setting) -> Iterator[Found]:
    """A deep network at the size of a scan, where backpropagation wants a hundred gigabytes."""
    steps, features, shape = (4, 8, (24, 20, 6, 3)) if setting.small else (34, 64, (224, 160, 20, 8))
    rows = shape[0] // 4
    cfgs = {
        name: _cfg(setting, "CineUnrolledCNN", modules, keys, steps, features)
        for name, modules, keys in (
            ("greedy", steps, {}),
            ("greedy, bfloat16", steps, _AMP),
            ("greedy, blocks checkpointed", steps, {"MISC.GREEDY.CHECKPOINT": "block"}),
            ("backpropagation, checkpointed", 1, _CHECKPOINT),
            ("backpropagation, bfloat16", 1, _AMP),
            ("backpropagation", 1, {}),
            (f"greedy, tiles of {rows} rows", steps, {"MISC.GREEDY.TILE": (rows, 0)}),
        )
    }
    yield from _measured(
        setting, [(f"{name}, TF32", cfg, Example.from_shape(cfg, shape), True) for name, cfg in cfgs.items()]
    )


def _measured(setting: Setting, cases: List[Tuple[str, CfgNode, Example, bool]]) -> Iterator[Found]:
    """Time and peak of steps: name, config, example, and whether TF32 is allowed.

    They are planned meanwhile, in a process of its own.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        plans = [pool.submit(_planned_peak, cfg, example) for _, cfg, example, _ in cases]
        try:
            for (name, cfg, example, tf32), plan in zip(cases, plans):
                setting.seconds_left  # noqa: B018 (raises where the time is over)
                try:
                    milliseconds, measured = _time_and_peak(setting, cfg, example, tf32)
                except torch.cuda.OutOfMemoryError:
                    yield Found(
                        name, f"more memory than the GPU has; planned {_waited_for(plan, setting) / 1e6:.0f} MB"
                    )
                    continue
                planned = _waited_for(plan, setting)
                yield Found(
                    name,
                    f"{milliseconds:.1f} ms; peak {measured / 1e6:.0f} MB, planned {planned / 1e6:.0f} MB"
                    f" ({planned / measured:.2f} of it)",
                )
        finally:
            pool.shutdown(cancel_futures=True)


def _time_and_peak(setting: Setting, cfg: CfgNode, example: Example, tf32: bool) -> Tuple[float, int]:
    """Milliseconds of a step, and its peak in bytes."""
    if setting.on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
    with _TF32(tf32):
        peak = measured_peak(cfg, example)
        step = _step(cfg, example)
        return 1e3 * statistics.median(interleave({"": step.run}, _ROUNDS, warmup=1)[""]), peak


def _waited_for(plan: "Future[int]", setting: Setting) -> int:
    try:
        return plan.result(setting.seconds_left)
    except TimeoutError:
        raise NotRunError("the plan takes longer than this part may") from None


def _planned_peak(cfg: CfgNode, example: Example) -> int:
    return plan_step(cfg, example).peak


def graphs(setting: Setting) -> Iterator[Found]:
    """Small steps, whose kernels are shorter than their launches, and the same steps as CUDA graphs."""
    if not setting.on_gpu:
        raise NotRunError("no GPU")
    for name, arch, keys, shape in (
        ("2D", "GeneralizedUnrolledCNN", {}, (160, 160, 8)),
        ("2D CG", "CGUnrolledCNN", _STEP_SIZES, (160, 160, 8)),
        ("cine", "CineUnrolledCNN", {}, (96, 96, 12, 8)),
        ("cine CG", "CGCineUnrolledCNN", _STEP_SIZES, (96, 96, 12, 8)),
        ("cine, bfloat16", "CineUnrolledCNN", _AMP, (96, 96, 12, 8)),
    ):
        cfg = _cfg(setting, arch, 4, keys, 4, 32)
        example = Example.from_shape(cfg, shape)
        runs = {"plain": _step(cfg, example).run}
        graphed = GraphedStep.from_config(cfg)
        runs["graph"] = functools.partial(graphed, to_device(_batch(example), torch.device(setting.device)))
        times = {side: statistics.median(seconds) for side, seconds in interleave(runs, 10, warmup=3).items()}
        yield Found(
            f"{name}, 4 modules",
            f"{1e3 * times['plain']:.1f} ms; as a graph {1e3 * times['graph']:.1f} ms,"
            f" {times['plain'] / times['graph']:.1f} times as fast",
        )


class _Convolutions(TorchDispatchMode):
    """Notes the arguments of each convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.found: List[Tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            forms = tuple((tuple(x.shape), x.stride(), x.dtype) for x in args[:2])
            self.found.append((forms, *args[3:]))
        return func(*args, **(kwargs or {}))


def convolutions(setting: Setting) -> Iterator[Found]:
    """The step against its convolutions but those that are matrix products, forward and backward, and nothing else."""
    for name, keys in {"backpropagation": {}, "backpropagation, bfloat16": _AMP}.items():
        step = _step(*_large(setting, 1, keys))
        step.run()
        with _Convolutions() as noted:
            step.run()
        replay = _Replay(noted.found, setting.device)
        times = interleave({"step": step.run, "convolutions": replay.run}, _ROUNDS, warmup=2)
        found, alone = ratio(times["step"], times["convolutions"]), statistics.median(times["convolutions"])
        yield Found(
            name,
            f"{ratio_as_text(found, 2)} times its {len(noted.found)} convolutions, which take {1e3 * alone:.1f} ms",
        )


class _Replay:
    """Convolutions by themselves: those that were noted, on random numbers."""

    def __init__(self, noted: List[Tuple[Any, ...]], device: str):
        self._noted = noted
        self._tensors = {
            forms: tuple(
                torch.empty_strided(shape, stride, dtype=dtype, device=device).normal_().requires_grad_()
                for shape, stride, dtype in forms
            )
            for forms in {forms for forms, *_ in noted}
        }

    def run(self) -> None:
        """Forward and backward of each."""
        for forms, *options in self._noted:
            x, weight = self._tensors[forms]
            out = torch.ops.aten.convolution(x, weight, None, *options)
            torch.autograd.grad(out, (x, weight), torch.ones_like(out))


def kernels(setting: Setting) -> Iterator[Found]:
    """What the GPU is busy with in a step."""
    if not setting.on_gpu:
        raise NotRunError("no GPU")
    step = _step(*_large(setting, 8))
    step.run()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        step.run()
        torch.cuda.synchronize()
    events = [event for event in recorded.events() if str(event.device_type).endswith("CUDA")]
    busy: Counter[str] = Counter()
    for event in events:
        kind = next((k for k, words in _KERNELS.items() if any(w in event.name.lower() for w in words)), "others")
        busy[kind] += event.time_range.elapsed_us() / 1e3
    yield Found("kernels of a step", f"{len(events)}, busy for {sum(busy.values()):.1f} ms")
    for kind, milliseconds in busy.most_common():
        yield Found(kind, f"{milliseconds:.1f} ms")
