"""Images as networks return them -> complex images in the units of the scan file."""

from typing import Any, Mapping

import numpy as np
import torch
from meddlr.data.transforms.transform import Normalizer

__all__ = ["as_complex", "in_file_units"]


def as_complex(images: torch.Tensor) -> torch.Tensor:
    """Makes images complex that some of meddlr's networks return as pairs of real numbers.

    Args:
        images: Shape (B, H, W, M), (B, H, W, T, M), complex; or real with an axis of size 2 behind.

    Returns:
        Tensor: Complex, without the last axis; the images themselves where they are complex, or real without that axis.
    """
    is_real_view = not torch.is_complex(images) and images.ndim > 4 and images.shape[-1] == 2
    return torch.view_as_complex(images.contiguous()) if is_real_view else images


def in_file_units(normalizer: Normalizer, images: torch.Tensor, batch: Mapping[str, Any]) -> np.ndarray:
    """Undoes the scaling of the examples.

    Args:
        normalizer: The normalizer that scaled the examples (``MODEL.NORMALIZER``).
        images: Shape (B, H, W, M) or (B, H, W, T, M), complex, on any device.
        batch: Holds "mean" and "std" of the scaling, (B, 1).

    Returns:
        ndarray: On the CPU, of the same shape, complex64.
    """
    scale = {"mean": batch["mean"], "std": batch["std"], "channels_last": True}
    # The normalizer asks for a target too.
    images = normalizer.undo(image=images, target=images, **scale)["image"]
    return images.detach().cpu().numpy().astype(np.complex64)
