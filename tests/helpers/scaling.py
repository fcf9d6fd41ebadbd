"""A small network that is timed, and given times of one module, from which the scaling model predicts."""

from projects.cine.scaling import __main__ as scaling
from projects.cine.scaling import measure
from projects.cine.scaling.model import Measured, predict

#: In the place of ``sides.NETWORK``.
SMALL = {"modules": 2, "features": 4, "shape": (16, 24, 4), "num_coils": 2}

MEASURED = Measured(
    forward_s=0.05,
    loss_s=0.001,
    backward_s=0.1,
    through_s=0.11,
    update_s=0.002,
    prepare_first_s=0.004,
    prepare_later_s=0.001,
    latency_s=0.0002,
    transfer_s=0.002,
    message_bytes=2_000_000,
    image_bytes=500_000,
    gradient_bytes=100_000,
    activation_bytes=80 * 10**6,
)


def predictions_by_way(measured, modules, devices):
    return {p.way: p for p in predict(measured, modules, devices)}


def measure_small(args, path):
    """What a process of the command's job does, of the small network."""
    measure.NETWORK = scaling.NETWORK = SMALL
    scaling._measure_in_job(args, path)
