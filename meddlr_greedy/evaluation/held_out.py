"""Scores reconstructions of scans without targets: by the loss of lines that the network was not given."""

from typing import Any, Dict, List

from meddlr.config import CfgNode
from meddlr.evaluation import DatasetEvaluator

from meddlr_greedy.modeling.losses import LeanLossComputer

__all__ = ["HELD_OUT_METRIC", "HeldOutEvaluator"]

#: Name of the metric; lower is better.
HELD_OUT_METRIC = "val_held_out_loss"


class HeldOutEvaluator(DatasetEvaluator):
    """The loss of ``MODEL.RECON_LOSS`` on the lines held out, the mean over batches.

    Args:
        cfg: With ``MISC.GREEDY.CINE.LOSS_LINES``; the batches are those of a loader that holds out these lines.
    """

    def __init__(self, cfg: CfgNode):
        self._loss = LeanLossComputer(cfg)
        self._values: List[float] = []

    @property
    def metric_names(self) -> List[str]:
        """The metrics as they are called in the results."""
        return [HELD_OUT_METRIC]

    def reset(self) -> None:
        """Forgets all values."""
        self._values = []

    def process(self, inputs: Dict[str, Any], outputs: Dict[str, Any]) -> None:
        """Adds the loss of one batch, as the loss computer takes it."""
        self._values.append(float(self._loss.local_loss(inputs, outputs)))

    def evaluate(self) -> Dict[str, float]:
        """Returns the mean over the batches."""
        return {HELD_OUT_METRIC: sum(self._values) / len(self._values)}
