"""Dynamic images that are piecewise constant and have smooth phase: reweighted conjugate gradients, no training."""

from typing import List, Tuple

import torch

from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import conjugate_gradient
from meddlr_greedy.ops.devices import kept_constant
from meddlr_greedy.ops.fft import from_fft_layout, to_fft_layout

__all__ = ["phase_constrained_reconstruction", "smooth_phase", "static_reconstruction"]

# Inside, images are (B, M, T, H, W), the memory order of what the signal model gives: then nothing is copied across.
_MAPS, _TIME, _READOUT, _PHASE_ENCODE = 1, 2, 3, 4


_SIGMA = 4.0  # pixels


def smooth_phase(image: torch.Tensor, sigma: float = _SIGMA) -> torch.Tensor:
    """Phase of each frame and map set at low resolution, as in homodyne detection (Noll et al., IEEE TMI 1991).

    Times its conjugate, an image of smooth phase is nearly real.

    Args:
        image: Complex, shape (B, H, W, T, M).
        sigma: Standard deviation in pixels of the Gaussian along H and W that the image is smoothed with; beyond its
            edges the image counts as zero.

    Returns:
        Complex numbers of modulus one (zero where the smoothed image is), shape (B, H, W, T, M).
    """
    return from_fft_layout(_smooth_phase(to_fft_layout(image), sigma))


def _smooth_phase(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """:func:`smooth_phase` of (B, M, T, H, W)."""
    rows, columns = (kept_constant(_gaussian, size, sigma, device=image.device) for size in image.shape[-2:])
    smooth = torch.complex(rows @ image.real @ columns, rows @ image.imag @ columns)
    return torch.sgn(smooth)


def _gaussian(size: int, sigma: float, device: torch.device) -> torch.Tensor:
    """The symmetric matrix (size, size) that smooths along an axis, but for a factor."""
    position = torch.arange(size, device=device)
    return torch.exp(-0.5 * ((position[:, None] - position) / sigma) ** 2)


def static_reconstruction(
    A: CineSenseModel,  # noqa: N803 (meddlr's name)
    zf_image: torch.Tensor,
    iterations: int = 10,
) -> torch.Tensor:
    """The image that does not move and fits the data of all frames together, in the least-squares sense.

    Args:
        A: Signal model.
        zf_image: Zero-filled image :math:`A^H y`, complex, shape (B, H, W, T, M).
        iterations: Conjugate gradient iterations, from zero.

    Returns:
        Image (B, H, W, T, M), the same in every frame.
    """
    return from_fft_layout(_static(A, to_fft_layout(zf_image), iterations))


def _static(A: CineSenseModel, zf_image: torch.Tensor, iterations: int = 10) -> torch.Tensor:  # noqa: N803
    """:func:`static_reconstruction` of (B, M, T, H, W)."""

    def normal(x: torch.Tensor) -> torch.Tensor:
        return _normal(A, x.expand_as(zf_image)).mean(dim=_TIME, keepdim=True)

    b = zf_image.mean(dim=_TIME, keepdim=True)
    static = conjugate_gradient(normal, b=b, x=torch.zeros_like(b), mu=0.0, max_iter=iterations, eps=0.0)
    return static.expand_as(zf_image)


def _normal(A: CineSenseModel, image: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """A^H A of (B, M, T, H, W)."""
    return to_fft_layout(A.normal(from_fft_layout(image)))


def phase_constrained_reconstruction(
    A: CineSenseModel,  # noqa: N803 (meddlr's name)
    zf_image: torch.Tensor,
    variation_weight: float = 2e-3,
    spatial: float = 0.05,
    phase_weight: float = 0.15,
    floor: float = 0.04,
    reweightings: int = 5,
    cg_iterations: int = 12,
) -> torch.Tensor:
    r"""Total variation and a smooth phase, without training.

    Approaches the minimum of

    .. math::
        \frac{1}{2} \|A x - y\|_2^2 + v (\|D_t x\|_1 + s \|D_y x\|_1 + s \|D_x x\|_1)
        + \frac{q}{2} \|\mathrm{Im}(e^{-i \varphi} x)\|_2^2

    for circular differences D and the smooth phase :math:`\varphi`. An image that is real but for a known phase has
    half as many unknowns: k-space at -k tells of that at k (Bydder and Robson, MRM 2005). Each term :math:`\|D x\|_1`
    is replaced by :math:`\frac{1}{2} \sum |D x|^2 / \sqrt{|\rho|^2 + \epsilon^2}` with :math:`\rho = D x` of the image
    before (lagged diffusivity: Vogel and Oman, SIAM J. Sci. Comput. 1996); :math:`\varphi` is that image's, too. The
    least squares problem is approached by conjugate gradients that start there. Map sets share their weights. The
    first image is :func:`static_reconstruction`.

    Args:
        A: Signal model.
        zf_image: Zero-filled image :math:`A^H y`, complex, shape (B, H, W, T, M).
        variation_weight: v, for images scaled to about one.
        spatial: s, the weight of differences along H and W relative to those along T.
        phase_weight: q.
        floor: :math:`\epsilon`, in the scale of the image.
        reweightings: Number of reweightings; 0 returns the static image.
        cg_iterations: Conjugate gradient iterations of each.

    Returns:
        Image (B, H, W, T, M).
    """
    in_space = spatial * variation_weight
    axis_weights = {_TIME: variation_weight, _READOUT: in_space, _PHASE_ENCODE: in_space}
    zf_image = to_fft_layout(zf_image)
    image = _static(A, zf_image)
    for _ in range(reweightings):
        phase = _smooth_phase(image, _SIGMA)
        penalties = [(axis, v * _reciprocal(image - image.roll(1, axis), floor)) for axis, v in axis_weights.items()]

        def normal(
            x: torch.Tensor,
            phase: torch.Tensor = phase,
            penalties: List[Tuple[int, torch.Tensor]] = penalties,
        ) -> torch.Tensor:
            # Linear over the real numbers, as the inner product of the conjugate gradients is.
            out = _normal(A, x) + 1j * phase_weight * phase * (phase.conj() * x).imag
            for axis, weights in penalties:
                weighted = weights * (x - x.roll(1, axis))
                out += weighted - weighted.roll(-1, axis)
            return out

        image = conjugate_gradient(normal, b=zf_image, x=image, mu=0.0, max_iter=cg_iterations, eps=0.0)
    return from_fft_layout(image)


def _reciprocal(x: torch.Tensor, floor: float) -> torch.Tensor:
    """1 / sqrt(|x|^2 + floor^2), |x| over map sets: (B, M, T, H, W) to (B, 1, T, H, W)."""
    return (x.abs().square().sum(dim=_MAPS, keepdim=True) + floor**2).rsqrt()
