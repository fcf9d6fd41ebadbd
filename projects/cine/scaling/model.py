"""The throughput of a network on many devices, predicted from what one module takes."""

from dataclasses import dataclass
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.parallel.partition import balanced_partition

__all__ = [
    "DATA_PARALLEL",
    "GREEDY",
    "MICRO_BATCHES",
    "Measured",
    "Prediction",
    "backprop_throughput",
    "data_parallel_throughput",
    "greedy_throughput",
    "predict",
]


@dataclass(frozen=True)
class Measured:
    """One module for one example, and the way to the next process; seconds and bytes.

    Attributes:
        forward_s: F.
        loss_s: L.
        backward_s: B, of the parameters.
        through_s: B', of the parameters and the input image.
        update_s: U.
        prepare_first_s: What the first stage does with a batch before its modules.
        prepare_later_s: The same for the stages that receive it.
        latency_s: Time of an empty message.
        transfer_s: c, time of the whole message.
        message_bytes: Size of what a greedy stage hands on.
        image_bytes: Size of the image in it.
        gradient_bytes: Size of the parameters of a module.
        activation_bytes: What is held for the backward of a module.
    """

    forward_s: float
    loss_s: float
    backward_s: float
    through_s: float
    update_s: float
    prepare_first_s: float
    prepare_later_s: float
    latency_s: float
    transfer_s: float
    message_bytes: int
    image_bytes: int
    gradient_bytes: int
    activation_bytes: int

    @property
    def bytes_per_s(self) -> float:
        """Bandwidth of the way to the next process."""
        return self.message_bytes / max(self.transfer_s - self.latency_s, 1e-9)

    @property
    def image_transfer_s(self) -> float:
        """c': the time of the gradient of an image."""
        return self.latency_s + self.image_bytes / self.bytes_per_s

    def all_reduce_s(self, num_bytes: float, num: int) -> float:
        """a_R: averaging ``num_bytes`` over ``num`` processes in a ring."""
        return 2 * (num - 1) * (self.latency_s + num_bytes / (num * self.bytes_per_s))

    def prepare_s(self, num_stages: int) -> List[float]:
        """What each stage does with a batch before its modules."""
        return [self.prepare_first_s] + [self.prepare_later_s] * (num_stages - 1)


def greedy_throughput(stages: Sequence[float], transfer_s: float) -> float:
    """Examples per second of a greedy pipeline in steady state; ``stages``: seconds of each."""
    return 1 / max(*stages, transfer_s)


def backprop_throughput(
    forward: Sequence[float],
    backward: Sequence[float],
    micro_batches: int,
    update_s: float = 0.0,
    transfer_s: float = 0.0,
    gradient_transfer_s: float = 0.0,
) -> float:
    """Examples per second of GPipe and 1F1B; ``forward``, ``backward``: seconds of each stage for a micro-batch."""
    both = [f + b for f, b in zip(forward, backward)]
    hops = (len(both) - 1) * (transfer_s + gradient_transfer_s)
    return micro_batches / (sum(both) + (micro_batches - 1) * max(*both, transfer_s) + hops + update_s)


def data_parallel_throughput(
    forward_s: float, backward_s: float, update_s: float, num_replicas: int, all_reduce_s: float
) -> float:
    """Examples per second of ``num_replicas`` devices with the whole network each."""
    return num_replicas / (forward_s + max(backward_s, all_reduce_s) + update_s)


@dataclass(frozen=True)
class Prediction:
    """How fast one way of training is.

    Attributes:
        way: Name of the way of training.
        modules: K.
        devices: D = ``stages`` x replicas.
        stages: p.
        examples_per_update: Size of the mini-batch.
        examples_per_s: Throughput.
        speedup: Throughput over that of backpropagation on one device.
        efficiency: ``speedup`` / D.
        held_mb: MB held on the fullest device.
    """

    way: str
    modules: int
    devices: int
    stages: int
    examples_per_update: int
    examples_per_s: float
    speedup: float
    efficiency: float
    held_mb: float


GREEDY, DATA_PARALLEL = "greedy", "data parallel"
#: Name of the micro-batches m -> m for p stages; GPipe calls 4 p enough for its bubbles to matter little.
MICRO_BATCHES: Dict[str, Callable[[int], int]] = {"m = 1": lambda _: 1, "m = 8": lambda _: 8, "m = 4p": lambda p: 4 * p}


