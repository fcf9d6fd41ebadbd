"""What lies on which device: batches on their way to it, constants that stay there, and what a plan stands for."""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Callable, Dict, Hashable, Iterator, List, Optional

import torch

__all__ = ["computing_device", "constants_kept", "kept_constant", "standing_for", "to_device"]

# A few image sizes, numbers of frames and devices.
_MOST_CONSTANTS = 256
_constants: Dict[Hashable, torch.Tensor] = {}

_planned: ContextVar[Optional[torch.device]] = ContextVar("planned device", default=None)


@contextmanager
def standing_for(device: torch.device) -> Iterator[None]:
    """Inside the block, tensors stand for those of ``device``: a plan for a GPU is made on the CPU."""
    before = _planned.set(device)
    try:
        yield
    finally:
        _planned.reset(before)


def computing_device(x: torch.Tensor) -> torch.device:
    """The device that computes with a tensor; of a plan, the one that is planned for."""
    return _planned.get() or x.device


def to_device(value: Any, device: torch.device) -> Any:
    """Copies the tensors of a batch to a device; what is there already stays as it is.

    The host does not wait for a copy to a GPU, which overlaps with computing where it comes from pinned memory.

    Args:
        value: A tensor, or a dictionary, list or tuple of values; anything else is returned as it is.
        device: Where to.
    """
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=device.type != "cpu")
    if isinstance(value, dict):
        return {key: to_device(element, device) for key, element in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_device(element, device) for element in value)
    return value


def kept_constant(make: Callable[..., torch.Tensor], *args: Any, device: torch.device) -> torch.Tensor:
    """What ``make(*args, device=device)`` gives, computed once and then kept there.

    Args:
        make: A function of a module. It computes on the device that it is given, so that nothing is copied.
        *args: Its arguments, hashable.
        device: Of the tensor.

    Returns:
        torch.Tensor: Not to be changed.
    """
    if torch._C._len_torch_dispatch_stack() > 0:  # tensors without values, as in a plan, are no one else's
        return make(*args, device=device)
    key = (make, args, device)
    if key not in _constants:
        if len(_constants) >= _MOST_CONSTANTS:
            _constants.clear()
        with torch.inference_mode(False), torch.no_grad():
            _constants[key] = make(*args, device=device)
    return _constants[key]


def constants_kept() -> List[torch.Tensor]:
    """All that :func:`kept_constant` keeps now, for who has to keep them longer."""
    return [*_constants.values()]
