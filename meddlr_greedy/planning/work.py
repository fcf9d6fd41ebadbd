"""The time of a computation, predicted from the time of each kind of operation in it on this machine.

A training step runs the same operations on arguments of the same form again and again. Each kind is run alone on
tensors of its form, a few times; the prediction is the sum over all that the step runs and, on a CPU, for each of its
calls, of views too, what is around an operation in Python and autograd.
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, Hashable, Iterable, List, NamedTuple, Tuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map

from meddlr_greedy.planning.outcomes import form

__all__ = ["Work", "now", "seconds_of", "time_operations"]

# So often an operation is run, but no more after so many seconds: what takes long is disturbed little. The shortest run
# counts: others wait for something.
_RUNS, _ENOUGH_SECONDS = 10, 0.2

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
    """What a computation runs: kinds of operations, by function and forms of arguments, and how often.

    Attributes:
        counts: How often each kind runs; views are none.
        calls: Of all operations, views included.
    """

    def __init__(self) -> None:
        self.counts: Counter = Counter()
        self.calls = 0
        self._operations: Dict[Hashable, _Operation] = {}

    def add(self, kind: Hashable, function: Any, args: Any, kwargs: Any) -> None:
        """Counts an operation; ``kind`` is a key for it and the forms of its arguments."""
        self.counts[kind] += 1
        if kind not in self._operations:
            without = tree_map(lambda x: _Form(form(x)) if isinstance(x, FakeTensor) else x, (args, kwargs))
            self._operations[kind] = _Operation(function, *without)

    def add_all(self, other: "Work") -> None:
        """Counts all operations of another computation."""
        self.counts.update(other.counts)
        self.calls += other.calls
        self._operations = {**other._operations, **self._operations}

    def operations(self) -> List[Tuple[Hashable, _Operation]]:
        """Each kind once."""
        return list(self._operations.items())


def seconds_of(work: Work, device: str = "cpu", around_call: float = 0.0) -> float:
    """Predicts how long a computation takes on this machine, with as many threads as torch has now.

    A kind of operation that was timed before is not timed again.

    Args:
        work: What is computed.
        device: Where.
        around_call: Seconds that pass around an operation, see :func:`~meddlr_greedy.planning.around.around_call`.
    """
    time_operations([work], device)
    threads = torch.get_num_threads()
    return work.calls * around_call + sum(n * _known[kind, threads, device] for kind, n in work.counts.items())


def time_operations(works: Iterable[Work], device: str = "cpu") -> None:
    """Times all kinds of operations of computations that are to be compared, and were not timed before.

    They run in turn, each once in a round, so that what disturbs the machine for a while disturbs all of them.
    """
    threads = torch.get_num_threads()
    kinds = {kind: operation for work in works for kind, operation in work.operations()}
    runs: Dict[Hashable, List[float]] = {kind: [] for kind in kinds if (kind, threads, device) not in _known}
    for _ in range(_RUNS):
        for kind, seconds in runs.items():
            if sum(seconds) < _ENOUGH_SECONDS:
                seconds.append(_seconds(kinds[kind], device))
    _known.update({(kind, threads, device): min(seconds) for kind, seconds in runs.items()})


@torch.no_grad()
def _seconds(operation: _Operation, device: str) -> float:
    # Made anew: in a training, too, arguments have just been written, by another operation.
    args, kwargs = _made_arguments(operation, device)
    start = now(device)
    operation.function(*args, **kwargs)
    return now(device) - start


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


def now(device: str) -> float:
    """Seconds of a clock that counts the work of a device: on a CPU with one thread, that of this thread alone."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.thread_time()  # what other programs take does not count
    return time.perf_counter()
