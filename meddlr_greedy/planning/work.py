"""The time of a computation, predicted from the time of each kind of operation in it on this machine.

A training step runs the same operations on arguments of the same form again and again. Each kind is run alone on
tensors of its form, a few times; the prediction is the sum over all that the step runs. What Python does in between
does not count.
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, Hashable, List, NamedTuple, Tuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map

from meddlr_greedy.planning.outcomes import form

__all__ = ["Work", "seconds_of"]

# An operation is run until both are reached, but at most so often. The shortest run counts: others wait for something.
_LEAST_RUNS, _LEAST_SECONDS = 3, 0.01
_MOST_RUNS = 20

# Kind of operation, threads and device -> seconds.
_known: Dict[Tuple[Hashable, int, str], float] = {}


@dataclass(frozen=True)
class _Form:
    """Stands for a tensor in the arguments of an operation; see :func:`~meddlr_greedy.planning.outcomes.form`."""

    form: Tuple[Any, ...]


class _Operation(NamedTuple):
    function: Any
    args: Any  #: with _Form in the place of tensors
    kwargs: Any


class Work:
    """What a computation runs: kinds of operations, by function and forms of arguments, and how often."""

    def __init__(self) -> None:
        self.counts: Counter = Counter()
        self._operations: Dict[Hashable, _Operation] = {}

    def add(self, kind: Hashable, function: Any, args: Any, kwargs: Any) -> None:
        """Counts an operation; ``kind`` is a key for it and the forms of its arguments."""
        self.counts[kind] += 1
        if kind not in self._operations:
            without = tree_map(lambda x: _Form(form(x)) if isinstance(x, FakeTensor) else x, (args, kwargs))
            self._operations[kind] = _Operation(function, *without)

    def operations(self) -> List[Tuple[Hashable, _Operation]]:
        """Each kind once."""
        return list(self._operations.items())


def seconds_of(work: Work, device: str = "cpu") -> float:
    """Predicts how long a computation takes on this machine, with as many threads as torch has now.

    A kind of operation that was timed before is not timed again.
    """
    threads = torch.get_num_threads()
    for kind, operation in work.operations():
        if (kind, threads, device) not in _known:
            _known[kind, threads, device] = _seconds(operation, device)
    return sum(count * _known[kind, threads, device] for kind, count in work.counts.items())


def _seconds(operation: _Operation, device: str) -> float:
    runs: List[float] = []
    with torch.no_grad():
        while len(runs) < _LEAST_RUNS or (sum(runs) < _LEAST_SECONDS and len(runs) < _MOST_RUNS):
            # Made anew: in a training, too, arguments have just been written, by another operation.
            args, kwargs = _made_arguments(operation, device)
            start = _now(device)
            operation.function(*args, **kwargs)
            runs.append(_now(device) - start)
    return min(runs)


def _made_arguments(operation: _Operation, device: str) -> Any:
    return tree_map(
        lambda x: _made(x.form, device) if isinstance(x, _Form) else _on(device, x),
        (operation.args, operation.kwargs),
    )


def _on(device: str, x: Any) -> Any:
    """An argument on the device that is timed, where it names the one that the trace was made on."""
    return torch.device(device) if isinstance(x, torch.device) else x


def _made(of: Tuple[Any, ...], device: str) -> torch.Tensor:
    """A tensor of a form, whose values no operation takes longer for than for those of a training."""
    shape, strides, offset, dtype, is_conj, is_neg = of
    length = offset + 1 + sum((size - 1) * stride for size, stride in zip(shape, strides)) if 0 not in shape else offset
    is_number = dtype.is_floating_point or dtype.is_complex
    values = torch.full((length,), 0.5 if is_number else 0, dtype=dtype, device=device)
    tensor = values.as_strided(shape, strides, offset)
    tensor = torch._conj(tensor) if is_conj else tensor
    return torch._neg_view(tensor) if is_neg else tensor


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.thread_time()  # what other programs take does not count
    return time.perf_counter()
