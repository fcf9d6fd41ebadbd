"""The losses of meddlr's wrappers around a greedy network, part by part."""

from typing import Any, Dict

import torch
from meddlr.config import CfgNode
from meddlr.modeling.loss_computer import LossComputer

from meddlr_greedy.config.wrappers import CONSISTENCY_SECTIONS, wrappers_of
from meddlr_greedy.modeling.losses import Inputs, LeanLossComputer, LocalLoss, Outputs
from meddlr_greedy.modeling.parts import CONSISTENCY, RECON
from meddlr_greedy.modeling.wrappers.held_out import coil_images

__all__ = ["WrapperLossComputer"]

# Of the metrics of each part, as of meddlr's N2RLossComputer.
_PREFIXES = {RECON: "recon_", CONSISTENCY: "cons_"}


class WrapperLossComputer(LossComputer):
    """The loss of a wrapper: the sum of the losses of its parts.

    Called with a batch and the outputs of each part by name, it returns the total ``loss``, and loss and metrics of
    each part with the names that meddlr's loss computer of the wrapper gives them. Images are compared on the scale of
    their own examples (``MODEL.RECON_LOSS.RENORMALIZE_DATA``).

    Args:
        cfg: meddlr's config.

    Attributes:
        local_losses: The local loss of a module's image of each part, with the weight of the part.
        use_consistency: ``MODEL.CONSISTENCY.USE_CONSISTENCY``.

    Raises:
        UserError: A loss is unknown.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        consistency = cfg.MODEL.CONSISTENCY
        self._computers = {RECON: LeanLossComputer(cfg)}
        self._weights = {RECON: 1.0, CONSISTENCY: consistency.LOSS_WEIGHT}
        self.use_consistency = consistency.USE_CONSISTENCY
        self._has_consistency = wrappers_of(cfg)[0] in CONSISTENCY_SECTIONS
        if self._has_consistency:
            self._computers[CONSISTENCY] = LeanLossComputer(cfg, "MODEL.CONSISTENCY.LOSS_NAME")
        self.local_losses: Dict[str, LocalLoss] = {name: self._local_loss(name) for name in self._computers}

    def __call__(self, input: Inputs, output: Dict[str, Outputs]) -> Dict[str, torch.Tensor]:  # noqa: ARG002 (meddlr's)
        """Computes loss and metrics of the parts, whose outputs hold their "inputs"."""
        computed: Dict[str, torch.Tensor] = {}
        loss: Any = 0
        for name, outputs in output.items():
            of_part = self._computers[name](outputs["inputs"], coil_images(outputs["inputs"], outputs))
            loss = loss + self._weighted(name, of_part["loss"])
            prefix = _PREFIXES[name] if self._has_consistency else ""
            computed.update({prefix + key: value for key, value in of_part.items()})
        return {**computed, "loss": loss}

    def _weighted(self, name: str, loss: torch.Tensor) -> torch.Tensor:
        return loss if name == RECON else self._weights[name] * loss

    def _local_loss(self, name: str) -> LocalLoss:
        computer = self._computers[name]

        def local_loss(inputs: Inputs, outputs: Outputs) -> torch.Tensor:
            return self._weighted(name, computer.local_loss(inputs, coil_images(inputs, outputs)))

        return local_loss
