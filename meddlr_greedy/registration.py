"""Registers with meddlr what the package holds: masks, normalizers, networks, losses, regularizers and data sets.

It is imported with meddlr, see :mod:`meddlr_greedy.meddlr_import`.
"""

from meddlr_greedy.data import masks, normalizers  # noqa: F401 (these and those below register where they are imported)
from meddlr_greedy.data.catalog import register_datasets
from meddlr_greedy.modeling import losses, networks, regularizers  # noqa: F401
from meddlr_greedy.modeling.greedy import wrapper  # noqa: F401

register_datasets()
