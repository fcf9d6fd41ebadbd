"""What a checkpoint holds, checked before any of it is loaded: whoever wrote it, it fits, and is finite."""

from typing import Any, Dict, List, Mapping

import torch

from meddlr_greedy.config.rules import is_finite
from meddlr_greedy.errors import UserError, shortened

__all__ = ["check_fits", "check_weights"]

# What a scheduler keeps for each group of parameters.
_PER_GROUP = ("base_lrs", "_last_lr")


def check_weights(where: str, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Refuses weights of another kind of number than the network's, and weights that are not finite.

    Args:
        where: The checkpoint, for messages.
        found: Name -> tensor.
        expected: Name -> tensor of the network, of the same shape.

    Raises:
        UserError: names the tensor.
    """
    for name, value in found.items():
        own = expected[name]
        if value.layout != torch.strided or value.is_meta or _kind(value) != _kind(own):
            raise UserError(f"{where}: '{name}' is {_described(value)}, the model of this config has {own.dtype}")
        if not _all_finite(value.to(own.dtype)):
            raise UserError(f"{where}: '{name}' holds NaN or infinity; take an earlier checkpoint")


def check_fits(where: str, key: str, state: Any, part: Any) -> None:
    """Refuses the state of an optimizer or scheduler that the part of that name could not go on from.

    Of other parts nothing is known here; they check what they load.

    Args:
        where: The checkpoint, for messages.
        key: Name of the part.
        state: What the checkpoint holds of it.
        part: The part of this run.

    Raises:
        UserError: says what does not fit.
    """
    if key == "optimizer":
        _check_optimizer(f"{where}: optimizer", state, part)
    elif key == "scheduler":
        _check_scheduler(f"{where}: scheduler", state, part)


def _check_optimizer(where: str, state: Dict[str, Any], optimizer: Any) -> None:
    if hasattr(optimizer, "optimizer"):  # one that accumulates gradients
        _check_optimizer(where, state["optimizer"], optimizer.optimizer)
        parameters = _parameters(optimizer.optimizer)
        gradients = state.get("gradients", [])
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                _check_values(f"{where}: gradient {i}", gradient, parameters[i])
        steps = state.get("step_iters", 0)
        if not isinstance(steps, int) or not 0 <= steps < optimizer.accumulation_iters:
            raise UserError(f"{where}: step_iters is {shortened(steps)}, no position in SOLVER.GRAD_ACCUM_ITERS")
        return
    groups, own_groups = state["param_groups"], optimizer.state_dict()["param_groups"]
    sizes, own_sizes = ([len(group["params"]) for group in some] for some in (groups, own_groups))
    if sizes != own_sizes:
        raise UserError(
            f"{where}: holds the state of {sum(sizes)} parameters in {len(sizes)} groups, the network of this config"
            f" has {sum(own_sizes)} in {len(own_sizes)}"
        )
    for group, own in zip(groups, own_groups):
        _check_numbers(where, group, {name: value for name, value in own.items() if name != "params"})
    parameter_of = dict(zip((i for group in groups for i in group["params"]), _parameters(optimizer)))
    for i, values in state["state"].items():
        for name, value in values.items():
            _check_values(f"{where}: '{name}' of parameter {i}", value, parameter_of[i])


def _check_values(where: str, value: Any, parameter: torch.Tensor) -> None:
    """A state of a parameter: a tensor of its shape, or a number."""
    if isinstance(value, torch.Tensor) and value.ndim:
        if value.shape != parameter.shape:
            raise UserError(f"{where} has shape {tuple(value.shape)}, the parameter has {tuple(parameter.shape)}")
        if _kind(value) != _kind(parameter):
            raise UserError(f"{where} is {_described(value)}, the parameter is {parameter.dtype}")
    if isinstance(value, torch.Tensor):
        if not _all_finite(value):
            raise UserError(f"{where} holds NaN or infinity; take an earlier checkpoint")
    elif value is not None and not is_finite(value):
        raise UserError(f"{where} is {shortened(value)}, allowed is a finite number")


def _check_scheduler(where: str, state: Dict[str, Any], scheduler: Any) -> None:
    own = scheduler.state_dict()
    for name in state:
        if not isinstance(name, str) or (name not in own and hasattr(type(scheduler), name)):
            raise UserError(f"{where}: {shortened(name)} is no value that a {type(scheduler).__name__} keeps")
    _check_numbers(where, state, own)
    for name in _PER_GROUP:
        if name in own and len(state[name]) != len(own[name]):
            raise UserError(f"{where}: {name} has {len(state[name])} values, needed are {len(own[name])}")


def _check_numbers(where: str, found: Dict[str, Any], own: Dict[str, Any]) -> None:
    """Each number and list of numbers that is ``own`` has been found, as such; what else there is may be missing."""
    for name, value in own.items():
        if is_finite(value):
            if not is_finite(found.get(name)):
                raise UserError(f"{where}: {name} is {shortened(found.get(name))}, allowed is a finite number")
        elif isinstance(value, (list, tuple)) and all(map(is_finite, value)):
            numbers = found.get(name)
            if not isinstance(numbers, (list, tuple)) or not all(map(is_finite, numbers)):
                raise UserError(f"{where}: {name} is {shortened(numbers)}, allowed is a list of finite numbers")
            if isinstance(value, tuple) and value and len(numbers) != len(value) and name not in ("milestones",):
                raise UserError(f"{where}: {name} is {shortened(numbers)}, allowed are {len(value)} numbers")
        elif isinstance(value, str) and name in found and not isinstance(found[name], str):
            raise UserError(f"{where}: {name} is {shortened(found[name])}, allowed is text")


def _parameters(optimizer: Any) -> List[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _all_finite(value: torch.Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _kind(value: torch.Tensor) -> str:
    return "complex" if value.is_complex() else "real" if value.is_floating_point() else "integer"


def _described(value: torch.Tensor) -> str:
    layout = "" if value.layout == torch.strided else f", {value.layout}"
    return f"{value.dtype}{layout}{' without values' if value.is_meta else ''}"
