"""The configs that come with the package, found by their name."""

import os
from pathlib import Path
from typing import List

from meddlr_greedy.errors import UserError, did_you_mean

__all__ = ["find_config", "shipped_configs"]


def _folder() -> Path:
    """Where the configs lie: inside of an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_configs() -> List[str]:
    """The names of all configs of the package, such as ``cine/greedy.yaml``, in alphabetical order."""
    folder = _folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))


def find_config(name: str) -> str:
    """The path of a config file that is given by its path, or by its name among the configs of the package.

    Args:
        name: A path, or a name such as ``cine/greedy.yaml``. A path that exists wins.

    Returns:
        str: The path of the file.

    Raises:
        UserError: there is neither.
    """
    if os.path.exists(name):
        return name
    names = shipped_configs()
    if name not in names:
        raise UserError(
            f"--config-file {name}: No such file or config of the package{did_you_mean(name, names)};"
            f" the package has {', '.join(names)}"
        )
    return str(_folder() / name)
