"""The centered, orthonormal FFT between images and k-space, and the memory layout in which it is fast.

Zero frequency and the center of the image lie at index ``size // 2`` of each axis. With orthonormal scaling the FFT is
unitary: its adjoint is its inverse, and noise has the same standard deviation on both sides.
"""

from typing import Sequence

import torch

__all__ = ["centered_fft", "centered_ifft", "from_fft_layout", "to_fft_layout"]


def centered_fft(image: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """Transforms an image to k-space.

    Args:
        image: Complex, any shape.
        dims: Axes to transform; the others are batch axes.

    Returns:
        k-space of the same shape and dtype.
    """
    dims = tuple(dims)
    kspace = torch.fft.fftn(torch.fft.ifftshift(image, dim=dims), dim=dims, norm="ortho")
    return torch.fft.fftshift(kspace, dim=dims)


def centered_ifft(kspace: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """Transforms k-space to an image: inverse and adjoint of :func:`centered_fft`.

    Args:
        kspace: Complex, any shape.
        dims: Axes to transform; the others are batch axes.

    Returns:
        The image, of the same shape and dtype.
    """
    dims = tuple(dims)
    image = torch.fft.ifftn(torch.fft.ifftshift(kspace, dim=dims), dim=dims, norm="ortho")
    return torch.fft.fftshift(image, dim=dims)


def to_fft_layout(x: torch.Tensor) -> torch.Tensor:
    """Returns a view (B, M, T, H, W) of images (B, H, W, T, M); likewise of k-space, with coils C in place of M.

    Readout H and phase encode W are innermost: in this order of memory an FFT along them copies nothing.
    """
    return x.permute(0, 4, 3, 1, 2)


def from_fft_layout(x: torch.Tensor) -> torch.Tensor:
    """Returns a view (B, H, W, T, M) of (B, M, T, H, W); inverse of :func:`to_fft_layout`."""
    return x.permute(0, 3, 4, 2, 1)
