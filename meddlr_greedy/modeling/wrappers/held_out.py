"""Points held out for the loss by meddlr's SSDU: how an image is compared with what was measured there.

meddlr's SSDU, which is for 2D, holds out points of every example's k-space and compares coil images made of these
points alone. Before, it can put measured points in the place of others (``MODEL.SSDU.POSTPROCESSOR``). What was drawn
stands in the batch, and so goes with it to whichever process needs it.
"""

from typing import Any, Dict

import meddlr.ops as oF
from meddlr.forward.mri import SenseModel

__all__ = ["LINES", "REPLACED_KSPACE", "REPLACED_MASK", "TARGET", "coil_images"]

#: Keys of a batch: the mask of the points held out (B, H, W, 1), and coil images (B, H, W, C) of what they measured.
LINES, TARGET = "ssdu_lines", "ssdu_target"

#: Keys of a batch: where the measured k-space replaces that of the image, and that k-space (B, H, W, C).
REPLACED_MASK, REPLACED_KSPACE = "ssdu_replaced_mask", "ssdu_replaced_kspace"


def coil_images(inputs: Dict[str, Any], outputs: Dict[str, Any]) -> Dict[str, Any]:
    """The outputs with coil images of the points held out as "pred" and "target", where the batch has such points."""
    if LINES not in inputs:
        return outputs
    kspace = inputs[LINES] * SenseModel(maps=inputs["maps"])(outputs["pred"], adjoint=False)
    if REPLACED_MASK in inputs:
        replaced = inputs[REPLACED_MASK]
        kspace = (1 - replaced) * kspace + replaced * inputs[REPLACED_KSPACE]
    return {**outputs, "pred": oF.ifft2c(kspace, channels_last=True), "target": inputs[TARGET]}
