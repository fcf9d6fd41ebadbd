"""What every unrolled network does with meddlr's batch before its first step."""

from typing import Any, Dict

from meddlr.forward.mri import SenseModel
from meddlr.ops import complex as cplx
from meddlr.utils.general import move_to_device
from torch import nn

from meddlr_greedy.errors import UserError

__all__ = ["prepare_inputs"]


def prepare_inputs(network: nn.Module, inputs: Dict[str, Any]) -> Dict[str, Any]:
    """The batch on the network's device with masked k-space, mask and signal model; the batch given stays as it is.

    The signal model is that of ``network.build_signal_model(maps, mask)`` where the network has it, else meddlr's. A
    batch without k-space (handed on by another process, which has used it up) has a mask.

    Raises:
        UserError: where the maps do not fit the network.
    """
    inputs = move_to_device(inputs, next(network.parameters()).device)
    kspace, maps, mask = inputs.get("kspace"), inputs["maps"], inputs.get("mask")
    num_maps = maps.shape[-2 if cplx.is_complex_as_real(maps) else -1]
    if num_maps != network.num_emaps:
        raise UserError(f"MODEL.UNROLLED.NUM_EMAPS: found {network.num_emaps}, but the data has {num_maps} map sets")
    if mask is None:
        mask = cplx.get_mask(kspace)
    signal_model = inputs.get("signal_model")
    if signal_model is None:
        signal_model = getattr(network, "build_signal_model", SenseModel)(maps, mask)
    masked = {} if kspace is None else {"kspace": kspace * mask}
    return {**inputs, **masked, "mask": mask, "signal_model": signal_model}
