"""Reconstruction with total variation: against sigpy's solver, and by its objective."""

import numpy as np
import pytest
import sigpy as sp
import torch

from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.total_variation import (
    _adjoint_differences,
    _differences,
    objective,
    total_variation_reconstruction,
)
from tests.helpers.operators import assert_adjoint, randn
from tests.helpers.scans import random_complex

# H, W, T, C, M
SHAPE = (12, 10, 5, 4, 2)


def problem(shape=SHAPE, seed=0, noise=0.02):
    """kspace, maps and mask of a moving image, noisy and undersampled."""
    H, W, T, C, M = shape
    rng = np.random.default_rng(seed)
    maps = random_complex(rng, 1, H, W, 1, C, M)
    maps = np.linalg.qr(maps)[0]  # orthonormal sets, as from ESPIRiT
    image = np.zeros((1, H, W, T, M), np.complex64)
    for t in range(T):
        image[:, 2 + t % 3 : 9, 3:8, t] = 1 + 0.5j
    mask = torch.from_numpy(rng.random((1, 1, W, T, 1)) < 0.5).float().expand(1, H, W, T, 1)
    maps = torch.from_numpy(maps)
    kspace = CineSenseModel(maps, mask)(torch.from_numpy(image))
    return kspace + noise * mask * torch.from_numpy(random_complex(rng, *kspace.shape)), maps, mask


def solve_by_sigpy(kspace, maps, mask, weight, spatial, iterations=600):
    """The same by sigpy, from its linear operators, its proximal operator and its primal-dual algorithm."""
    maps = maps[0].permute(4, 3, 2, 0, 1).numpy()  # (M, C, 1, H, W)
    mask = mask[0].permute(3, 2, 0, 1).numpy()  # (1, T, H, W)
    kspace = kspace[0].permute(3, 2, 0, 1).numpy()  # (C, T, H, W)
    shape = (len(maps), 1, *mask.shape[1:])  # (M, 1, T, H, W)
    S = sp.linop.Multiply(shape, maps)
    A = sp.linop.Sum(S.oshape, (0,))
    A = sp.linop.Multiply(kspace.shape, mask) * sp.linop.FFT(kspace.shape, axes=(-2, -1)) * A * S
    parts = [
        factor * sp.linop.FiniteDifference(shape, axes=(axis,)) for axis, factor in ((2, 1), (3, spatial), (4, spatial))
    ]
    D = sp.linop.Vstack(parts, axis=0)
    app = sp.app.LinearLeastSquares(
        A, kspace, proxg=sp.prox.L1Reg(D.oshape, weight), G=D, max_iter=iterations, show_pbar=False
    )
    return torch.from_numpy(app.run()).permute(1, 3, 4, 2, 0)


@pytest.mark.parametrize(("weight", "spatial"), [(0.03, 0.3), (0.1, 0.05), (0.3, 1.0)])
def test_agrees_with_sigpy(weight, spatial):
    data = problem()
    ours = total_variation_reconstruction(*data, weight, spatial, iterations=600)
    theirs = solve_by_sigpy(*data, weight, spatial)
    assert objective(ours, *data, weight, spatial) <= objective(theirs, *data, weight, spatial) * (1 + 1e-4)
    assert (ours - theirs).norm() < 5e-3 * theirs.norm()


@pytest.mark.parametrize(("weight", "seed"), [(1e-3, 0), (0.03, 1), (0.3, 0)])
def test_objective_falls(weight, seed):
    data = problem(seed=seed)
    images = [total_variation_reconstruction(*data, weight, 0.2, iterations) for iterations in (0, 5, 20, 80, 320)]
    values = [objective(image, *data, weight, 0.2) for image in images]
    assert values == sorted(values, reverse=True) and values[-1] < 0.9 * values[0]
    # Hardly any of it is left to gain.
    best = objective(total_variation_reconstruction(*data, weight, 0.2, 1000), *data, weight, 0.2)
    assert values[-1] - best < 0.02 * (values[0] - best)


def test_maps_of_any_norm_converge():
    kspace, maps, mask = problem()
    maps = 3 * maps
    images = [total_variation_reconstruction(kspace, maps, mask, 0.1, 0.1, iterations) for iterations in (0, 300)]
    values = [objective(image, kspace, maps, mask, 0.1, 0.1) for image in images]
    assert values[1] < values[0]


def test_large_weight_gives_a_still_image_and_small_one_the_data():
    kspace, maps, mask = problem(noise=0)
    still = total_variation_reconstruction(kspace, maps, mask, 10.0, 0.0, 2000)
    assert (still - still.mean(dim=3, keepdim=True)).norm() < 0.01 * still.norm()
    free = total_variation_reconstruction(kspace, maps, mask, 1e-6, 0.1, 500)
    assert (CineSenseModel(maps, mask)(free) - kspace).norm() < 0.05 * kspace.norm()


@pytest.mark.parametrize("spatial", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(1, 6, 5, 4, 1), (2, 7, 8, 3, 2), (1, 4, 3, 2, 2)])
def test_differences_have_an_adjoint(shape, spatial):
    torch.manual_seed(0)
    assert_adjoint(
        lambda x: _differences(x, spatial), lambda p: _adjoint_differences(p, spatial), randn(*shape), randn(3, *shape)
    )
