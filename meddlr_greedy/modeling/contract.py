"""What greedy learning asks of an unrolled network."""

from typing import Any

from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from torch import nn

from meddlr_greedy.errors import UserError


def is_compatible(network_class: Any) -> bool:
    if not issubclass(network_class, GeneralizedUnrolledCNN):
        return False
    if network_class.forward is GeneralizedUnrolledCNN.forward:
        return True
    # Declared by the class whose forward it is, or by a subclass that knows it; not by one that it overrides.
    classes = network_class.__mro__
    owner = next(i for i, c in enumerate(classes) if "forward" in vars(c))
    return any(vars(c).get("greedy_compatible", False) for c in classes[: owner + 1])


def check_compatible(network: nn.Module) -> None:
    if not is_compatible(type(network)):
        raise UserError(
            f"MISC.GREEDY.META_ARCHITECTURE: {type(network).__name__} cannot be trained greedily: allowed is a"
            " GeneralizedUnrolledCNN, or a subclass driven through step() (one that overrides forward declares"
            " greedy_compatible = True)"
        )
    if not isinstance(network.resnets, nn.Module):
        raise UserError(
            "GreedyUnrolled: the network's blocks are a plain list, so it has no trainable blocks; pass an"
            " nn.ModuleList"
        )
