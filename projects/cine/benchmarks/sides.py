"""The sides of the comparisons of time: one small cine network, trained in several ways."""

from dataclasses import dataclass
from typing import Any, Dict

__all__ = ["METHODS", "NETWORK", "SIDES", "Side"]

#: The network that is timed: one unrolled step in each module, on one example (H, W, T).
NETWORK: Dict[str, Any] = {"modules": 4, "features": 32, "shape": (64, 48, 12), "num_coils": 8}

_PLAIN, _INVERTIBLE = "CineUnrolledCNN", "InvertibleCineUnrolledCNN"


@dataclass(frozen=True)
class Side:
    """One way to train.

    Attributes:
        processes: That train one network.
        modules: K; 0 is the plain network.
        preloaded: Whether the example is read once only.
        copies: Independent runs at the same time.
        checkpoint: Whether the steps of a module are run again in the backward.
        invertible: Whether the network is an invertible one, trained by inversion.
        steps: Unrolled steps.
        features: Of the regularizer.
    """

    processes: int = 1
    modules: int = 0
    preloaded: bool = True
    copies: int = 1
    checkpoint: bool = False
    invertible: bool = False
    steps: int = NETWORK["modules"]
    features: int = NETWORK["features"]

    @property
    def overrides(self) -> Dict[str, Any]:
        """Of the config: section, key or value in it -> value."""
        network = _INVERTIBLE if self.invertible else _PLAIN
        greedy: Dict[str, Any] = {
            "META_ARCHITECTURE": network,
            "NUM_MODULES": self.modules or 1,
            "CHECKPOINT": self.checkpoint,
        }
        unrolled: Dict[str, Any] = {"NUM_UNROLLED_STEPS": self.steps, "NUM_FEATURES": self.features}
        if self.invertible:
            greedy["TRAINING"] = "invertible"
            unrolled["STEP_SIZES"] = (-0.5,)
        architecture = "GreedyUnrolled" if self.modules else network
        return {"MODEL": {"META_ARCHITECTURE": architecture, "UNROLLED": unrolled}, "MISC": {"GREEDY": greedy}}


#: The sides of `timing`.
SIDES = {
    "backpropagation": Side(),
    "greedy": Side(modules=4),
    "parallel greedy": Side(processes=2, modules=4),
    "parallel greedy, real loader": Side(processes=2, modules=4, preloaded=False),
    "two independent processes": Side(modules=4, copies=2),
}


def _deep(**kwargs: Any) -> Side:
    """A network deep enough to show what grows with depth: the images between the steps."""
    return Side(steps=8, features=16, **kwargs)


#: Every way to train that the plugin has; the first is the plain network.
METHODS = {
    "backpropagation": _deep(),
    "checkpointed backpropagation": _deep(modules=1, checkpoint=True),
    "invertible": _deep(modules=1, invertible=True),
    "greedy, 2 modules": _deep(modules=2),
    "greedy, 4 modules": _deep(modules=4),
    "greedy, 8 modules": _deep(modules=8),
    "greedy, 2 modules, checkpointed": _deep(modules=2, checkpoint=True),
    "parallel greedy, 2 processes": _deep(processes=2, modules=8),
}
