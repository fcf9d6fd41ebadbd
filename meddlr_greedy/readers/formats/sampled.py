"""Measured k-space: what was sampled of it, and its readouts without oversampling."""

import numpy as np
import torch

from meddlr_greedy.ops.fft import centered_fft, centered_ifft

__all__ = ["not_zero", "remove_oversampling"]

_FEW_ZEROS = 0.9  # a sampled line may hold zeros by chance; below this it was sampled in part


def not_zero(kspace: np.ndarray) -> np.ndarray:
    """What was sampled of k-space (H, W, T, C), where nothing else tells.

    Returns:
        Bool; (1, W, T) where it is whole lines, (H, W, T) otherwise.
    """
    sampled = (kspace != 0).any(axis=-1)
    share = sampled.mean(axis=0)
    return share[None] > 0 if ((share == 0) | (share > _FEW_ZEROS)).all() else sampled


def remove_oversampling(readouts: np.ndarray, width: int) -> np.ndarray:
    """Keeps the central ``width`` of the N image points of centered readouts (..., N), and their intensities."""
    image = centered_ifft(torch.from_numpy(readouts), dims=(-1,))
    first = readouts.shape[-1] // 2 - width // 2
    return centered_fft(image[..., first : first + width], dims=(-1,)).numpy()
