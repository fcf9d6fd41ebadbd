"""What operations give on tensors without values, remembered.

torch's ``FakeTensorMode`` works out shapes and strides anew each time, though a training step repeats a few operations
thousands of times: 0.3 ms each. What comes out is a function of the forms of the arguments, so the second time it is
made from what came out the first time.
"""

from typing import Any, Hashable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["Outcome", "described", "form", "learn", "recall"]

_CPU = torch.device("cpu")
_NUMBERS = (bool, int, float, complex)  # equal to one another as keys


class _Output(NamedTuple):
    """A tensor that an operation gives."""

    #: Shape, strides, offset, type, and whether it is lazily conjugated or negated.
    form: Tuple[Any, ...]
    argument: int  #: of the tensors among the arguments, the one that it is a view of, or that it is; -1: none
    is_argument: bool


class Outcome(NamedTuple):
    """What an operation gives for arguments of one form."""

    outputs: Tuple[_Output, ...]
    container: Optional[type]  #: of the outputs, ``list`` or ``tuple``; ``None``: there is one output without, or none
    operations: float  #: see :class:`~meddlr_greedy.planning.trace.Trace`


def described(value: Any, tensors: List[FakeTensor]) -> Hashable:
    """The form of an argument; the tensors without values in it are appended to ``tensors``."""
    if isinstance(value, torch.Tensor):
        if isinstance(value, FakeTensor):
            tensors.append(value)
        return form(value)
    if isinstance(value, (list, tuple)):
        return tuple([described(element, tensors) for element in value])
    if isinstance(value, dict):
        return tuple([(name, described(element, tensors)) for name, element in value.items()])
    return (type(value), value) if isinstance(value, _NUMBERS) else value


def form(tensor: torch.Tensor) -> Tuple[Any, ...]:
    """What a tensor is but for its values."""
    return (
        tensor.shape,
        tensor.stride(),
        tensor.storage_offset(),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def learn(
    tensors: Sequence[FakeTensor], forms: Sequence[Tuple[Any, ...]], out: Any, operations: float
) -> Optional[Outcome]:
    """What :func:`recall` needs to give this again; ``None`` where it cannot.

    Args:
        tensors: The tensors among the arguments.
        forms: Of the tensors, before the operation.
        out: What the operation gave.
        operations: How many it counts for.
    """
    container = type(out) if isinstance(out, (list, tuple)) else None
    found = [] if out is None else list(out) if container else [out]
    if container not in (None, list, tuple) or not all(isinstance(x, FakeTensor) for x in found):
        return None
    storages = {_storage(tensor) for tensor in tensors}
    outputs = []
    for tensor in found:
        output = _learned(tensor, tensors, forms)
        is_new = output is not None and output.argument < 0
        if output is None or (is_new and _storage(tensor) in storages):
            return None
        storages |= {_storage(tensor)} if is_new else set()  # of two new tensors each has its own
        outputs.append(output)
    return Outcome(tuple(outputs), container, operations)


def _learned(tensor: FakeTensor, tensors: Sequence[FakeTensor], forms: Sequence[Tuple[Any, ...]]) -> Optional[_Output]:
    same = [i for i, argument in enumerate(tensors) if argument is tensor]
    if same:
        # Some operations give an argument another form.
        return _Output(forms[same[0]], same[0], True) if form(tensor) == forms[same[0]] else None
    bases = [i for i, argument in enumerate(tensors) if _storage(argument) == _storage(tensor)]
    if bases:
        return _Output(form(tensor), bases[0], False) if len(bases) == 1 else None
    # A new tensor that is a part of what was allocated would be made too small.
    is_whole = tensor.storage_offset() == 0 and _num_bytes(tensor) == tensor.untyped_storage().nbytes()
    return _Output(form(tensor), -1, False) if is_whole else None


def recall(outcome: Outcome, tensors: Sequence[FakeTensor], like: FakeTensor) -> Tuple[Any, List[FakeTensor]]:
    """Gives again what an operation gave for arguments of the same form.

    Args:
        outcome: What was learnt of it.
        tensors: The tensors among the arguments.
        like: A tensor of the mode.

    Returns:
        What it gives, and the tensors in it that are new.
    """
    found = [
        tensors[output.argument] if output.is_argument else _made(output, tensors, like) for output in outcome.outputs
    ]
    new = [tensor for tensor, output in zip(found, outcome.outputs) if output.argument < 0]
    if outcome.container:
        return outcome.container(found), new
    return found[0] if found else None, new


def _made(output: _Output, tensors: Sequence[FakeTensor], like: FakeTensor) -> FakeTensor:
    shape, strides, offset, dtype, is_conj, is_neg = output.form
    with torch._C._DisableTorchDispatch():
        tensor = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
        if output.argument >= 0:
            tensor.set_(tensors[output.argument].untyped_storage(), offset, shape, strides)
        if is_conj:
            torch._C._set_conj(tensor, True)
        if is_neg:
            torch._C._set_neg(tensor, True)
        # As its constructor does, which takes three times as long.
        made = torch.Tensor._make_subclass(
            FakeTensor, tensor, False, dispatch_device=True, device_for_backend_keys=_CPU
        )
    vars(made).update(vars(like))
    return made


def _storage(tensor: torch.Tensor) -> int:
    """The address of the storage, unique as long as it lives."""
    return tensor.untyped_storage()._cdata


def _num_bytes(tensor: torch.Tensor) -> int:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.dtype.itemsize * (last + 1) if tensor.numel() else 0
