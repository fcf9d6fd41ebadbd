"""The memory of a training step of a config, predicted without a GPU, data or computing.

The trainer's own step runs inside :func:`~meddlr_greedy.engine.trace.traced`: forward, losses, backward and update, as
in an iteration that has others before it (the old gradients and the optimizer's state are there). What an operation
needs for itself inside a library (workspaces of cuDNN) is not seen.
"""

import itertools
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from meddlr.config import CfgNode
from meddlr.utils.events import EventStorage

from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.engine.trace import Trace, traced
from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.greedy.modules import partition_steps
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled

__all__ = [
    "FEATURES",
    "STEPS",
    "Example",
    "Largest",
    "StepMemory",
    "TrainingStep",
    "alternatives",
    "largest",
    "plan_step",
    "with_modules",
    "with_value",
]

FEATURES = "MODEL.UNROLLED.NUM_FEATURES"
STEPS = "MODEL.UNROLLED.NUM_UNROLLED_STEPS"

# The caching allocator of CUDA gives memory in multiples of this.
_CUDA_BLOCK = 512


#: Shape and type of each tensor, without the batch axis.
Shapes = Dict[str, Tuple[Tuple[int, ...], torch.dtype]]


class Example(NamedTuple):
    """What is known of the examples of a data set without their values."""

    tensors: Shapes  #: of a training example
    evaluated: Shapes  #: of the same one in evaluation, where the readout is not cropped
    constant_along_readout: bool  #: whether the sampling mask is, which decides the form of the cine signal model

    @classmethod
    def of_data(cls, cfg: CfgNode) -> "Example":
        """The first training example, as the network gets it; the others are not read.

        Raises:
            UserError: the data are not there, or cannot be used.
        """
        example = whole = _first_example(cfg)
        if cfg.MISC.GREEDY.READOUT_CROP:
            uncropped = cfg.clone().defrost()
            uncropped.MISC.GREEDY.READOUT_CROP = 0
            whole = _first_example(uncropped.freeze())
        mask = example["mask"]
        return cls(_shapes(example), _shapes(whole), constant_along_readout=bool((mask == mask[:1]).all()))

    @classmethod
    def of_shape(cls, cfg: CfgNode, shape: Sequence[int], num_maps: int = 1) -> "Example":
        """An example with k-space of ``shape``, (H, W, T, C) for cine or (H, W, C), before READOUT_CROP.

        Raises:
            UserError: for another number of axes, or numbers that are not positive.
        """
        if len(shape) not in (3, 4) or min(*shape, num_maps) < 1:
            raise UserError(
                f"shape: found {tuple(shape)} with {num_maps} maps, allowed are positive numbers H,W,T,C for cine and"
                " H,W,C for 2D"
            )
        readout, *others = shape
        crop = cfg.MISC.GREEDY.READOUT_CROP
        cropped = [min(readout, crop), *others] if crop and len(shape) == 4 else shape
        return cls(
            _shapes_of_kspace(cfg, cropped, num_maps),
            _shapes_of_kspace(cfg, shape, num_maps),
            constant_along_readout=cfg.MISC.GREEDY.PARTIAL_ECHO == 0,
        )

    @property
    def is_cine(self) -> bool:
        return len(self.tensors["kspace"][0]) == 4

    def batch(
        self, size: int, make: Callable[..., torch.Tensor] = torch.empty, evaluated: bool = False
    ) -> Dict[str, torch.Tensor]:
        """A batch of ``size`` examples, of training or as evaluated: ``make(shape, dtype=...)`` for each tensor."""
        shapes = self.evaluated if evaluated else self.tensors
        return {key: make((size, *shape), dtype=dtype) for key, (shape, dtype) in shapes.items()}


def _first_example(cfg: CfgNode) -> Dict[str, Any]:
    return build_train_loader(cfg, max(cfg.SEED, 0)).dataset[(0, 0)]


def _shapes(example: Dict[str, Any]) -> Shapes:
    return {key: (tuple(x.shape), x.dtype) for key, x in example.items() if isinstance(x, torch.Tensor)}


