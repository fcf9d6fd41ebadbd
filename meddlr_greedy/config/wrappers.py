"""meddlr's wrappers, which train the network inside them by losses of their own: what a config says of them."""

from typing import Any, Dict, List

from meddlr_greedy.errors import UserError

__all__ = ["CONSISTENCY_SECTIONS", "GREEDY_NETWORK", "SECTIONS", "key_of_network", "name_inside", "wrappers_of"]

#: Of each wrapper, by its registered names, the section of ``MODEL`` whose ``META_ARCHITECTURE`` is inside.
SECTIONS: Dict[str, str] = {
    "N2RModel": "N2R",
    "M2RModel": "M2R",
    "NM2RModel": "NM2R",
    "VortexModel": "A2R",
    "A2RModel": "A2R",
    "SSDUModel": "SSDU",
    "DenoisingModel": "DENOISING",
}

#: Sections of the wrappers that compare images of a perturbed batch with images of the clean one.
CONSISTENCY_SECTIONS = ("N2R", "M2R", "NM2R", "A2R")

#: The registered name of the network that is trained greedily.
GREEDY_NETWORK = "GreedyUnrolled"


def wrappers_of(cfg: Any) -> List[str]:
    """The wrappers of a config by their sections, the outermost first; none where there are no wrappers.

    Raises:
        UserError: A wrapper stands inside of itself.
    """
    sections: List[str] = []
    name = cfg.MODEL.META_ARCHITECTURE
    while name in SECTIONS:
        section = SECTIONS[name]
        if section in sections:
            raise UserError(f"MODEL.{sections[-1]}.META_ARCHITECTURE: found '{name}', which stands around it already")
        sections.append(section)
        name = cfg.MODEL[section].META_ARCHITECTURE
    return sections


def key_of_network(cfg: Any) -> str:
    """The key that names the network inside of all wrappers."""
    sections = wrappers_of(cfg)
    return f"MODEL.{sections[-1]}.META_ARCHITECTURE" if sections else "MODEL.META_ARCHITECTURE"


def name_inside(cfg: Any) -> str:
    """The registered name of the network inside of all wrappers."""
    return cfg.get_recursive(key_of_network(cfg))
