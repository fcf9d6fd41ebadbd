"""The memory and the operations of a computation, followed without computing anything.

Inside :func:`traced`, tensors have shapes and types but no values (torch's ``FakeTensorMode``), so a training step of
any size runs in seconds and in no memory, through the very code that trains.
"""

import weakref
from contextlib import contextmanager
from functools import cache
from typing import Any, Dict, Hashable, Iterator, List, Optional, Set, Tuple

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from meddlr_greedy.planning.outcomes import Outcome, described, form, learn, recall
from meddlr_greedy.planning.work import Work

__all__ = ["Trace", "traced"]

_aten = torch.ops.aten
_DEVICE = torch.ops.prim.device.default

#: The operations that are FFTs.
FFTS = (_aten._fft_c2c, _aten._fft_r2c, _aten._fft_c2r)
_MATRIX_PRODUCTS = (_aten.mm, _aten.addmm, _aten.addmm_, _aten.bmm, _aten.baddbmm, _aten.baddbmm_)

# Operation and forms of its arguments -> what it gives; None where that cannot be remembered.
_known: Dict[Hashable, Optional[Outcome]] = {}


class Trace(TorchDispatchMode):
    """Follows every storage that operations allocate, until it is freed.

    Values do not exist, so a question to them is answered here: a number is 1, ``all`` is ``answer_to_all``, and any
    other condition is false (conjugate gradients have not converged: they run to their last iteration).

    Args:
        like: A tensor without values, of the mode whose tensors are followed.
        block: Bytes that the allocator rounds up to.
        answer_to_all: The truth of ``x.all()``.
        on_cuda: Whether convolutions are cuDNN's, which copies what it convolves into an order of its own.

    Attributes:
        alive: Bytes allocated now.
        peak: Largest ``alive`` since :meth:`reset_peak`.
        operations: Floating point operations so far: 2 for each multiplication and addition of convolutions and matrix
            products, 5 n log2 n for an FFT of n points, and 1 for each number that any other operation writes.
        work: The operations so far.
    """

    def __init__(self, like: FakeTensor, block: int = 1, answer_to_all: bool = True, on_cuda: bool = False):
        super().__init__()
        self.like, self.block, self.answer_to_all, self.on_cuda = like, block, answer_to_all, on_cuda
        self.alive = self.peak = 0
        self.reset_work()
        self._bytes: Dict[int, int] = {}  # of each storage alive
        self._results_of_all: Set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; else torch wraps every call

    def rounded(self, num_bytes: int) -> int:
        """As many bytes as the allocator takes for so many."""
        return -(-num_bytes // self.block) * self.block

    def reset_peak(self) -> None:
        """Sets ``peak`` to what is allocated now."""
        self.peak = self.alive

    def reset_work(self) -> None:
        """Forgets the operations so far."""
        self.operations, self.work = 0.0, Work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        if func is _aten._local_scalar_dense.default:
            return self._answer(args[0])
        out, operations = self._run(func, args, kwargs or {})
        beside = _between_rolls(func, args, out) + (_copied_by_cudnn(func, args, out) if self.on_cuda else 0)
        self.peak = max(self.peak, self.alive + beside)
        if func.overloadpacket is _aten.all:
            self._results_of_all.add(_key(out))
        self.operations += operations
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Tuple[Any, float]:
        """What the operation gives, whose new storages are followed, and how many operations it counts for."""
        tensors: List[FakeTensor] = []
        key: Optional[Hashable] = None
        outcome: Optional[Outcome] = None
        try:
            key = (func, described(args, tensors), described(kwargs, tensors))
            outcome = _known.get(key)
        except TypeError:  # something in it is no key
            key = None
        self.work.calls += 1
        if key is not None and not _is_view(func):
            self.work.add(key, func, args, kwargs)
        if outcome is not None:
            out, new = recall(outcome, tensors, self.like)
            for made in new:
                self.follow(made)
            return out, outcome.operations
        forms = [form(tensor) for tensor in tensors]
        out = func(*args, **kwargs)
        found = [x for x in tree_flatten(out)[0] if isinstance(x, torch.Tensor)]
        for tensor in found:
            self.follow(tensor)
        operations = _operations(func, args, found)
        if key is not None:
            _known[key] = learn(tensors, forms, out, operations)
        return out, operations

    def _answer(self, scalar: torch.Tensor) -> Any:
        if scalar.dtype == torch.bool:
            return self.answer_to_all and _key(scalar) in self._results_of_all
        return 1.0 if scalar.dtype.is_floating_point else 1

    def follow(self, tensor: torch.Tensor) -> None:
        """Counts the storage of a tensor, if it is new, until it is freed."""
        key = _key(tensor)
        if key in self._bytes:  # a view, or written in place
            return
        storage = tensor.untyped_storage()
        self._bytes[key] = self.rounded(storage.nbytes())
        self.alive += self._bytes[key]
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.alive -= self._bytes.pop(key)
        self._results_of_all.discard(key)


def _key(tensor: torch.Tensor) -> int:
    """The address of the storage, unique as long as it lives."""
    return tensor.untyped_storage()._cdata


@contextmanager
def traced(block: int = 1, answer_to_all: bool = True, on_cuda: bool = False) -> Iterator[Trace]:
    """Inside the block, tensors have no values, and the :class:`Trace` follows their memory."""
    with FakeTensorMode():
        like: Any = torch.empty(0)
        with Trace(like, block, answer_to_all, on_cuda) as trace:
            yield trace


def _between_rolls(func: Any, args: Any, out: Any) -> int:
    """Bytes of what torch rolls along one axis before it rolls that along the next."""
    return out.numel() * out.itemsize if func.overloadpacket is _aten.roll and len(args[1]) > 1 else 0


def _copied_by_cudnn(func: Any, args: Any, out: Any) -> int:
    """Bytes of the copy that cuDNN makes for a convolution of float32 in the order of channels last, or its gradients.

    Some of its algorithms copy both input and output, some nothing; the larger of the two is in between.
    """
    packet = func.overloadpacket
    if packet is _aten.convolution:
        copied = (args[0], out)
    elif packet is _aten.convolution_backward:
        copied = (args[0], args[1])
    else:
        return 0
    if any(x.dtype != torch.float32 or x.is_contiguous() for x in copied):
        return 0
    return max(x.numel() * x.itemsize for x in copied)


def _operations(func: Any, args: Any, outputs: Any) -> float:
    packet = func.overloadpacket
    if packet is _aten.convolution:
        x, weight, transposed = args[0], args[1], args[6]
        return _convolution_operations(x if transposed else outputs[0], weight)
    if packet is _aten.convolution_backward:
        grad, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
        return (wanted[0] + wanted[1]) * _convolution_operations(x if transposed else grad, weight)
    if packet in _MATRIX_PRODUCTS:
        return 2.0 * outputs[0].numel() * args[-2].shape[-1]
    if packet in FFTS:
        x, dims = args[0], args[1]
        points = 1
        for dim in dims:
            points *= x.shape[dim]
        return 5.0 * x.numel() * max(points - 1, 1).bit_length()
    if _is_view(func):
        return 0.0
    return float(sum(x.numel() * (2 if x.is_complex() else 1) for x in outputs))


@cache
def _is_view(func: Any) -> bool:
    return any(result.alias_info is not None and not result.alias_info.is_write for result in func._schema.returns)


def _convolution_operations(pixels: torch.Tensor, weight: torch.Tensor) -> float:
    """Each number of ``pixels`` meets one filter: 2 operations for each of the filter's weights."""
    return 2.0 * pixels.numel() * weight[0].numel()
