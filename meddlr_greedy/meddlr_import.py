"""What happens when meddlr is imported: it finds the names that it needs, and the package registers its parts with it.

Importing meddlr takes seconds, so ``import meddlr_greedy`` does not do it. Where meddlr is there already, the parts are
registered at once; else as soon as anybody has imported it.
"""

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Optional

from meddlr_greedy.errors import UserError

__all__ = ["INSTALL", "MeddlrMissingError", "register_with_meddlr"]

#: How meddlr is installed where its pins cannot be met.
INSTALL = 'pip install --no-deps "meddlr>=0.0.9,<0.1"'

_MEDDLR = "meddlr"
#: Registers all parts where it is imported.
_REGISTRATION = "meddlr_greedy.registration"
#: Imports numpy and pandas, which takes time.
_BEFORE = "meddlr_greedy.before_meddlr"


class MeddlrMissingError(UserError, ImportError):
    """meddlr is not installed."""


class _RegisteringFinder(MetaPathFinder):
    """Leaves it to the other finders to find meddlr, and registers when it was imported."""

    def find_spec(self, name: str, path: Any = None, target: Optional[ModuleType] = None) -> Optional[ModuleSpec]:
        """Where meddlr is; ``None`` for all other modules.

        Raises:
            MeddlrMissingError: It is not installed.
        """
        if name != _MEDDLR:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next((found for other in others if (found := other.find_spec(name, path, target))), None)
        if spec is None or spec.loader is None:  # a folder of that name without modules is no meddlr either
            raise MeddlrMissingError(
                f"meddlr is not installed; from Python 3.12 on it has a command of its own: {INSTALL}"
            )
        self._prepare(spec.loader)
        return spec

    def _prepare(self, loader: Any) -> None:
        """Lets a loader give names back before it runs meddlr, and register after that."""
        run = loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)  # from here on it is the loader that it was
            importlib.import_module(_BEFORE).give_back()
            run(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            importlib.import_module(_REGISTRATION)

        loader.exec_module = run_and_register


def register_with_meddlr() -> None:
    """Registers what the package holds with meddlr: now where it was imported, else when it will be."""
    if sys.modules.get(_MEDDLR) is not None:
        importlib.import_module(_BEFORE).give_back()  # some names are used later than the import
        importlib.import_module(_REGISTRATION)
    else:
        sys.meta_path.insert(0, _RegisteringFinder())
