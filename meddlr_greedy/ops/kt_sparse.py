"""Dynamic images that are sparse along temporal frequency and piecewise constant: reweighted conjugate gradients."""

from typing import List, Tuple

import torch

from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import conjugate_gradient

__all__ = ["kt_sparse_reconstruction"]

_TIME, _READOUT, _PHASE_ENCODE = 3, 1, 2  # axes of images (B, H, W, T, M)


def kt_sparse_reconstruction(
    A: CineSenseModel,  # noqa: N803 (meddlr's name)
    zf_image: torch.Tensor,
    frequency_weight: float = 7e-3,
    variation_weight: float = 3e-3,
    spatial: float = 0.1,
    floor: float = 0.04,
    reweightings: int = 5,
    cg_iterations: int = 12,
) -> torch.Tensor:
    r"""Reconstruction with sparsity along temporal frequency and total variation, without training.

    Approaches the minimum of

    .. math:: \frac{1}{2} \|A x - y\|_2^2 + w \|F_t x\|_1 + v (\|D_t x\|_1 + s \|D_y x\|_1 + s \|D_x x\|_1)

    Each term :math:`\|B x\|_1` is replaced by :math:`\frac{1}{2} \sum |B x|^2 / \sqrt{|\rho|^2 + \epsilon^2}` with
    :math:`\rho = B x` of the image before, and the least squares problem is approached by conjugate gradients that
    start there: k-t FOCUSS (Jung et al., MRM 2009) for the temporal Fourier transform F, lagged diffusivity (Vogel and
    Oman, SIAM J. Sci. Comput. 1996) for the circular differences D. Map sets share their weights. The zero-filled image
    is the first: its aliasing is spread over temporal frequencies, and what does not move is not.

    Args:
        A: Signal model.
        zf_image: Zero-filled image :math:`A^H y`, complex, shape (B, H, W, T, M).
        frequency_weight: w, for images scaled to about one.
        variation_weight: v, in the same scale.
        spatial: s, the weight of differences along H and W relative to those along T.
        floor: :math:`\epsilon`, in the scale of the image.
        reweightings: Number of reweightings; 0 returns ``zf_image``.
        cg_iterations: Conjugate gradient iterations of each.

    Returns:
        Image (B, H, W, T, M).
    """
    of_axis = {_TIME: variation_weight, _READOUT: spatial * variation_weight, _PHASE_ENCODE: spatial * variation_weight}
    image = zf_image
    for _ in range(reweightings):
        of_frequency = frequency_weight * _reciprocal(_fft_t(image), floor)
        of_differences = [(a, v * _reciprocal(image - image.roll(1, a), floor)) for a, v in of_axis.items()]

        def normal(
            x: torch.Tensor,
            of_frequency: torch.Tensor = of_frequency,
            of_differences: List[Tuple[int, torch.Tensor]] = of_differences,
        ) -> torch.Tensor:
            out = A.normal(x) + torch.fft.ifft(of_frequency * _fft_t(x), dim=_TIME, norm="ortho")
            for axis, weights in of_differences:
                weighted = weights * (x - x.roll(1, axis))
                out += weighted - weighted.roll(-1, axis)
            return out

        image = conjugate_gradient(normal, b=zf_image, x=image, mu=0.0, max_iter=cg_iterations, eps=0.0)
    return image


def _fft_t(x: torch.Tensor) -> torch.Tensor:
    return torch.fft.fft(x, dim=_TIME, norm="ortho")


def _reciprocal(x: torch.Tensor, floor: float) -> torch.Tensor:
    """1 / sqrt(|x|^2 + floor^2), |x| over map sets: (B, H, W, T, M) to (B, H, W, T, 1)."""
    return (x.abs().square().sum(dim=-1, keepdim=True) + floor**2).rsqrt()
