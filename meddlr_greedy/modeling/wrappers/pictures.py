"""The pictures that meddlr's wrappers draw of a training (``VIS_PERIOD``), of the parts of a batch."""

from typing import Any, Dict

import torch
from meddlr.modeling.meta_arch.ssdu import SSDUModel
from meddlr.utils.events import get_event_storage

from meddlr_greedy.modeling.contract import inner_network
from meddlr_greedy.modeling.parts import CONSISTENCY, RECON
from meddlr_greedy.modeling.wrappers.held_out import LINES

__all__ = ["draw_pictures"]


@torch.no_grad()
def draw_pictures(wrapper: Any, outputs: Dict[str, Dict[str, Any]]) -> None:
    """Draws what meddlr's wrapper would, into meddlr's event storage, in the iterations that it would draw in.

    Args:
        wrapper: One of meddlr's around a greedy network.
        outputs: Of each part, with the "inputs" that the network saw; of a network's last module.
    """
    network = inner_network(wrapper)
    recon = outputs.get(RECON)
    if recon is not None and LINES not in recon["inputs"] and _draws_now(wrapper, network):
        network.visualize_training(_kspace(recon), recon["zf_image"], recon["target"], recon["pred"].detach())
    ssdu = wrapper if isinstance(wrapper, SSDUModel) else wrapper.model
    if recon is not None and isinstance(ssdu, SSDUModel) and _draws_now(ssdu):
        masks = [recon["inputs"][name][0, ..., :1].float() for name in ("mask", LINES)]
        images = [recon[name][0].detach() for name in ("zf_image", "pred")]
        ssdu.visualize({"masks": masks, "kspace": [_kspace(recon)[0, ..., :1]], "images": images})
    consistency = outputs.get(CONSISTENCY)
    if consistency is not None and _draws_now(wrapper):
        clean = {**consistency, "inputs": consistency["clean_inputs"]}
        pair = (consistency["pred"].detach(), consistency["target"])
        wrapper.visualize_aug_training(_kspace(clean), _kspace(consistency), *pair)


def _draws_now(*models: Any) -> bool:
    periods = [model.vis_period for model in models if model.vis_period and model.vis_period > 0]
    return bool(periods) and get_event_storage().iter % periods[0] == 0


def _kspace(outputs: Dict[str, Any]) -> torch.Tensor:
    """k-space that the network saw; where another process has used it up, its mask."""
    inputs = outputs["inputs"]
    return inputs.get("kspace", inputs["mask"].to(outputs["zf_image"].dtype))
