"""The memory of a training step of a config, predicted without a GPU, data or computing.

The trainer's own step runs inside :func:`~meddlr_greedy.planning.trace.traced`: forward, losses, backward and update,
as in an iteration that has others before it (the old gradients and the optimizer's state are there). What an operation
needs for itself inside a library (work areas of cuFFT, workspaces of cuDNN) is not seen; for CUDA, the first of them is
estimated by :func:`work_area_of_ffts`.
"""

import math
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from meddlr.config import CfgNode

from meddlr_greedy.engine.moving_averages import average_weights
from meddlr_greedy.engine.step import StepOnBatch
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.contract import inner_network, traits_of
from meddlr_greedy.modeling.parts import Part
from meddlr_greedy.ops.devices import standing_for
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.known_operators import operators_followed_once
from meddlr_greedy.planning.trace import Trace, traced
from meddlr_greedy.planning.work import Work
from meddlr_greedy.planning.wrapped import PlannedDraws, largest_batch

__all__ = ["StepMemory", "plan_step", "work_area_of_ffts"]


# The caching allocator of CUDA gives memory in multiples of this.
_CUDA_BLOCK = 512


class StepMemory(NamedTuple):
    """What one training step needs, in bytes, and what it computes."""

    parameters: int  #: with buffers
    gradients: int  #: of the parameters, kept from one step to the next
    optimizer: int  #: its state
    batch: int  #: of this size on the network's device
    activations: Tuple[int, ...]  #: of each module, forward and backward: the peak above what was there as it began
    peak: int  #: of the whole step, everything included
    evaluation: int  #: the same of the network's forward in evaluation, with a batch of SOLVER.TEST_BATCH_SIZE
    operations: float  #: of the whole step, recomputation included; see :class:`~meddlr_greedy.planning.trace.Trace`
    work: Work  #: of the whole step, for :func:`~meddlr_greedy.planning.work.seconds_of`
    averages: int = 0  #: of the weights (MISC.GREEDY.EMA)
    copied_ahead: int = 0  #: of the peak: the next batch, which a trainer copies to a GPU during the step

    def as_numbers(self) -> Dict[str, Any]:
        """All but the work, by name."""
        return {name: value for name, value in self._asdict().items() if name != "work"}

    @property
    def largest(self) -> int:
        """The larger peak of training and evaluation."""
        return max(self.peak, self.evaluation)

    def fits(self, budget: int) -> bool:
        """Whether training and evaluation stay within ``budget`` bytes."""
        return self.largest <= budget


class _PlannedStep(StepOnBatch):
    """The step on tensors without values."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.in_wrapper:
            self.draws = PlannedDraws(self.loss_computer.use_consistency)

    def parts(self, inputs: Dict[str, Any], iteration: int) -> Dict[str, Part]:  # noqa: ARG002 (an extension point)
        return self.draws.parts(self.model, inputs)

    def seed(self, iteration: int) -> Optional[int]:  # noqa: ARG002 (an extension point)
        return None  # what random layers draw does not matter

    def read(self, scalars: Dict[str, torch.Tensor]) -> Dict[str, float]:
        return dict.fromkeys(scalars, 0.0)


# A plan is a function of config and example, and searches come back to some.
_plans: Dict[Tuple[str, str], StepMemory] = {}


def plan_step(cfg: CfgNode, example: Example) -> StepMemory:
    """Predicts what one training step of a config needs; the same question is answered from memory.

    For MODEL.DEVICE "cuda" the next batch is there, too, the optimizer's kernels are fused, cuDNN copies what it
    convolves, and sizes are rounded up as CUDA's allocator does. meddlr's conjugate gradients, which stop early where
    they have converged, are planned at their last iteration.

    Raises:
        UserError: The config is wrong, or what the network does depends on the values of its data.
    """
    asked = (cfg.dump(), repr(example))
    if asked not in _plans:
        _plans[asked] = _plan(cfg, example)
    return _plans[asked]


def _plan(cfg: CfgNode, example: Example) -> StepMemory:
    device = torch.device(cfg.MODEL.DEVICE)
    on_cuda = device.type == "cuda"
    cfg = cfg.clone().defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.VIS_PERIOD = 0  # pictures are made on the host, now and then
    with (
        standing_for(device),
        traced(_CUDA_BLOCK if on_cuda else 1, example.constant_along_readout, on_cuda) as trace,
        operators_followed_once(trace),
    ):
        try:
            return _planned(cfg.freeze(), example, on_cuda, trace)
        except (NotImplementedError, torch._subclasses.fake_tensor.DataDependentOutputException) as error:
            raise UserError(
                f"MODEL.META_ARCHITECTURE: {cfg.MODEL.META_ARCHITECTURE} cannot be planned, since what it does depends"
                f" on the values of its data ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            ) from error


def _planned(cfg: CfgNode, example: Example, on_cuda: bool, trace: Trace) -> StepMemory:
    batch = largest_batch(cfg, example.batch(cfg.SOLVER.TRAIN_BATCH_SIZE))
    batch_bytes = trace.alive
    copied_ahead = batch_bytes if on_cuda else 0
    step = _PlannedStep.from_config(cfg, batch=batch)
    _check_data(step.model, example)
    if on_cuda:
        for group in step.optimizer.param_groups:
            if "fused" in group:
                group["fused"] = True
    parameters = trace.alive - batch_bytes

    average_weights(step.model, step.optimizer, cfg.MISC.GREEDY.EMA)
    averages = trace.alive - batch_bytes - parameters

    # As after an iteration: gradients and the optimizer's state are there.
    for p in step.model.parameters():
        p.grad = torch.empty_like(p) if p.requires_grad else None
    gradients = trace.alive - batch_bytes - parameters - averages
    step.optimizer.step()
    optimizer = trace.alive - batch_bytes - parameters - averages - gradients

    activations: Dict[int, int] = {}
    peaks: List[int] = []
    begun: List[int] = []

    def observe(k: int, begins: bool) -> None:
        peaks.append(trace.peak)
        if begins:
            begun[:] = [trace.alive]
        else:
            activations[k] = trace.peak - begun[0]
        trace.reset_peak()

    trace.reset_peak()
    trace.reset_work()
    with step.observe(observe):
        step.run()
    peak, operations, work = max(*peaks, trace.peak) + copied_ahead, trace.operations, trace.work
    trace.reset_work()
    evaluation = _evaluation(
        step.greedy or step.model, example.batch(cfg.SOLVER.TEST_BATCH_SIZE, evaluated=True), trace
    )
    return StepMemory(
        parameters,
        gradients,
        optimizer,
        batch_bytes,
        tuple(activations[k] for k in sorted(activations)),
        peak,
        evaluation,
        operations,
        work,
        averages,
        copied_ahead,
    )


def _evaluation(model: Any, batch: Dict[str, torch.Tensor], trace: Trace) -> int:
    """Peak of the forward in evaluation; a batch of the training stays there."""
    trace.reset_peak()
    model.eval()
    with torch.no_grad():
        model(batch)
    return trace.peak


def work_area_of_ffts(cfg: CfgNode, example: Example) -> int:
    """Bytes that cuFFT may need beside a training step: about as many as the largest array that it transforms has.

    That is what its planner asks for where an axis does not fit into one kernel, and less elsewhere; it is freed right
    after each transform.
    """
    shape, dtype = example.tensors["kspace"]
    return cfg.SOLVER.TRAIN_BATCH_SIZE * math.prod(shape) * dtype.itemsize


def _check_data(model: Any, example: Example) -> None:
    takes_cine = traits_of(inner_network(model)).is_cine
    if takes_cine != example.is_cine:
        raise UserError(
            f"shape: found {example.tensors['kspace'][0]}, but the network takes"
            f" {'cine, H,W,T,C' if takes_cine else '2D, H,W,C'}"
        )
