"""Memory of a training step: bytes that autograd keeps for backward, and what happens to freed memory."""

import ctypes
import weakref
from typing import Any, Iterable

import torch

from meddlr_greedy.modeling.greedy.saved_in_int8 import told_what_is_held

__all__ = ["HeldForBackward", "keep_freed_memory"]

# Parameters of glibc's mallopt(3), and the largest values that it takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_INT, _LARGEST_MMAP_THRESHOLD = 2**31 - 1, 32 * 2**20


def keep_freed_memory() -> bool:
    """Has this process keep freed host memory for its next allocation, where the C library is glibc.

    By default glibc gives activations back to the system at the end of every step (of greedy training: of every
    module), and each step faults all of their pages in again: a quarter of the time of a small cine network on a CPU.

    Returns:
        Whether the C library took it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
    return bool(kept and mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD))


class HeldForBackward(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of the tensors saved for backward inside a ``with`` block, each storage once.

    ``peak_bytes`` is the largest sum alive at one time: what a module frees before the next begins counts once.
    Tensors given as ``exclude`` (parameters, the batch) are held anyway and do not count.
    """

    def __init__(self, exclude: Iterable[torch.Tensor] = ()):
        self._excluded = {t.untyped_storage().data_ptr() for t in exclude}
        self._references: dict = {}
        self._bytes = 0
        self.peak_bytes = 0
        self._told = told_what_is_held(self._pack)
        super().__init__(self._pack, lambda held: held.tensor)

    def __enter__(self) -> "HeldForBackward":  # type: ignore[override]
        super().__enter__()
        self._told.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._told.__exit__(*exception)
        super().__exit__(*exception)

    def reset_peak(self) -> None:
        """Sets ``peak_bytes`` to what is held now."""
        self.peak_bytes = self._bytes

    def _pack(self, tensor: torch.Tensor) -> "_Held":
        held = _Held(tensor)
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key not in self._excluded:
            if key not in self._references:
                self._references[key] = 0
                self._bytes += storage.nbytes()
                self.peak_bytes = max(self.peak_bytes, self._bytes)
            self._references[key] += 1
            weakref.finalize(held, self._free, key, storage.nbytes())
        return held

    def _free(self, key: int, nbytes: int) -> None:
        self._references[key] -= 1
        if not self._references[key]:
            del self._references[key]
            self._bytes -= nbytes


class _Held:
    """Keeps a saved tensor alive exactly as long as autograd keeps it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor
