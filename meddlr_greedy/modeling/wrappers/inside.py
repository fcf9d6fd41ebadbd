"""The greedy network, which may stand inside of wrappers of meddlr."""

from typing import Any, Optional

from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.modeling.wrappers.draws import is_known

__all__ = ["greedy_inside", "prefix_inside"]


def greedy_inside(model: Any) -> Optional[GreedyUnrolled]:
    """The network itself, or that inside of wrappers of meddlr; None where it is not trained greedily."""
    while is_known(model):
        model = model.model
    return model if isinstance(model, GreedyUnrolled) else None


def prefix_inside(model: Any) -> str:
    """What the names of parameters of the network inside of wrappers of meddlr begin with."""
    return "model." + prefix_inside(model.model) if is_known(model) else ""
