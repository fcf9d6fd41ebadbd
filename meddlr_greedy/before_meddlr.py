"""Names that meddlr uses and that newer numpy and pandas no longer have.

meddlr 0.0.9 pins numpy<=1.23.5. Python 3.12 and newer have no such numpy, so there meddlr is installed without its
pins, and uses names that are gone. They are given back before it is imported (:mod:`meddlr_greedy.meddlr_import`), and
nothing else changes: a name that is there stays what it is.
"""

import warnings
from typing import Any, NamedTuple, Sequence

import numpy as np
import pandas as pd

__all__ = ["REMOVED", "RemovedName", "give_back"]


class RemovedName(NamedTuple):
    """A name that meddlr uses and that newer releases no longer have."""

    owner: Any  #: module or class that had it
    name: str
    value: Any  #: what it stood for
    used_in: str  #: the file of meddlr that needs it
    line: int  #: the first line there that does


REMOVED = (
    # The default of an argument: without it, meddlr cannot be imported.
    RemovedName(np, "complex", complex, "data/transforms/subsample.py", 679),
    # Spatial transforms of images with more axes than they expect.
    RemovedName(np, "product", np.prod, "transforms/base/spatial.py", 74),
    # The table that meddlr's evaluator prints. (pandas has the new name from 2.1 on, and the old one until 3.)
    RemovedName(pd.DataFrame, "applymap", getattr(pd.DataFrame, "map", None), "metrics/collection.py", 74),
)


def give_back(removed: Sequence[RemovedName] = REMOVED) -> None:
    """Gives a name back to each owner that no longer has it."""
    for entry in removed:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy 1.23 warns of names that it still has
            is_there = hasattr(entry.owner, entry.name)
        if not is_there:
            setattr(entry.owner, entry.name, entry.value)
