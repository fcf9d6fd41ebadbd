"""What a plan takes for the draws and the batches of meddlr's wrappers around a greedy network."""

from typing import Any, Callable, Dict, Tuple

import torch
from meddlr.config import CfgNode

from meddlr_greedy.config.schema import is_greedy
from meddlr_greedy.config.wrappers import CONSISTENCY_SECTIONS, GREEDY_NETWORK, key_of_network, wrappers_of
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.wrappers.draws import Draws

__all__ = ["PlannedDraws", "largest_batch"]


class PlannedDraws(Draws):
    """Nothing is drawn: what would be has the shape of what is there. Work areas of drawing are not seen."""

    def perturbed(self, model: Any, kspace: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 (an extension point)
        """A copy of k-space."""
        return kspace.clone()

    def masked(
        self,
        wrapper: Any,  # noqa: ARG002 (an extension point)
        batch: Dict[str, Any],
    ) -> Tuple[Dict[str, Any], torch.Tensor, torch.Tensor]:
        """A copy of the batch and of its mask."""
        inputs = {key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)}
        return inputs, inputs["mask"], inputs["mask"][..., :1].clone()

    def augmented(
        self,
        augmentor: Any,  # noqa: ARG002 (an extension point)
        kspace: torch.Tensor,
        maps: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """Copies of k-space and maps; an image becomes a copy of it."""
        return kspace.clone(), maps.clone(), torch.clone


def largest_batch(cfg: CfgNode, batch: Dict[str, Any]) -> Dict[str, Any]:
    """Of the batches of these examples that a wrapper can get, the one that needs the most memory.

    With consistency, that is one without targets: its clean and its perturbed images are there. Where examples with
    targets are used for consistency, too, it is one with targets.

    Raises:
        UserError: There is no greedy network inside of the wrapper.
    """
    wrappers = wrappers_of(cfg)
    if not wrappers:
        return batch
    if not is_greedy(cfg):
        raise UserError(
            f"{key_of_network(cfg)}: found '{cfg.get_recursive(key_of_network(cfg))}', but inside of"
            f" {cfg.MODEL.META_ARCHITECTURE} only '{GREEDY_NETWORK}' can be planned (NUM_MODULES 1 is backpropagation)"
        )
    if wrappers[0] not in CONSISTENCY_SECTIONS:
        return batch
    if cfg.MODEL[wrappers[0]].USE_SUPERVISED_CONSISTENCY:
        frames = batch["kspace"].shape[:-1]
        target = {"target": torch.empty((*frames, batch["maps"].shape[-1]), dtype=batch["kspace"].dtype)}
        return {"supervised": {**target, **batch}}
    return {"unsupervised": {key: value for key, value in batch.items() if key != "target"}}
