"""Receive coils: noise prewhitening, and compression to a few virtual coils.

All functions take torch tensors with the coils C on the last axis, as in k-space (H, W, T, C). A linear combination of
coils is a matrix of shape (C, V), applied as ``kspace @ matrix``.
"""

from typing import Tuple

import torch

from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.fft import centered_fft, centered_ifft

__all__ = [
    "compress_coils",
    "geometric_compression",
    "noise_covariance",
    "svd_compression",
    "whitening_matrix",
]

_READOUT = (0,)  # the first axis


def noise_covariance(noise: torch.Tensor) -> torch.Tensor:
    r"""Covariance :math:`\Sigma_{ij} = E[n_i n_j^*]` of the coils' noise, whose mean is zero.

    Args:
        noise: Samples of noise alone, complex, shape (..., C).

    Returns:
        complex128, shape (C, C).

    Raises:
        UserError: where there are fewer samples than coils, or a sample is not finite.
    """
    samples = noise.reshape(-1, noise.shape[-1]).to(torch.complex128)
    num_samples, num_coils = samples.shape
    if num_samples < num_coils:
        raise UserError(f"noise: found {num_samples} samples of {num_coils} coils, allowed at least one for each coil")
    if not torch.isfinite(torch.view_as_real(samples)).all():
        raise UserError("noise: found NaN or infinite samples, allowed finite ones")
    return samples.mT @ samples.conj() / num_samples


def whitening_matrix(covariance: torch.Tensor, bandwidth_ratio: float = 1.0) -> torch.Tensor:
    r"""Combination of coils after which their noise is uncorrelated and of unit variance.

    With the Cholesky factor :math:`\Sigma = L L^H` (Pruessmann et al., MRM 46:638-651, 2001, Appendix A) it is
    :math:`L^{-1}`: of complex samples :math:`E[n n^H]` becomes the identity, hence 1/2 for each of the real and the
    imaginary part.

    Args:
        covariance: Of the noise scan, from :func:`noise_covariance`, shape (C, C).
        bandwidth_ratio: Noise bandwidth of the data over that of the noise scan, to which the variance is proportional:
            dwell time of the noise scan over dwell time of the data, divided by the receiver's relative noise
            bandwidth, where it is known.

    Returns:
        complex64, shape (C, C), for ``kspace @ matrix``.

    Raises:
        UserError: where the covariance is not positive definite (a dead coil, or two that are one), or the ratio is
            not a positive number.
    """
    if not 0 < bandwidth_ratio < float("inf"):
        raise UserError(f"noise: ratio of bandwidths: found {bandwidth_ratio:g}, allowed above 0")
    variances = torch.diagonal(covariance).real
    dead = torch.nonzero(variances <= 1e-12 * variances.max()).flatten().tolist()
    # Of unit diagonal, so that gains of coils in different units do not look like dependence.
    scale = variances.clamp_min(torch.finfo(variances.dtype).tiny).rsqrt()
    factor, failed = torch.linalg.cholesky_ex(scale[:, None] * covariance * scale)
    pivots = torch.diagonal(factor).real
    if dead or failed or pivots.min() < 1e-6:
        reason = f"no noise in coil {dead[0]}" if dead else "linearly dependent coils"
        raise UserError(f"noise: found {reason}, allowed a positive definite covariance")
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False) * scale
    return (inverse.mT / bandwidth_ratio**0.5).to(torch.complex64).contiguous()


def svd_compression(kspace: torch.Tensor, num_virtual: int) -> torch.Tensor:
    """Matrix to the virtual coils that hold most energy, one for all of k-space (Huang et al., MRI 26:133-141, 2008).

    Args:
        kspace: Complex, shape (..., C); what was not sampled may be zero.
        num_virtual: Number of virtual coils V, at most C.

    Returns:
        Orthonormal columns, shape (C, V), strongest first.

    Raises:
        UserError: where V is not allowed.
    """
    _check_num_virtual(kspace, num_virtual)
    return _principal_coils(kspace.reshape(-1, kspace.shape[-1]))[0][:, :num_virtual]


def geometric_compression(kspace: torch.Tensor, num_virtual: int) -> torch.Tensor:
    """Matrices to virtual coils for each readout position (Zhang et al., MRM 69:571-582, 2013).

    Fully sampled along the readout, k-space separates into one problem for each position, each with fewer coils that
    matter than the whole. Their principal coils are defined up to a unitary matrix, which is chosen so that
    neighboring positions agree best (orthogonal Procrustes), from the position of most energy outwards: virtual coils
    then vary smoothly along the readout. With V = C the matrices are all the same, and nothing is lost.

    Args:
        kspace: Centered k-space, complex, shape (H, ..., C), readout H first; lines not sampled may be zero.
        num_virtual: Number of virtual coils V, at most C.

    Returns:
        Shape (H, C, V), of orthonormal columns, for :func:`compress_coils`.

    Raises:
        UserError: where V is not allowed.
    """
    _check_num_virtual(kspace, num_virtual)
    hybrid = centered_ifft(kspace, _READOUT)
    matrices, singular_values = _principal_coils(hybrid.reshape(len(hybrid), -1, hybrid.shape[-1]))
    matrices = matrices[..., :num_virtual].clone()
    start = int(singular_values.square().sum(-1).argmax())
    for steps in (range(start + 1, len(matrices)), range(start - 1, -1, -1)):
        previous = matrices[start]
        for position in steps:
            u, _, vh = torch.linalg.svd(matrices[position].mH @ previous)
            matrices[position] = previous = matrices[position] @ (u @ vh)
    return matrices


def compress_coils(kspace: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Virtual coils of k-space; with ``matrix.mH`` the adjoint, from virtual coils back to coils.

    Args:
        kspace: Centered k-space, complex, shape (H, ..., C).
        matrix: Shape (C, V), or (H, C, V) with one for each readout position.

    Returns:
        Shape (H, ..., V).
    """
    if matrix.ndim == 2:
        return kspace @ matrix
    hybrid = centered_ifft(kspace, _READOUT)
    compressed = hybrid.reshape(len(hybrid), -1, hybrid.shape[-1]) @ matrix
    return centered_fft(compressed.reshape(*kspace.shape[:-1], matrix.shape[-1]), _READOUT)


def _principal_coils(samples: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Unitary (..., C, C) with the principal coils of samples (..., N, C) as columns, and singular values."""
    # The triangular factor has the same right singular vectors as the tall matrix and is small.
    triangular = torch.linalg.qr(samples, mode="r").R
    _, singular_values, vh = torch.linalg.svd(triangular, full_matrices=True)
    return vh.mH, singular_values


def _check_num_virtual(kspace: torch.Tensor, num_virtual: int) -> None:
    if not 1 <= num_virtual <= kspace.shape[-1]:
        raise UserError(f"coil compression: found {num_virtual} virtual coils, allowed 1 to {kspace.shape[-1]}")