def _shapes_of_kspace(cfg: CfgNode, shape: Sequence[int], num_maps: int) -> Shapes:
    *pixels, num_coils = shape
    frames = [1] * (len(pixels) - 2)
    shapes: Shapes = {
        "kspace": (tuple(shape), torch.complex64),
        "maps": ((*pixels[:2], *frames, num_coils, num_maps), torch.complex64),
        "mean": ((1,), torch.float32),
        "std": ((1,), torch.float32),
        "norm": ((), torch.float32),
        "edge_mask": ((*pixels, 1), torch.float32),
        # meddlr's, of 2D, tells the sampled points of every coil.
        "mask": ((*pixels, 1 if frames else num_coils), torch.float32),
    }
    if cfg.MISC.GREEDY.LOSS_LINES:
        shapes["loss_kspace"], shapes["loss_mask"] = shapes["kspace"], shapes["mask"]
    else:
        shapes["target"] = ((*pixels, num_maps), torch.complex64)
    return shapes


class StepMemory(NamedTuple):
    """What one training step needs, in bytes, and what it computes."""

    parameters: int  #: with buffers
    gradients: int  #: of the parameters, kept from one step to the next
    optimizer: int  #: its state
    batch: int  #: of this size on the network's device
    activations: Tuple[int, ...]  #: of each module, forward and backward: the peak above what was there as it began
    peak: int  #: of the whole step, everything included
    evaluation: int  #: the same of the network's forward in evaluation, with a batch of SOLVER.TEST_BATCH_SIZE
    operations: float  #: of the whole step, recomputation included; see :class:`~meddlr_greedy.engine.trace.Trace`

    def fits(self, budget: int) -> bool:
        return max(self.peak, self.evaluation) <= budget


class TrainingStep(GreedyTrainer):
    """The trainer's step on one batch again and again, without data, files and hooks.

    ``on_module`` is called as :attr:`GreedyUnrolled.on_module` is; of a network that is not trained greedily the whole
    step is the one module.
    """

    def __init__(self, cfg: CfgNode, batch: Dict[str, torch.Tensor]):
        self.cfg, self.iter, self.storage = cfg, 0, EventStorage(0)
        self.model = self.build_model(cfg).train()
        if cfg.MODEL.DEVICE != "cpu":  # where parameters are made; those without values cannot be moved
            self.model.to(cfg.MODEL.DEVICE)
        self.optimizer = self.build_optimizer(cfg, self.model)
        self.loss_computer = self.build_loss_computer(cfg)
        self._data_loader_iter = itertools.repeat(batch)
        self.on_module: Optional[Callable[[int, bool], None]] = None

    def run_step(self) -> None:
        whole = self.on_module
        if isinstance(self.model, GreedyUnrolled):
            self.model.on_module, whole = self.on_module, None
        with self.storage:
            if whole is not None:
                whole(0, True)
            super().run_step()
            if whole is not None:
                whole(0, False)

    def _next_batch(self) -> Dict[str, Any]:
        return dict(super()._next_batch())

    def _check_finite(self, values: Dict[str, float]) -> None:
        """The values of a made-up batch do not matter."""


class _PlannedStep(TrainingStep):
    """The step on tensors without values."""

    def _seed_of_batch(self) -> Any:
        return None  # what random layers draw does not matter

    def _read(self, scalars: Dict[str, torch.Tensor]) -> Dict[str, float]:
        return dict.fromkeys(scalars, 0.0)


# A plan is a function of config and example, and searches come back to some.
_plans: Dict[Tuple[str, str], StepMemory] = {}


def plan_step(cfg: CfgNode, example: Example) -> StepMemory:
    """What one training step of a config needs.

    For MODEL.DEVICE "cuda" the batch is copied to the device, the optimizer works on lists of tensors, and sizes are
    rounded up as CUDA's allocator does. meddlr's conjugate gradients, which stop early where they have converged, are
    planned at their last iteration.

    Raises:
        UserError: what is wrong with the config; or the network looks at the values of its data.
    """
    asked = (cfg.dump(), repr(example))
    if asked not in _plans:
        _plans[asked] = _plan(cfg, example)
    return _plans[asked]


