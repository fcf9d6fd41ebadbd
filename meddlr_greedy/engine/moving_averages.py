"""Exponential moving averages of the weights (``MISC.GREEDY.EMA``), kept beside them.

After update n (from 0) of the optimizer, of each parameter that is trained::

    decay   = min(EMA, (1 + n) / (10 + n))
    average = decay * average + (1 - decay) * weight

The second term of the minimum is that of TensorFlow's ``tf.train.ExponentialMovingAverage`` (``num_updates``): without
it, the average of a short training would be that of its start. Nothing of the training depends on the averages.
"""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping, Optional

from meddlr.utils.general import flatten_dict
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = [
    "BEST_AVERAGES",
    "FINAL_AVERAGES",
    "MovingAverages",
    "average_weights",
    "name_of_averages",
    "with_those_of_averages",
]

#: The averages with the best validation metric of a run, as weights of their own.
BEST_AVERAGES = "model_best_ema.pth"

#: The averages at the end of a run.
FINAL_AVERAGES = "model_final_ema.pth"


class MovingAverages:
    """The averages of the trained parameters of a network, or of the part of it that this process holds.

    Parameters that are not trained, and buffers (BatchNorm's), are not averaged: they stand beside the averages as they
    are.

    Args:
        model: The network on its device, with the weights that the averages begin with.
        decay: ``MISC.GREEDY.EMA``, above 0 and below 1.

    Attributes:
        updates: How often the optimizer has updated since the averages began.
    """

    def __init__(self, model: nn.Module, decay: float):
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._decay = decay
        self.begin()

    def begin(self) -> None:
        """Begins anew, with the weights as they are now."""
        self._averages = [p.detach().clone() for p in self._weights]
        self.updates = 0

    def update(self, *_: Any) -> None:
        """Brings the weights as they are now into the averages; the arguments, those of a hook, do not matter."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        get_ema_multi_avg_fn(decay)(self._averages, self._weights, self.updates)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the network has the averages as its weights; nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for i, p in enumerate(self._weights):
            p.data, self._averages[i] = self._averages[i], p.data


def average_weights(model: nn.Module, optimizer: Any, decay: float) -> Optional[MovingAverages]:
    """From now on every update of the optimizer enters the averages that are returned.

    With accumulation, that is once for each window.

    Args:
        model: The network.
        optimizer: One of torch's, or one that accumulates for it (and gives its methods as its own).
        decay: ``MISC.GREEDY.EMA``; 0 averages nothing.

    Returns:
        The averages; None where there are none.
    """
    if not decay:
        return None
    averages = MovingAverages(model, decay)
    optimizer.register_step_post_hook(averages.update)
    return averages


def name_of_averages(metric: str) -> str:
    """What a metric of the weights is called where it is that of their averages: "val_psnr_ema", for example."""
    name, *map_set = metric.split("/")  # meddlr's "val_psnr/channel_0", where 2D images have several map sets
    return "/".join([f"{name}_ema", *map_set])


def with_those_of_averages(results: Mapping[str, Any], of_averages: Mapping[str, Any]) -> Dict[str, Dict[str, Any]]:
    """Data set -> metric -> value of a validation, with those of the averages beside them under names of their own."""
    return {
        dataset: {**metrics, **{name_of_averages(name): v for name, v in flatten_dict(of_averages[dataset]).items()}}
        for dataset, metrics in results.items()
    }
