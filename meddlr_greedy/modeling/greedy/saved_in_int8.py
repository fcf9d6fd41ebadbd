r"""Activations held for backward as integers of 8 bits.

What the layers of a regularizer keep for backward is rounded: each block of :data:`BLOCK` numbers to the multiples of
its largest magnitude over 127 (compare Chen et al., "ActNN", ICML 2021). Numbers keep their signs, and only zero
becomes zero: the smallest ones are rounded away from it. So a ReLU passes the gradient where it passed the image, and
in a network of convolutions and ReLUs the image has its exact gradient; that of the weights is the one of rounded
activations.
"""

import weakref
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set, Tuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from meddlr_greedy.modeling.regularizers.recomputed_input import rounding_what_is_kept

__all__ = ["BLOCK", "SavedInInt8", "told_what_is_held"]

#: Numbers with one scale.
BLOCK = 256
_LARGEST = 127
# What stands beside a tensor while it is rounded is that of a part of it.
_BLOCKS_AT_A_TIME = 2**14

#: Called with each tensor that is held here; what it returns is held beside it, as long.
_Observer = Callable[[torch.Tensor], Any]
_observers: List[_Observer] = []


@contextmanager
def told_what_is_held(observer: _Observer) -> Iterator[None]:
    """Inside the block, ``observer`` gets what is held here, which autograd's hooks around it do not see."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


class SavedInInt8:
    """A regularizer whose activations are held in 8 bits; parameters are held as they are.

    No module, so that the network's parameters keep their names.

    Args:
        run: Runs the regularizer: maps (B, channels, [T,] H, W) to the same shape.
        regularizer: The module.
    """

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], regularizer: nn.Module):
        self._run = run
        self._shapes = {p.shape for p in regularizer.parameters()}

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """(B, channels, [T,] H, W) to the same shape."""
        with saved_tensors_hooks(_Saved(self._shapes).pack, _unpack), rounding_what_is_kept():
            return self._run(image)


class _Rounded(NamedTuple):
    """The numbers of a tensor in the order of memory, rounded."""

    numbers: torch.Tensor  #: int8, (blocks, BLOCK)
    scales: torch.Tensor  #: float32, (blocks, 1)
    held: List[Any]  #: what observers returned

    @classmethod
    def of(cls, x: torch.Tensor) -> "_Rounded":
        flat = x.as_strided((x.numel(),), (1,))
        count = -(-x.numel() // BLOCK)
        numbers, scales = x.new_empty(count, BLOCK, dtype=torch.int8), x.new_empty(count, 1, dtype=torch.float32)
        parts = (whole.split(_BLOCKS_AT_A_TIME) for whole in (numbers, scales))
        for some, rounded, scale in zip(flat.split(_BLOCKS_AT_A_TIME * BLOCK), *parts):
            blocks = F.pad(some.float(), (0, -some.numel() % BLOCK)).view(-1, BLOCK)
            torch.div(blocks.abs().amax(dim=1, keepdim=True), _LARGEST, out=scale)
            multiples = (blocks / scale.clamp(min=torch.finfo(scale.dtype).tiny)).round_()
            rounded.copy_(torch.where(multiples == 0, blocks.sign(), multiples))
        return cls(numbers, scales, [observer(part) for observer in _observers for part in (numbers, scales)])


class _View(NamedTuple):
    """A tensor that was saved, as a view of rounded numbers."""

    rounded: _Rounded
    dtype: torch.dtype
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]

    def restored(self) -> torch.Tensor:
        numbers = self.rounded.numbers.to(torch.float32).mul_(self.rounded.scales).to(self.dtype)
        return numbers.as_strided(self.shape, self.strides)


class _Saved:
    """What is saved in one forward; numbers that several layers save are held once."""

    def __init__(self, shapes_of_parameters: Set[torch.Size]):
        self._shapes = shapes_of_parameters  # copies of them, in another precision, have these, too
        self._rounded: Dict[int, Tuple[Any, Any, _Rounded]] = {}  # by storage

    def pack(self, x: torch.Tensor) -> Any:
        if not x.is_floating_point() or x.shape in self._shapes or x.numel() < BLOCK:
            return x
        if not _is_dense(x):
            x = x.contiguous()
        return _View(self._rounded_once(x), x.dtype, tuple(x.shape), tuple(x.stride()))

    def _rounded_once(self, x: torch.Tensor) -> _Rounded:
        storage = x.untyped_storage()
        same = (x._version, x.storage_offset(), x.numel(), x.dtype)
        known = self._rounded.get(storage._cdata)
        if known is not None and known[0]() is storage and known[1] == same:
            return known[2]
        rounded = _Rounded.of(x)
        self._rounded[storage._cdata] = (weakref.ref(storage), same, rounded)
        return rounded


def _unpack(saved: Any) -> torch.Tensor:
    return saved.restored() if isinstance(saved, _View) else saved


def _is_dense(x: torch.Tensor) -> bool:
    """Whether the numbers of a tensor fill a piece of memory without gaps, each once."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
