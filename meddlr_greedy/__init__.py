"""Greedy training of unrolled MRI reconstruction networks, as a plugin of meddlr.

With this package imported, meddlr knows its architectures, losses, masks and datasets, whichever is imported first.
"""

from typing import TYPE_CHECKING, Any

from meddlr_greedy.host_memory import ask_for_huge_pages
from meddlr_greedy.meddlr_import import register_with_meddlr

if TYPE_CHECKING:
    from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled

__version__ = "0.2.0"

#: Named in a config as ``MISC: {PLUGIN: !!python/name:meddlr_greedy.PLUGIN ''}``, this makes meddlr's own train_net
#: import the package before it builds anything.
PLUGIN = "meddlr_greedy"

__all__ = ["GreedyUnrolled", "PLUGIN", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is asked for."""
    if name != "GreedyUnrolled":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled

    return GreedyUnrolled


ask_for_huge_pages()
register_with_meddlr()
