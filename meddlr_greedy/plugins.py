"""The door for other people's packages: what they register works through every command.

A package registers its parts when it is imported: networks and regularizers in meddlr's ``META_ARCH_REGISTRY``, masks
in its ``MASK_FUNC_REGISTRY``, losses, hooks, trainers and readers in those of :mod:`meddlr_greedy.registry`. It is
imported because the config names it (``MISC.GREEDY.RUN.IMPORTS``), or because it declares an entry point of the group
``meddlr_greedy.plugins`` and is installed. Every process of a run imports it, before the config is checked.
"""

import importlib
import importlib.metadata
import pkgutil
from typing import Iterable, Sequence

from meddlr_greedy.errors import UserError

__all__ = ["ENTRY_POINTS", "import_modules_of", "import_plugins"]

#: The group of entry points, each of which names a module to import.
ENTRY_POINTS = "meddlr_greedy.plugins"


def import_plugins(names: Sequence[str] = (), key: str = "imports") -> None:
    """Imports packages by name, and those that are installed with an entry point; each once.

    Args:
        names: Dotted names of modules.
        key: What named them, for messages.

    Raises:
        UserError: A package is not there, or fails when it is imported.
    """
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry_point.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (it is somebody else's code)
            raise UserError(
                f"entry point '{entry_point.name}' of {ENTRY_POINTS} ({entry_point.value}): {_reason(error)}; mend or"
                " uninstall the package"
            ) from error
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (it is somebody else's code)
            raise UserError(f"{key}: '{name}' cannot be imported: {_reason(error)}") from error


def import_modules_of(package: str, path: Iterable[str]) -> None:
    """Imports all modules of a package of this plugin, so that a new file registers what it holds.

    Args:
        package: Its dotted name.
        path: Its ``__path__``.
    """
    for module in sorted(module.name for module in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
