"""The training step as a CUDA graph: forward and backward are recorded once and launched as one.

A step of a small network is thousands of kernels, each shorter than its launch from Python, and the GPU waits for the
host. A CUDA graph launches all of them at once. It computes on the memory of the recorded batch, so that there is one
for each form of batch (shapes, types), and what depends on values of the host cannot be in it: random layers, waits. Of
a network of one's own that is up to its author: numbers that numpy draws, or a buffer that forward puts another tensor
in the place of, would be those of the recorded batch for ever.
"""

import gc
import logging
from contextlib import contextmanager
from typing import Any, Callable, ContextManager, Dict, Hashable, Iterator, List, NamedTuple, Optional, Tuple

import torch

from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.errors import UserError, first_line
from meddlr_greedy.modeling.contract import inner_network
from meddlr_greedy.ops.devices import constants_kept

__all__ = ["CudaRecorder", "GraphedStep", "Recorder"]

logger = logging.getLogger(__name__)

_KEY = "MISC.GREEDY.RUN.CUDA_GRAPHS"
# Each holds the activations of a step.
_MOST_GRAPHS = 8
# What no network computes with: the names of scans.
_UNUSED = ("metadata",)


class Recorder:
    """Records functions on a device, for :class:`GraphedStep`."""

    def trial(self) -> ContextManager[None]:
        """A context in which what will be recorded runs before, so that libraries make what they keep."""
        raise NotImplementedError

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """What does on the device all that ``run()`` does there, each time it is called."""
        raise NotImplementedError

    def random_state(self) -> List[torch.Tensor]:
        """The states of the generators that ``run()`` may draw from."""
        raise NotImplementedError