def _plan(cfg: CfgNode, example: Example) -> StepMemory:
    on_cuda = cfg.MODEL.DEVICE.startswith("cuda")
    cfg = cfg.clone().defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.VIS_PERIOD = 0  # pictures are made on the host, now and then
    with traced(_CUDA_BLOCK if on_cuda else 1, example.constant_along_readout) as trace:
        try:
            return _planned(cfg.freeze(), example, on_cuda, trace)
        except (NotImplementedError, torch._subclasses.fake_tensor.DataDependentOutputException) as error:
            raise UserError(
                f"MODEL.META_ARCHITECTURE: {cfg.MODEL.META_ARCHITECTURE} cannot be planned, since what it does depends"
                f" on the values of its data ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            ) from error


def _planned(cfg: CfgNode, example: Example, on_cuda: bool, trace: Trace) -> StepMemory:
    batch = example.batch(cfg.SOLVER.TRAIN_BATCH_SIZE)
    batch_bytes = trace.alive
    on_host = batch_bytes if on_cuda else 0
    step = _PlannedStep(cfg, batch)
    _check_data(step.model, example)
    if on_cuda:
        # Stands for the copy to the device, which lives as long as the network needs it.
        step.model.register_forward_pre_hook(lambda _, args: ({key: x.clone() for key, x in args[0].items()},))
        for group in step.optimizer.param_groups:
            if "foreach" in group:
                group["foreach"] = True
    parameters = trace.alive - batch_bytes

    # As after an iteration: gradients and the optimizer's state are there.
    for p in step.model.parameters():
        p.grad = torch.empty_like(p) if p.requires_grad else None
    gradients = trace.alive - batch_bytes - parameters
    step.optimizer.step()
    optimizer = trace.alive - batch_bytes - parameters - gradients

    activations: Dict[int, int] = {}
    peaks: List[int] = []
    begun: List[int] = []

    def on_module(k: int, begins: bool) -> None:
        peaks.append(trace.peak)
        if begins:
            begun[:] = [trace.alive]
        else:
            activations[k] = trace.peak - begun[0]
        trace.reset_peak()

    step.on_module = on_module
    trace.reset_peak()
    trace.operations = 0.0
    step.run_step()
    peak, operations = max(*peaks, trace.peak) - on_host, trace.operations

    before = trace.alive
    batch = example.batch(cfg.SOLVER.TEST_BATCH_SIZE, evaluated=True)
    on_host += trace.alive - before if on_cuda else 0
    trace.reset_peak()
    step.model.eval()
    with torch.no_grad():
        step.model(batch)
    return StepMemory(
        parameters,
        gradients,
        optimizer,
        batch_bytes,
        tuple(activations[k] for k in sorted(activations)),
        peak,
        trace.peak - on_host,
        operations,
    )


def _check_data(model: Any, example: Example) -> None:
    takes_cine = getattr(getattr(model, "model", model), "kspace_axes", 4) == 5
    if takes_cine != example.is_cine:
        raise UserError(
            f"shape: found {example.tensors['kspace'][0]}, but the network takes"
            f" {'cine, H,W,T,C' if takes_cine else '2D, H,W,C'}"
        )


# ---- other configs of the same network

#: Keys that are for one number of modules, and need no memory in training.
_FOR_ANY_MODULES = {"NUM_INFERENCE_MODULES": 0, "LR_FACTORS": (), "LOSS_WEIGHTS": (), "CLIP_NORM": 0.0}


def with_value(cfg: CfgNode, key: str, value: int) -> CfgNode:
    """The config with another number of features, or of unrolled steps in modules of the same size.

    One module stays one: backpropagation.
    """
    new = cfg.clone().defrost()
    new.set_recursive(key, value)
    modules = _modules(cfg)
    if key == STEPS:
        if modules != 1:
            size = max(len(steps) for steps in partition_steps(cfg.get_recursive(STEPS), modules))
            new.MISC.GREEDY.NUM_MODULES = -(-value // size)
            new.MISC.GREEDY.update(_FOR_ANY_MODULES)
        new.MODEL.UNROLLED.STEP_SIZES = tuple(cfg.MODEL.UNROLLED.STEP_SIZES[:1])
    return new.freeze()


def with_modules(cfg: CfgNode, num_modules: int, checkpoint: bool) -> CfgNode:
    """The config with its network in ``num_modules`` modules; one module without checkpointing is backpropagation.

    An invertible network is trained without being run backwards.
    """
    new = cfg.clone().defrost()
    if new.MODEL.META_ARCHITECTURE != GreedyUnrolled.__name__:
        new.MISC.GREEDY.META_ARCHITECTURE = new.MODEL.META_ARCHITECTURE
        new.MODEL.META_ARCHITECTURE = GreedyUnrolled.__name__
    new.MISC.GREEDY.NUM_MODULES = num_modules
    new.MISC.GREEDY.update(_FOR_ANY_MODULES)
    new.MISC.GREEDY.CHECKPOINT = checkpoint
    new.MISC.GREEDY.TRAINING = "greedy"
    return new.freeze()


def alternatives(cfg: CfgNode) -> Dict[Tuple[int, bool], CfgNode]:
    """(modules, checkpointed) -> config: 1, 2, 4, ... and N modules of the N unrolled steps, each both ways.

    Without those that ``MISC.GREEDY.OVERLAP`` is too long for.
    """
    steps, overlap = cfg.get_recursive(STEPS), cfg.MISC.GREEDY.OVERLAP
    counts = {steps, *itertools.takewhile(lambda k: k < steps, (2**i for i in itertools.count()))}
    counts = {k for k in counts if k == 1 or min(map(len, partition_steps(steps, k)[:-1])) >= overlap}
    return {(k, again): with_modules(cfg, k, again) for k in sorted(counts) for again in (False, True)}


def _modules(cfg: CfgNode) -> Any:
    """NUM_MODULES of a greedy config, 1 of another."""
    is_greedy = cfg.MODEL.META_ARCHITECTURE == GreedyUnrolled.__name__
    return cfg.MISC.GREEDY.NUM_MODULES if is_greedy else 1


class Largest(NamedTuple):
    """The largest value of a key whose training step fits; 0 if none does."""

    value: int
    memory: Optional[StepMemory]
    is_bound: bool  #: the largest that was tried: more might fit


def largest(cfg: CfgNode, example: Example, budget: int, key: str, bound: int) -> Largest:
    """The largest value of ``key`` with which training and evaluation stay within a budget.

    Args:
        cfg: The config; everything but ``key`` is kept (and the steps of a module, not the number of modules).
        example: A training example.
        budget: Bytes.
        key: :data:`FEATURES` or :data:`STEPS`.
        bound: The largest value to try.

    Returns:
        The value, and what its step needs.
    """
    plans: Dict[int, StepMemory] = {}

    def fits(value: int) -> bool:
        plans[value] = plan_step(with_value(cfg, key, value), example)
        return plans[value].fits(budget)

    low, high = 0, min(cfg.get_recursive(key), bound)
    while fits(high):
        if high == bound:
            return Largest(high, plans[high], is_bound=True)
        low, high = high, min(4 * high, bound)
    by_line = True
    while high - low > 1:
        # Memory grows about linearly between two plans; halving in turn closes the interval from both sides.
        middle = (low + high) // 2
        if by_line and low:
            below, above = plans[low].peak, plans[high].peak
            middle = low + int((high - low) * (budget - below) / max(above - below, 1))
            middle = min(max(middle, low + 1), high - 1)
        low, high = (middle, high) if fits(middle) else (low, middle)
        by_line = not by_line
    return Largest(low, plans.get(low), is_bound=False)
