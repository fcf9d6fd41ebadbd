"""The zoo: small trained networks that come with the package, by name.

Each is a folder beside this file: the weights alone (no state of an optimizer), the config they were trained with, and
a card for people. ``python -m projects.cine.zoo`` trains a network and writes its folder.
"""

from pathlib import Path
from typing import Dict, List

from meddlr_greedy.errors import UserError, did_you_mean, shortened

__all__ = [
    "CARD_FILE",
    "FOLDER",
    "WEIGHTS_FILE",
    "card",
    "is_zoo_name",
    "local_file",
    "seen",
    "summary",
    "zoo_names",
]

#: Of the package, with one folder for each network.
FOLDER = Path(__file__).resolve().parent

WEIGHTS_FILE = "weights.pth"
CARD_FILE = "card.md"

_PREFIX = "zoo://"


def _folders() -> Dict[str, Path]:
    """Name -> folder of each network."""
    return {f"{_PREFIX}{path.parent.name}": path.parent for path in sorted(FOLDER.glob(f"*/{WEIGHTS_FILE}"))}


def zoo_names() -> List[str]:
    """The names of all networks, such as ``zoo://cine-pig-8x``, in alphabetical order."""
    return [*_folders()]


def is_zoo_name(weights: str) -> bool:
    """Whether weights are given by a name of the zoo, known or not."""
    return weights.startswith(_PREFIX)


def _folder(name: str, option: str) -> Path:
    # A name is looked up and never made a path of: it can lead nowhere else.
    folders = _folders()
    if name not in folders:
        near = did_you_mean(name, folders)
        raise UserError(f"{option}: no network {shortened(name)}{near}; allowed are {', '.join(folders)}")
    return folders[name]


def local_file(weights: str, option: str = "MODEL.WEIGHTS") -> str:
    """The path of weights that are given by a name of the zoo, or by a path, which is returned as it is.

    Args:
        weights: A name such as ``zoo://cine-pig-8x``, or a path.
        option: What gave it, for the message.

    Raises:
        UserError: The zoo has no network of this name.
    """
    return str(_folder(weights, option) / WEIGHTS_FILE) if is_zoo_name(weights) else weights


def card(name: str, option: str = "NAME") -> str:
    """The card of a network, Markdown: data and terms of use, recipe, figures, limits.

    Args:
        name: With or without ``zoo://``.
        option: What gave it, for the message.

    Raises:
        UserError: The zoo has no network of this name.
    """
    name = name if is_zoo_name(name) else f"{_PREFIX}{name}"
    return (_folder(name, option) / CARD_FILE).read_text(encoding="utf-8")


def seen(name: str) -> str:
    """How little a network has seen, in one sentence: the first one of the limits on its card."""
    _, limits = card(name).split("\n## Limits\n")
    return " ".join(limits.split()).partition(". ")[0] + "."


def summary(name: str) -> str:
    """What a network is, in one line: the first one of its card below the title."""
    _, first, *_ = filter(None, card(name).splitlines())
    return first
