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

    @functools.wraps(step)
    def step_in_sets(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        groups, num_known = self.param_groups, len(self.state)
        self.param_groups = _sets(groups)
        try:
            for group in self.param_groups:
                if group.get("fused"):
                    _place_counts(self, group)
            return step(closure)
        finally:
            self.param_groups = groups
            _put_in_order(self, num_known)

    # A method and no function: torch's schedulers take it apart, and put it together again.
    optimizer.step = types.MethodType(step_in_sets, optimizer)  # type: ignore[method-assign]


def _sets(groups: List[Group]) -> List[Group]:
    """Groups with equal options joined to one, in the order of the first of each."""
    sets: Dict[Hashable, Group] = {}
    members: Dict[Hashable, List[torch.Tensor]] = {}
    names: Tuple[str, ...] = ()
    options: Callable[[Group], Tuple[Hashable, ...]] = _hashable
    for group in groups:  # hundreds, in every iteration, nearly always with the same names
        if tuple(group) != names:
            names = tuple(group)
            options = operator.itemgetter(*(name for name in names if name != "params"))
        values = options(group)
        for p in group["params"]:
            try:
                members[p.device, p.dtype, names, values].append(p)
            except (KeyError, TypeError):  # TypeError: a list, which a checkpoint may hold
                key = (p.device, p.dtype, names, _hashable(group))
                if key not in members:
                    members[key] = []
                    sets[key] = {**group, "params": members[key], **_implementation(group, p)}
                members[key].append(p)
    return list(sets.values())


def _hashable(group: Group) -> Tuple[Hashable, ...]:
    return tuple(tuple(v) if isinstance(v, list) else v for name, v in group.items() if name != "params")


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


def _place_counts(optimizer: torch.optim.Optimizer, group: Group) -> None:
    """Puts the counts of updates beside the parameters, where fused kernels look for them.

    The state of a checkpoint that was written without them has the counts on the CPU.
    """
    for p in group["params"]:
        count = optimizer.state[p].get("step") if p in optimizer.state else None
        if isinstance(count, torch.Tensor) and count.device != p.device:
            optimizer.state[p]["step"] = count.to(p.device, torch.float32, non_blocking=True)
