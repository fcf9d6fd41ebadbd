"""Linear operators that a plan follows once, and then knows."""

from contextlib import contextmanager
from typing import Any, Dict, Hashable, Iterator, NamedTuple
from weakref import WeakKeyDictionary

import torch

from meddlr_greedy.ops.parts import Operator, applying_operators
from meddlr_greedy.planning.outcomes import Outcome, form, learn, recall
from meddlr_greedy.planning.trace import Trace
from meddlr_greedy.planning.work import Work

__all__ = ["operators_followed_once"]


class _Known(NamedTuple):
    outcome: Outcome  #: what the operator gives
    rise: int  #: bytes of the peak over what was allocated before
    work: Work


@contextmanager
def operators_followed_once(trace: Trace) -> Iterator[None]:
    """Inside the block, a method of a signal model is followed once for each form of its argument, and then known.

    A^H A runs part by part, and conjugate gradients ask for it again and again: most operations of a plan are in it.
    Memory and operations are as if it were followed each time.
    """
    token = applying_operators.set(_KnownOperators(trace))
    try:
        yield
    finally:
        applying_operators.reset(token)


class _KnownOperators:
    def __init__(self, trace: Trace):
        self._trace = trace
        self._known: WeakKeyDictionary = WeakKeyDictionary()  # a signal model is freed as in a training

    def __call__(self, operator: Operator, x: Any) -> torch.Tensor:
        owner = getattr(operator, "__self__", None)
        if owner is None:
            return operator(x)
        known: Dict[Hashable, _Known] = self._known.setdefault(owner, {})
        key = (operator.__name__, form(x), getattr(owner, "largest_part", None))
        if key in known:
            return self._again(known[key], x)
        return self._followed(operator, x, known, key)

    def _again(self, known: _Known, x: Any) -> torch.Tensor:
        trace = self._trace
        trace.peak = max(trace.peak, trace.alive + known.rise)
        trace.operations += known.outcome.operations
        trace.work.add_all(known.work)
        out, new = recall(known.outcome, [x], trace.like)
        for tensor in new:
            trace.follow(tensor)
        return out

    def _followed(self, operator: Operator, x: Any, known: Dict[Hashable, _Known], key: Hashable) -> torch.Tensor:
        trace = self._trace
        alive, peak, operations, work = trace.alive, trace.peak, trace.operations, trace.work
        x_form, trace.work = form(x), Work()
        trace.reset_peak()
        try:
            out = operator(x)
        finally:
            rise, own_work = trace.peak - alive, trace.work
            trace.peak, trace.work = max(peak, trace.peak), work
        work.add_all(own_work)
        outcome = learn([x], [x_form], out, trace.operations - operations)
        # The first time more is left than the result: the mask in another order.
        if outcome is not None and trace.alive - alive == trace.rounded(out.untyped_storage().nbytes()):
            known[key] = _Known(outcome, rise, own_work)
        return out