class CudaRecorder(Recorder):
    """CUDA graphs of one device.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device):
        self._device = device

    @contextmanager
    def trial(self) -> Iterator[None]:
        """On a stream of its own, as it will be recorded."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream(self._device).wait_stream(stream)
        torch.cuda.synchronize(self._device)

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """A graph with memory of its own."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream(self._device)
            # Other threads copy the next batch, which is none of this graph.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                run()
        return graph.replay

    def random_state(self) -> List[torch.Tensor]:
        """Of the host and of the device."""
        return [torch.get_rng_state(), torch.cuda.get_rng_state(self._device)]


class GraphedStep(TrainingStep):
    """A training step whose forward and backward are a graph, see the module's text; the update is not in it.

    Each batch gives the bits of a plain step. Plain steps are those of iterations whose modules are observed
    (:meth:`observe`), since a graph has no modules to tell of, and of iterations that draw a picture (``VIS_PERIOD``).

    Args:
        model: See :class:`TrainingStep`.
        optimizer: See there.
        loss_computer: See there.
        run_seed: See there.
        recorder: Of the network's device; by default CUDA's.

    Raises:
        UserError: The network is on no GPU, draws random numbers for a batch, runs backwards, or accumulates gradients.
    """

    def __init__(
        self, model: torch.nn.Module, optimizer: Any, loss_computer: Any, run_seed: int = 0, recorder: Any = None
    ):
        super().__init__(model, optimizer, loss_computer, run_seed)
        device = next(model.parameters()).device
        if recorder is None and device.type != "cuda":
            raise UserError(f"{_KEY}: found True, but MODEL.DEVICE is '{device}'; allowed is False, or 'cuda'")
        if self.in_wrapper:
            raise UserError(
                f"{_KEY}: found True, but {type(model).__name__} (MODEL.META_ARCHITECTURE) draws for each batch;"
                " allowed is False"
            )
        if self.greedy is not None and self.greedy.unrolled.mode.inverts:
            raise UserError(
                f"{_KEY}: found True, but MISC.GREEDY.TRAINING is 'invertible', whose inverse asks the GPU whether it"
                " is done; allowed is False, or 'greedy'"
            )
        if hasattr(optimizer, "accumulation_iters"):
            raise UserError(
                f"{_KEY}: found True, but SOLVER.GRAD_ACCUM_ITERS is {optimizer.accumulation_iters}; allowed is False,"
                " or SOLVER.GRAD_ACCUM_ITERS 1"
            )
        self._recorder = recorder or CudaRecorder(device)
        self._graphs: Dict[Hashable, _Graph] = {}
        self._has_warned = False

    def gradients(self, inputs: Dict[str, Any], iteration: int) -> Dict[str, torch.Tensor]:
        """Launches the graph of batches of this form, which is recorded where there is none.

        Raises:
            UserError: What the step does cannot be recorded.
        """
        is_observed = self.greedy is not None and self.greedy.unrolled.is_observed
        if is_observed or self._draws(iteration):
            return super().gradients(inputs, iteration)
        inputs = {key: value for key, value in inputs.items() if key not in _UNUSED}
        form = _form(inputs)
        if form not in self._graphs and len(self._graphs) == _MOST_GRAPHS:
            if not self._has_warned:
                logger.warning("%s: batches of more than %d forms; the others have no graph", _KEY, _MOST_GRAPHS)
            self._has_warned = True
            return super().gradients(inputs, iteration)
        if form not in self._graphs:
            self._graphs[form] = self._recorded(inputs)
        return self._graphs[form].launch(inputs)

    def _draws(self, iteration: int) -> bool:
        period = getattr(inner_network(self.model), "vis_period", 0)
        return period > 0 and iteration % period == 0

    def seed(self, iteration: int) -> Optional[int]:  # noqa: ARG002 (an extension point)
        """None: nothing is drawn, and generators are not touched."""
        return None

    def _recorded(self, inputs: Dict[str, Any]) -> "_Graph":
        inputs = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        scalars: Dict[str, torch.Tensor] = {}

        def run() -> None:
            scalars.clear()
            scalars.update(super(GraphedStep, self).gradients(dict(inputs), 0))

        buffers = [b.clone() for b in self.model.buffers()]
        before = self._recorder.random_state()
        with self._recorder.trial():
            run()
        if not all(map(torch.equal, before, self._recorder.random_state())):
            raise UserError(
                f"{_KEY}: found True, but the network draws random numbers, which would be the same in each iteration;"
                " allowed is False, or MODEL.UNROLLED.DROPOUT 0"
            )
        # As before the trial; its gradients are let go of, so that the graph makes its own.
        for b, value in zip(self.model.buffers(), buffers):
            b.copy_(value)
        for p in parameters:
            p.grad = None
        scalars.clear()
        gc.collect()
        try:
            replay = self._recorder.record(run)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first: BaseException = error  # torch's last error says that there was one before
            while first.__context__ is not None:
                first = first.__context__
            raise UserError(f"{_KEY}: this step cannot be recorded ({first_line(first)}); allowed is False") from error
        tensors = {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}
        return _Graph(replay, tensors, [(p, p.grad) for p in parameters], scalars, constants_kept())


class _Graph(NamedTuple):
    """A recorded forward and backward, and the memory that it reads and writes."""

    replay: Callable[[], None]
    inputs: Dict[str, torch.Tensor]
    gradients: List[Tuple[torch.nn.Parameter, Optional[torch.Tensor]]]
    scalars: Dict[str, torch.Tensor]
    constants: List[torch.Tensor]  #: which it reads where they are

    def launch(self, inputs: Dict[str, Any]) -> Dict[str, torch.Tensor]:
        """Puts a batch where the recorded one was, and computes with it."""
        for key, value in self.inputs.items():
            value.copy_(inputs[key], non_blocking=True)
        self.replay()
        for p, gradient in self.gradients:
            p.grad = gradient
        return self.scalars


def _form(inputs: Dict[str, Any]) -> Hashable:
    """All that a graph depends on: shapes, types and order of memory of tensors, and the values of all else.

    Raises:
        UserError: A value cannot be told from others.
    """
    form: List[Hashable] = []
    for key, value in sorted(inputs.items()):
        if isinstance(value, torch.Tensor):
            form.append((key, tuple(value.shape), value.dtype, value.stride()))
            continue
        try:
            hash(value)
        except TypeError:
            raise UserError(
                f"{_KEY}: found True, but '{key}' of a batch is a {type(value).__name__}; allowed is False, or tensors"
                " and values that can be hashed"
            ) from None
        form.append((key, value))
    return tuple(form)
