"""What meddlr's wrappers cannot do around a greedy network, refused before the training."""

from meddlr.config import CfgNode
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY

from meddlr_greedy.config.rules import is_number
from meddlr_greedy.config.schema import GreedyConfig, is_greedy
from meddlr_greedy.config.wrappers import CONSISTENCY_SECTIONS, GREEDY_NETWORK, wrappers_of
from meddlr_greedy.errors import UserError, shortened
from meddlr_greedy.modeling.contract import traits_of

__all__ = ["check_wrappers"]

# Those whose noise or motion does not ask for the number of axes.
_FOR_CINE = ("N2R", "M2R", "NM2R")


def check_wrappers(cfg: CfgNode) -> None:
    """Refuses a config whose wrappers cannot train the greedy network inside of them; any other one passes.

    Raises:
        UserError: names the key.
    """
    if not is_greedy(cfg):
        return
    greedy, wrappers = GreedyConfig.from_cfg(cfg), wrappers_of(cfg)
    if greedy.CONSISTENCY_TARGET != "network" and not set(wrappers) & set(CONSISTENCY_SECTIONS):
        raise UserError(
            f"MISC.GREEDY.CONSISTENCY_TARGET: found '{greedy.CONSISTENCY_TARGET}', which {cfg.MODEL.META_ARCHITECTURE}"
            " (MODEL.META_ARCHITECTURE) would ignore; it is for meddlr's wrappers with consistency"
        )
    if not wrappers:
        return
    outer, *inner = wrappers
    if inner and wrappers != ["N2R", "SSDU"]:
        raise UserError(
            f"MODEL.{outer}.META_ARCHITECTURE: found '{cfg.MODEL[outer].META_ARCHITECTURE}', allowed is"
            f" '{GREEDY_NETWORK}'; of wrappers, N2RModel alone can have one inside, SSDUModel"
        )
    if cfg.MODEL.CONSISTENCY.USE_LATENT and outer in CONSISTENCY_SECTIONS:
        raise UserError(
            "MODEL.CONSISTENCY.USE_LATENT: found True, but unrolled networks have no latent images (meddlr ends in a"
            " KeyError); allowed is False"
        )
    if greedy.CINE.LOSS_LINES:
        raise UserError(
            f"MISC.GREEDY.CINE.LOSS_LINES: found {greedy.CINE.LOSS_LINES:g}, but {cfg.MODEL.META_ARCHITECTURE}"
            " (MODEL.META_ARCHITECTURE) has losses of its own; 0 is allowed"
        )
    _check_cine(greedy, outer)
    if "SSDU" in wrappers:
        _check_masker(cfg)


def _check_cine(greedy: GreedyConfig, outer: str) -> None:
    network = dict(META_ARCH_REGISTRY).get(greedy.META_ARCHITECTURE)
    if traits_of(network).is_cine and outer not in _FOR_CINE:
        instead = "; MISC.GREEDY.CINE.LOSS_LINES trains cine without targets" if outer == "SSDU" else ""
        raise UserError(
            f"MISC.GREEDY.META_ARCHITECTURE: found '{greedy.META_ARCHITECTURE}', which takes cine, but meddlr's"
            f" {outer} is for 2D{instead}"
        )


def _check_masker(cfg: CfgNode) -> None:
    """What meddlr's masker has no mask for."""
    params = cfg.MODEL.SSDU.MASKER.PARAMS
    if not is_number(params.get("p")) or params.p < 1:
        raise UserError(
            f"MODEL.SSDU.MASKER.PARAMS.p: found {shortened(params.get('p'))}, allowed is 1.0: an example without a mask"
            " has no loss (meddlr ends in an AttributeError)"
        )
    rhos = params.get("rhos")
    if not all(is_number(rho) and 0 < rho < 1 for rho in (rhos if isinstance(rhos, (list, tuple)) else [rhos])):
        raise UserError(
            f"MODEL.SSDU.MASKER.PARAMS.rhos: found {shortened(rhos)}, allowed is a number between 0 and 1, the part of"
            " the points that is held out, or a list of the least and the largest"
        )
