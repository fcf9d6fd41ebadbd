"""Counts how often a training step waits for its device; no GPU is needed.

A step runs on tensors without values (torch's ``FakeTensorMode``), through the very code that trains. torch's device
"meta" stands for the GPU, since without a driver torch runs no backward on "cuda"; what is made on the host is on
"cpu", and the two cannot be mixed. Each operation that lets the host wait for the GPU is counted, with the line that
asks for it.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Optional
from unittest import mock

import torch
from meddlr.config import CfgNode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from meddlr_greedy.engine.build import build_loss_computer, build_network_to_train, build_optimizer
from meddlr_greedy.engine.step import StepOnBatch
from meddlr_greedy.ops.devices import to_device
from meddlr_greedy.planning.example import Example

__all__ = ["FAKE_GPU", "Synchronizations", "counted_on_fake_gpu", "step_on_fake_gpu"]

#: The device that stands for a GPU.
FAKE_GPU = "meta"

_aten = torch.ops.aten
_READ = _aten._local_scalar_dense
# The size of their result, or whether they failed, depends on values.
_WAITING = (
    *(_READ, _aten.equal, _aten.nonzero, _aten.masked_select, _aten.bincount),
    *(_aten._unique2, _aten.unique_dim, _aten.unique_consecutive, _aten._linalg_check_errors),
)
_INDEXING = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)
_COPIES = (_aten._to_copy, _aten.copy_, _aten.copy)
# Files below these folders are not to blame for what they are asked to do.
_LIBRARIES = ("/torch/", "/contextlib.py")


class Synchronizations(TorchDispatchMode):
    """Counts the operations for which the host waits until the device is done with all before them.

    These are: a value that is read (``item``, ``bool``, ``float``); an operation whose result has a size that depends
    on values; and a copy between host and device that is not ``non_blocking``. Whether a non-blocking copy comes from
    pinned memory, so that it really does not block, is not seen.

    Of tensors without values, a number that is read is 1, and a condition is false: loops run to their last iteration.

    Args:
        device: Type of the device that is waited for.

    Attributes:
        places: Count of each place, "file:line operation".
    """

    def __init__(self, device: str = "cuda"):
        super().__init__()
        self.device = device
        self.places: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How often the host has waited."""
        return sum(self.places.values())

    def reset(self) -> None:
        """Forgets what was counted."""
        self.places.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if self._waits(packet, args, kwargs):
            self.places[_place(str(packet).rsplit(".", 1)[-1])] += 1
        if packet in (_READ, _aten.equal) and isinstance(args[0], FakeTensor):
            kind = args[0].dtype if packet is _READ else torch.bool
            return False if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        return func(*args, **kwargs)

    def _waits(self, packet: Any, args: Any, kwargs: Dict[str, Any]) -> bool:
        if packet in _COPIES:
            return self._is_blocking_copy(packet, args, kwargs)
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        if not any(_device_of(x).type == self.device for x in tensors):
            return False
        selects = packet in _INDEXING and any(x.dtype in (torch.bool, torch.uint8) for x in _indices(args))
        return packet in _WAITING or selects

    def _is_blocking_copy(self, packet: Any, args: Any, kwargs: Dict[str, Any]) -> bool:
        if packet is _aten._to_copy:
            source, target = _device_of(args[0]), kwargs.get("device")
            target = source if target is None else torch.device(target)
        else:
            target, source = _device_of(args[0]), _device_of(args[1])
        non_blocking = kwargs.get("non_blocking", args[2] if packet is not _aten._to_copy and len(args) > 2 else False)
        return source.type != target.type and self.device in (source.type, target.type) and not non_blocking


def _device_of(tensor: torch.Tensor) -> torch.device:
    return tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device


def _indices(args: Any) -> Any:
    return [x for x in tree_flatten(args[1])[0] if isinstance(x, torch.Tensor)]


def _place(operation: str) -> str:
    """The innermost line outside of torch and of this file."""
    frame: Any = sys._getframe(1)
    while frame is not None and (
        frame.f_code.co_filename == __file__ or any(part in frame.f_code.co_filename for part in _LIBRARIES)
    ):
        frame = frame.f_back
    where = "autograd" if frame is None else f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"
    return f"{where} {operation}"


def _short(path: str) -> str:
    return "/".join(path.split("/")[-2:])


@contextmanager
def counted_on_fake_gpu() -> Iterator[Synchronizations]:
    """Inside the block, tensors have no values, may be on :data:`FAKE_GPU`, and what waits for it is counted."""
    # meddlr's takes any device for the CPU where torch says that there is no GPU.
    moves = mock.patch("meddlr.modeling.meta_arch.unrolled.move_to_device", to_device)
    makes = [mock.patch(f"torch.{name}", _made_on_the_host(getattr(torch, name))) for name in ("tensor", "as_tensor")]
    with moves, makes[0], makes[1], FakeTensorMode(), Synchronizations(FAKE_GPU) as counted:
        yield counted


def _made_on_the_host(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """``torch.tensor`` as it does its work for a GPU: numbers come together on the host, and are copied."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        tensor = make(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


def _to_fake_gpu(model: torch.nn.Module) -> None:
    """What ``model.to`` does, which cannot exchange tensors without values."""
    moved: Dict[torch.Tensor, Any] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                parameter = moved.setdefault(p, torch.nn.Parameter(p.detach().to(FAKE_GPU), p.requires_grad))
                module._parameters[name] = parameter
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(FAKE_GPU)


class _FakeStep(StepOnBatch):
    """The step without what needs the generators of a real GPU."""

    def seed(self, iteration: int) -> Optional[int]:  # noqa: ARG002 (an extension point)
        return None


def step_on_fake_gpu(
    cfg: CfgNode,
    example: Example,
    counted: Synchronizations,
    spoil: Optional[Callable[[StepOnBatch], Any]] = None,
) -> "Counter[str]":
    """Where one training step of a config waits for its device, and how often.

    Args:
        cfg: The config; its device does not matter.
        example: Of its data.
        counted: Of the block that this is called in, see :func:`counted_on_fake_gpu`.
        spoil: Called with the step before it runs; for what is to be counted, too.

    Returns:
        Counter[str]: The place of each, see :class:`Synchronizations`.
    """
    cfg = cfg.clone().defrost()
    cfg.MODEL.DEVICE, cfg.VIS_PERIOD = "cpu", 0
    batch: Dict[str, Any] = dict(example.batch(cfg.SOLVER.TRAIN_BATCH_SIZE))
    if example.is_cine:
        batch["constant_along_readout"] = example.constant_along_readout  # as the loader says
    model = build_network_to_train(cfg.freeze()).train()
    _to_fake_gpu(model)
    step = _FakeStep(model, build_optimizer(cfg, model), build_loss_computer(cfg), 0, batch)
    if spoil is not None:
        spoil(step)
    counted.reset()
    step.run()
    return Counter(counted.places)
