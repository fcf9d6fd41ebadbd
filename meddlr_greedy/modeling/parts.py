"""What a wrapper of meddlr makes of one batch: the batches that the network inside of it is trained on."""

from typing import Any, Callable, Dict, NamedTuple, Optional

import torch

__all__ = ["CONSISTENCY", "RECON", "Part"]

#: Names of parts, as of meddlr's outputs.
RECON, CONSISTENCY = "recon", "consistency"


def _as_it_is(image: torch.Tensor) -> torch.Tensor:
    return image


class Part(NamedTuple):
    """A batch for the network inside of a wrapper, with all that was drawn for it."""

    inputs: Dict[str, Any]  #: what the network sees, meddlr's batch
    #: the batch before it was perturbed; what the network makes of it is the target
    clean: Optional[Dict[str, Any]] = None
    #: what the perturbation does to images (B, H, W, [T,] M) of the clean batch
    transform: Callable[[torch.Tensor], torch.Tensor] = _as_it_is
