"""The greedy network, which may stand inside of wrappers of meddlr."""

from typing import Any, Optional

from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.modeling.wrappers.draws import is_known

__all__ = ["greedy_inside"]


def greedy_inside(model: Any) -> Optional[GreedyUnrolled]:
    """The network itself, or that inside of wrappers of meddlr; None where it is not trained greedily."""
    while is_known(model):
        model = model.model
    return model if isinstance(model, GreedyUnrolled) else None
