"""Gradients of parameters that come from several losses, or from several parts of an image."""

from typing import Dict, Mapping, Optional

import torch
from torch import nn

__all__ = ["Gradients", "add_gradients"]

Gradients = Dict[nn.Parameter, torch.Tensor]


def add_gradients(gradients: Gradients, more: Mapping[nn.Parameter, Optional[torch.Tensor]]) -> None:
    """Adds to each parameter's gradient; None is no gradient."""
    for p, g in more.items():
        if g is not None:
            gradients[p] = gradients[p] + g if p in gradients else g
