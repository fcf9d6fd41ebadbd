"""Compressed sensing: reconstruction of cine by total variation along time and space."""

import torch

from meddlr_greedy.ops.cine_sense import CineSenseModel

__all__ = ["objective", "total_variation_reconstruction"]


_AXES = (3, 1, 2)  # T, H, W of images (B, H, W, T, M)


def total_variation_reconstruction(
    kspace: torch.Tensor,
    maps: torch.Tensor,
    mask: torch.Tensor,
    weight: float,
    spatial: float,
    iterations: int,
) -> torch.Tensor:
    r"""Minimizes :func:`objective` by the primal-dual algorithm of Condat (JOTA 158:460-479, 2013) and Vu (2013).

    Each iteration applies A^H A once. It starts from the time-averaged k-space: most of the image does not move.

    Args:
        kspace: (B, H, W, T, C), complex, zero where not sampled.
        maps: (B, H, W, 1, C, M), complex.
        mask: (B, H, W, T, 1), zeros and ones.
        weight: w of the objective.
        spatial: s of the objective.
        iterations: Number of iterations.

    Returns:
        Image (B, H, W, T, M).
    """
    model = CineSenseModel(maps, mask)
    zero_filled = model(kspace, adjoint=True)
    averaged = kspace.sum(dim=3, keepdim=True) / mask.sum(dim=3, keepdim=True).clamp(min=1)
    x = CineSenseModel(maps)(averaged, adjoint=True).expand_as(zero_filled).contiguous()

    # Convergence asks for 1 / tau - sigma |D|^2 > |A^H A| / 2, and the norm of each difference is at most 2. The dual
    # variable p stays within the weight, hence a step in proportion to it.
    sigma = 10 * weight
    norm_of_normal = torch.linalg.eigvalsh(maps.mH @ maps).max().item()
    tau = 1 / (0.6 * norm_of_normal + sigma * 4 * (1 + 2 * spatial**2))
    p = torch.zeros_like(_differences(x, spatial))
    for _ in range(iterations):
        x_next = x - tau * (model.normal(x) - zero_filled + _adjoint_differences(p, spatial))
        p = _project(p + sigma * _differences(2 * x_next - x, spatial), weight)
        x = x_next
    return x


def objective(
    image: torch.Tensor, kspace: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor, weight: float, spatial: float
) -> float:
    r""":math:`\frac{1}{2} \|A x - y\|_2^2 + w (\|D_t x\|_1 + s \|D_y x\|_1 + s \|D_x x\|_1)`.

    Differences are circular, the l1 norm sums complex moduli, and each map set has its own.
    """
    residual = CineSenseModel(maps, mask)(image) - kspace
    return (residual.abs().square().sum() / 2 + weight * _differences(image, spatial).abs().sum()).item()


def _differences(image: torch.Tensor, spatial: float) -> torch.Tensor:
    """Circular differences along T, H and W, the last two times ``spatial``: (3, B, H, W, T, M)."""
    along_t, *in_space = (image - image.roll(1, axis) for axis in _AXES)
    return torch.stack([along_t, *(spatial * difference for difference in in_space)])


def _adjoint_differences(p: torch.Tensor, spatial: float) -> torch.Tensor:
    along_t, *in_space = (q - q.roll(-1, axis) for q, axis in zip(p, _AXES))
    return along_t + spatial * sum(in_space)


def _project(p: torch.Tensor, radius: float) -> torch.Tensor:
    """Every complex number to the nearest within a circle: the proximal operator of the dual of the l1 norm."""
    return p / (p.abs() / radius).clamp(min=1)
