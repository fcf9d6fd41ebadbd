"""What lies on which device: batches on their way to it, and constants that stay there."""

from typing import Any, Callable, Dict, Hashable

import torch

__all__ = ["kept_constant", "to_device"]

# A few image sizes, numbers of frames and devices.
_MOST_CONSTANTS = 256
_constants: Dict[Hashable, torch.Tensor] = {}


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
