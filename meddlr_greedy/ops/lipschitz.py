"""Upper bound of the operator norm of a convolution, a differentiable function of its weights."""

import math

import torch

__all__ = ["convolution_norm_bound"]

# Frequencies of each axis for each tap of the kernel, and squarings of the Gram matrices: together they overestimate
# the norm by a tenth.
_FREQUENCIES_PER_TAP = 4
_SQUARINGS = 5


def convolution_norm_bound(weight: torch.Tensor) -> torch.Tensor:
    r"""Bounds the 2-norm of a convolution with stride 1, circular or zero padded, of images of any size.

    That norm is at most :math:`\sup_\omega \sigma_{max}(K(\omega))` over the kernel's transfer matrices. Two steps,
    both from above, so that the result is a bound and no estimate:

    * Frequencies on a grid of n points an axis: for real trigonometric polynomials of degree d, here
      :math:`\mathrm{Re}\, u^H K(\omega) v` with d = (k - 1) / 2, the maximum on the grid misses that in between by a
      factor of at most :math:`1 / \cos(\pi d / n)` (Ehlich and Zeller, Math. Z. 1964).
    * :math:`\sigma_{max}^2 = \lambda_{max}(G) \le \lVert G^{2^t} \rVert_F^{1 / 2^t}` for the Gram matrix
      :math:`G = K K^H` (Delattre et al., "Efficient bound of Lipschitz constant for convolutional layers by Gram
      iteration", ICML 2023).

    Unlike power iteration it keeps no vectors from one call to the next, and never lies below the norm.

    Args:
        weight: Kernel, real, shape (out_channels, in_channels, k_1, k_2), k odd.

    Returns:
        The bound, a scalar.
    """
    # An axis of one tap is the same at all frequencies.
    taps = weight.shape[2:]
    grid = [_FREQUENCIES_PER_TAP * k if k > 1 else 1 for k in taps]
    between = math.prod(1 / math.cos(math.pi * (k // 2) / n) for k, n in zip(taps, grid))
    transfer = torch.fft.rfft2(weight, s=grid).permute(2, 3, 0, 1)  # conjugate frequencies have equal norms
    wide = transfer if weight.shape[0] <= weight.shape[1] else transfer.mH
    gram = wide @ wide.mH
    # Scaled to norm one before each squaring, or it would overflow; the scales are collected as a logarithm.
    log_norm = torch.zeros_like(gram[..., :1, :1].real)
    for _ in range(_SQUARINGS):
        norm = _frobenius(gram)
        gram = gram / norm
        gram = gram @ gram
        log_norm = 2 * (log_norm + norm.log())
    log_norm = log_norm + _frobenius(gram).log()
    return between * (log_norm.amax() / 2 ** (_SQUARINGS + 1)).exp()


def _frobenius(matrices: torch.Tensor) -> torch.Tensor:
    """Frobenius norm, (..., 1, 1); at least the smallest normal number, so that zero weights divide by no zero."""
    squares = torch.view_as_real(matrices).square().sum(dim=(-3, -2, -1))[..., None, None]
    return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
