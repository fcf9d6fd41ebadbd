"""Prewhitening and coil compression: what is unitary, exact, optimal, and what is refused."""

import numpy as np
import pytest
import torch

from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.acquisition import coil_sensitivities
from meddlr_greedy.ops.coils import (
    compress_coils,
    geometric_compression,
    noise_covariance,
    svd_compression,
    whitening_matrix,
)
from meddlr_greedy.ops.fft import centered_fft
from tests.helpers.operators import assert_adjoint, randn, relative

pytestmark = pytest.mark.short


@pytest.fixture(scope="module")
def kspace():
    """Twelve coils around a random object, (H, W, T, C) = (32, 28, 3, 12)."""
    torch.manual_seed(0)
    maps = torch.from_numpy(coil_sensitivities((32, 28), 12, np.random.default_rng(0))).permute(1, 2, 0)
    image = torch.rand(32, 28, 3) + 1
    image[:4] = image[-4:] = 0
    coil_images = image[..., None] * maps[:, :, None]
    return centered_fft(coil_images, dims=(0, 1))


def correlated(num_samples, mixing):
    return randn(num_samples, len(mixing)) @ mixing.mT


# --- Prewhitening ---


@pytest.mark.parametrize("bandwidth_ratio", [1.0, 2.5])
def test_whitened_noise_has_unit_covariance(bandwidth_ratio):
    torch.manual_seed(1)
    mixing = torch.eye(6) + 0.3 * randn(6, 6)
    mixing *= torch.tensor([1e-6, 1e-5, 1e-6, 1e-6, 1e-4, 1e-6])[:, None]  # coils of very different gains
    whitening = whitening_matrix(noise_covariance(correlated(200_000, mixing)), bandwidth_ratio)
    other_noise = bandwidth_ratio**0.5 * correlated(200_000, mixing)
    covariance = noise_covariance(other_noise @ whitening)
    assert (covariance - torch.eye(6)).abs().max() < 0.02
    assert (noise_covariance(other_noise) / noise_covariance(other_noise).abs().max() - torch.eye(6)).abs().max() > 0.1


def test_whitening_is_the_inverse_cholesky_factor():
    torch.manual_seed(2)
    noise = correlated(50, randn(4, 4))
    covariance = noise_covariance(noise)
    expected = sum(torch.outer(n, n.conj()) for n in noise.to(torch.complex128)) / 50
    torch.testing.assert_close(covariance, expected)
    whitening = whitening_matrix(covariance).to(torch.complex128)
    torch.testing.assert_close(whitening.mT, torch.linalg.inv(torch.linalg.cholesky(covariance)), rtol=1e-5, atol=1e-6)


def test_noise_that_cannot_be_whitened_is_refused():
    noise = randn(100, 3)
    with pytest.raises(UserError, match="2 samples of 3 coils"):
        noise_covariance(noise[:2])
    with pytest.raises(UserError, match="NaN"):
        noise_covariance(noise / 0)
    with pytest.raises(UserError, match="no noise in coil 1"):
        whitening_matrix(noise_covariance(noise * torch.tensor([1, 0, 1])))
    with pytest.raises(UserError, match="linearly dependent"):
        whitening_matrix(noise_covariance(noise[:, [0, 1, 1]]))
    for ratio in (0, float("nan")):
        with pytest.raises(UserError, match="allowed above 0"):
            whitening_matrix(noise_covariance(noise), ratio)


# --- Compression ---

COMPRESSIONS = [svd_compression, geometric_compression]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("num_virtual", [1, 5, 12])
def test_compression_is_orthonormal_and_has_an_adjoint(kspace, compression, num_virtual):
    matrix = compression(kspace, num_virtual)
    identity = torch.eye(num_virtual, dtype=torch.complex64).expand(*matrix.shape[:-2], -1, -1)
    torch.testing.assert_close(matrix.mH @ matrix, identity, rtol=0, atol=1e-5)
    torch.manual_seed(0)
    virtual = randn(*kspace.shape[:-1], num_virtual)
    assert_adjoint(lambda x: compress_coils(x, matrix), lambda y: compress_coils(y, matrix.mH), kspace, virtual)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_all_virtual_coils_lose_nothing(kspace, compression):
    matrix = compression(kspace, 12)
    compressed = compress_coils(kspace, matrix)
    assert relative(compress_coils(compressed, matrix.mH), kspace) < 1e-5
    if matrix.ndim == 3:  # aligned: one matrix for every position, so that no position is mixed with another
        assert (matrix - matrix[:1]).abs().max() < 1e-5


def test_svd_keeps_the_most_energy(kspace):
    singular_values = torch.linalg.svdvals(kspace.reshape(-1, 12))
    compressed = compress_coils(kspace, svd_compression(kspace, 3))
    assert compressed.norm() ** 2 == pytest.approx(singular_values[:3].square().sum().item(), rel=1e-5)
    energies = compressed.reshape(-1, 3).norm(dim=0)
    torch.testing.assert_close(energies, singular_values[:3], rtol=1e-4, atol=0)


def test_geometric_keeps_more_than_svd_and_varies_smoothly(kspace):
    lost = {}
    for compression in COMPRESSIONS:
        matrix = compression(kspace, 4)
        lost[compression] = relative(compress_coils(compress_coils(kspace, matrix), matrix.mH), kspace)
    assert lost[geometric_compression] < 0.5 * lost[svd_compression]
    steps = torch.diff(geometric_compression(kspace, 4)[4:-4], dim=0)  # where there is an object
    assert steps.flatten(1).norm(dim=1).max() < 0.5  # unaligned coils of arbitrary phase differ by up to 4


def test_geometric_compression_ignores_lines_that_were_not_sampled(kspace):
    sampled = torch.ones(28, 3, 1)
    sampled[3::2] = 0
    matrix = geometric_compression(kspace * sampled, 4)
    compressed = compress_coils(kspace * sampled, matrix)
    assert not compressed[:, 3::2].any()
    assert relative(compress_coils(kspace, matrix) * sampled, compressed) < 1e-5


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_fewer_samples_than_coils(compression):
    few = randn(8, 2, 1, 6)
    assert relative(compress_coils(few, compression(few, 6)).norm(), few.norm()) < 1e-5


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("num_virtual", [0, 13])
def test_number_of_virtual_coils_is_checked(kspace, compression, num_virtual):
    with pytest.raises(UserError, match=f"found {num_virtual} virtual coils, allowed 1 to 12"):
        compression(kspace, num_virtual)
