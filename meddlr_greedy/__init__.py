"""Greedy training of unrolled MRI reconstruction networks, as a plugin of meddlr.

Importing this package registers its architectures, losses, masks and datasets with meddlr.
"""

__version__ = "0.2.0.dev0"

#: Named in a config as ``MISC: {PLUGIN: !!python/name:meddlr_greedy.PLUGIN ''}``, this makes meddlr's own train_net
#: import the package before it builds anything.
PLUGIN = "meddlr_greedy"

from meddlr_greedy.before_meddlr import check_meddlr, give_back  # noqa: E402

check_meddlr()
give_back()

from meddlr_greedy.data import masks, normalizers  # noqa: E402, F401
from meddlr_greedy.data.catalog import register_datasets  # noqa: E402
from meddlr_greedy.modeling import losses, networks, regularizers  # noqa: E402, F401
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled  # noqa: E402

register_datasets()

__all__ = ["GreedyUnrolled", "PLUGIN", "__version__"]