def predict(measured: Measured, modules: int, devices: int) -> List[Prediction]:
    """Predictions of all ways to train K = ``modules`` on D = ``devices``.

    Raises:
        ValueError: where D is more than K and no multiple of it.
    """
    replicas, rest = divmod(devices, min(devices, modules))
    if rest:
        raise ValueError(f"{devices} devices are no multiple of {modules} modules")
    num_stages = devices // replicas
    single_throughput = _backprop(measured, modules, 1, 1, 1).throughput
    made = {(GREEDY, replicas): _greedy(measured, modules, num_stages, replicas)}
    for name, count in MICRO_BATCHES.items():
        m = count(num_stages)
        both = _backprop(measured, modules, num_stages, replicas, m)
        for schedule, held in (("GPipe", both.held_gpipe), ("1F1B", both.held_1f1b)):
            made[f"{schedule}, {name}", m * replicas] = (both.throughput, held)
    made[DATA_PARALLEL, devices] = _data_parallel(measured, modules, devices)
    return [
        Prediction(
            way=way,
            modules=modules,
            devices=devices,
            stages=1 if way == DATA_PARALLEL else num_stages,
            examples_per_update=examples,
            examples_per_s=throughput,
            speedup=throughput / single_throughput,
            efficiency=throughput / single_throughput / devices,
            held_mb=held / 1e6,
        )
        for (way, examples), (throughput, held) in made.items()
    ]


def _greedy(measured: Measured, modules: int, num_stages: int, replicas: int) -> Tuple[float, float]:
    """Throughput, and bytes held on the fullest device."""
    module_s = measured.forward_s + measured.loss_s + measured.backward_s + measured.update_s
    prepare = measured.prepare_s(num_stages)
    sizes = balanced_partition([prepare[0] + module_s] + [module_s] * (modules - 1), num_stages)
    stages = [
        before + size * module_s + measured.all_reduce_s(size * measured.gradient_bytes, replicas)
        for before, size in zip(prepare, sizes)
    ]
    neighbors = min(num_stages - 1, 2)
    in_flight = neighbors * GreedyConfig().PARALLEL.BATCHES_IN_FLIGHT * measured.message_bytes
    transfer = measured.transfer_s if num_stages > 1 else 0.0
    return replicas * greedy_throughput(stages, transfer), measured.activation_bytes + in_flight


@dataclass(frozen=True)
class _Backprop:
    """Throughput, and bytes held on the fullest device by either schedule."""

    throughput: float
    held_gpipe: float
    held_1f1b: float


def _backprop(measured: Measured, modules: int, num_stages: int, replicas: int, micro_batches: int) -> _Backprop:
    backward_s = [measured.backward_s] + [measured.through_s] * (modules - 1)
    backward_s[-1] += measured.loss_s
    sizes = balanced_partition([measured.forward_s + b for b in backward_s], num_stages)
    firsts = np.cumsum([0, *sizes])
    forward = [before + size * measured.forward_s for before, size in zip(measured.prepare_s(num_stages), sizes)]
    backward = [sum(backward_s[first : first + size]) for first, size in zip(firsts, sizes)]
    update = max(
        size * measured.update_s + measured.all_reduce_s(size * measured.gradient_bytes, replicas) for size in sizes
    )
    throughput = backprop_throughput(
        forward, backward, micro_batches, update, measured.transfer_s, measured.image_transfer_s
    )
    held = [size * measured.activation_bytes for size in sizes]
    # Stage s of 1F1B is ahead of its backwards by as many micro-batches as stages follow it, and one.
    held_1f1b = max(min(micro_batches, num_stages - s) * stage_held for s, stage_held in enumerate(held))
    held_gpipe = micro_batches * max(held) if num_stages > 1 else max(held)
    return _Backprop(replicas * throughput, held_gpipe, held_1f1b)


def _data_parallel(measured: Measured, modules: int, devices: int) -> Tuple[float, float]:
    """Throughput, and bytes held on each device."""
    throughput = data_parallel_throughput(
        measured.prepare_first_s + modules * measured.forward_s,
        measured.loss_s + measured.backward_s + (modules - 1) * measured.through_s,
        modules * measured.update_s,
        devices,
        measured.all_reduce_s(modules * measured.gradient_bytes, devices),
    )
    return throughput, modules * measured.activation_bytes
