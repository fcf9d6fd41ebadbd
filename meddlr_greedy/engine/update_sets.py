"""The update of an optimizer in one call for each set of parameters with equal options.

meddlr makes a group of each parameter. torch updates group by group, so that each of its functions on lists of tensors
gets a list of one, and a step with hundreds of parameters is spent in Python. Here groups with equal options go into
one call. The groups themselves, and with them the checkpoints, stay as they are.
"""

import functools
import operator
import types
from typing import Any, Callable, Dict, Hashable, List, Tuple

import torch

__all__ = ["update_in_sets"]

Group = Dict[str, Any]


def update_in_sets(optimizer: torch.optim.Optimizer) -> None:
    """From now on the optimizer updates all parameters with equal options in one call.

    On the CPU by torch's functions on lists ("foreach"), which give the bits of its loop over parameters; on CUDA by
    its fused kernels, which differ from these by rounding. Complex parameters are updated one by one, as ever. A group
    that says itself which it wants gets that.

    Args:
        optimizer: One of torch's or meddlr's; not one that accumulates for it.
    """
    step = optimizer.step
    sets = _Sets([])

    @functools.wraps(step)
    def step_in_sets(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        nonlocal sets
        groups, num_known = self.param_groups, len(self.state)
        if not sets.hold(groups):
            sets = _Sets(groups)
            _place_counts(self, sets.as_groups(groups))
        self.param_groups = sets.as_groups(groups)
        try:
            return step(closure)
        finally:
            self.param_groups = groups
            _put_in_order(self, num_known)

    # A method and no function: torch's schedulers take it apart, and put it together again.
    optimizer.step = types.MethodType(step_in_sets, optimizer)  # type: ignore[method-assign]


class _Sets:
    """Parameters of groups with equal options, joined. To form sets takes longer than to see that they still hold.

    Args:
        groups: The groups of an optimizer.
    """

    def __init__(self, groups: List[Group]):
        self._groups = list(groups)  # kept, so that no other group gets the id of one of these
        self._parts = _parts(groups)
        self._options = [_options(tuple(group)) for group in groups]
        self._lender: List[int] = []  # of each group: the first of its set, which lends its options
        self._members: Dict[Tuple[int, torch.device, torch.dtype], List[torch.Tensor]] = {}
        first: Dict[Hashable, int] = {}
        for i, (options, group) in enumerate(zip(self._options, groups)):
            values = tuple(tuple(v) if isinstance(v, list) else v for v in options(group))  # to be hashed
            self._lender.append(first.setdefault((tuple(group), values), i))
            for p in group["params"]:
                self._members.setdefault((self._lender[i], p.device, p.dtype), []).append(p)

    def hold(self, groups: List[Group]) -> bool:
        """Whether these are the same groups, and those of each set have equal options, which may be new."""
        if _parts(groups) != self._parts:
            return False
        values = [options(group) for options, group in zip(self._options, groups)]
        return values == [values[i] for i in self._lender]

    def as_groups(self, groups: List[Group]) -> List[Group]:
        """The sets, with the options that the groups have now, in the order of the first of each."""
        return [
            {**groups[i], "params": members, **_implementation(groups[i], members[0])}
            for (i, *_), members in self._members.items()
        ]


@functools.cache
def _options(names: Tuple[str, ...]) -> Callable[[Group], Tuple[Any, ...]]:
    return operator.itemgetter(*(name for name in names if name != "params"))


def _parts(groups: List[Group]) -> List[Any]:
    """What tells these groups, and these parameters where they are now, from others."""
    parameters = [p for group in groups for p in group["params"]]
    return [list(map(id, groups)), list(map(len, groups)), list(map(id, parameters)), [p.device for p in parameters]]


def _is_fusible(p: torch.Tensor) -> bool:
    return p.is_cuda and p.is_floating_point()


def _implementation(options: Group, p: torch.Tensor) -> Group:
    """Which of torch's implementations updates a set like ``p``; nothing for an optimizer that has but one."""
    if options.get("fused") or options.get("foreach") or p.is_complex():
        return {}  # torch's loop: of complex numbers, functions on lists round otherwise
    if "fused" in options and _is_fusible(p):
        return {"fused": True, "foreach": False}
    return {"foreach": True} if "foreach" in options else {}


def _put_in_order(optimizer: torch.optim.Optimizer, num_known: int) -> None:
    """Brings states that are new into the order of the groups, in which they would have been made, and are saved."""
    new = list(optimizer.state)[num_known:] if len(optimizer.state) > num_known else []
    if new:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        position = {id(p): i for i, p in enumerate(parameters)}
        for p in sorted(new, key=lambda p: position[id(p)]):
            optimizer.state[p] = optimizer.state.pop(p)


def _place_counts(optimizer: torch.optim.Optimizer, groups: List[Group]) -> None:
    """Puts the counts of updates beside the parameters, where fused kernels look for them.

    The state of a checkpoint that was written without them has the counts on the CPU.
    """
    for p in [p for group in groups if group.get("fused") for p in group["params"]]:
        count = optimizer.state[p].get("step") if p in optimizer.state else None
        if isinstance(count, torch.Tensor) and count.device != p.device:
            optimizer.state[p]["step"] = count.to(p.device, torch.float32, non_blocking=True)
