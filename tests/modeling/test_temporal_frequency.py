"""The regularizer on temporal frequencies."""

import pytest
import torch

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.regularizers.temporal_frequency import TemporalFrequencyResNet, fourier_basis


@pytest.mark.parametrize("num_frames, num_frequencies", [(12, 5), (11, 5), (4, 0), (20, 3)])
def test_basis_is_orthonormal_and_spans_the_low_frequencies(num_frames, num_frequencies):
    basis = fourier_basis(num_frames, num_frequencies)
    torch.testing.assert_close(basis @ basis.T, torch.eye(1 + 2 * num_frequencies), rtol=0, atol=1e-5)
    # Onto its span projects what sets all higher frequencies to zero.
    spectrum = torch.fft.rfft(torch.eye(num_frames))
    spectrum[:, num_frequencies + 1 :] = 0
    low_pass = torch.fft.irfft(spectrum, n=num_frames)
    torch.testing.assert_close(basis.T @ basis, low_pass, rtol=0, atol=1e-5)
    # Row by row: the constant, then of each frequency the cosine and the sine.
    energies = torch.fft.rfft(basis).abs().square()
    assert energies.argmax(dim=1).tolist() == [(i + 1) // 2 for i in range(1 + 2 * num_frequencies)]
    assert (basis[0::2][1:, 0].abs() < 1e-6).all() and (basis[1::2, 0] > 0).all()


@pytest.mark.parametrize("num_frames, num_frequencies", [(10, 5), (6, 3), (1, 1)])
def test_too_few_frames(num_frames, num_frequencies):
    with pytest.raises(UserError, match=f"more than {2 * num_frequencies} cardiac phases.*{num_frames} frames"):
        fourier_basis(num_frames, num_frequencies)


def randomized(**kwargs):
    torch.manual_seed(0)
    network = TemporalFrequencyResNet(in_channels=4, channels=6, **kwargs)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def test_is_the_identity_before_training():
    image = torch.randn(2, 4, 12, 6, 7)
    assert torch.equal(TemporalFrequencyResNet(in_channels=4, channels=6)(image), image)


@pytest.mark.parametrize("shape", [(1, 4, 12, 6, 7), (2, 4, 13, 5, 4)])
def test_changes_low_frequencies_alone(shape):
    image = torch.randn(*shape)
    change = torch.fft.rfft(randomized(num_frequencies=2)(image) - image, dim=2)
    assert change.shape[0] == shape[0] and change[:, :, :3].abs().max() > 0.1
    assert change[:, :, 3:].abs().max() < 1e-4


def test_high_frequencies_do_not_matter_to_it():
    network, image = randomized(num_frequencies=2), torch.randn(1, 4, 12, 6, 7)
    wave = torch.cos(2 * torch.pi * 4 * torch.arange(12) / 12)[:, None, None]
    torch.testing.assert_close(network(image + wave), network(image) + wave)


def test_batches_and_gradients():
    network, image = randomized(), torch.randn(2, 4, 12, 6, 7)
    torch.testing.assert_close(network(image)[1:], network(image[1:]))
    network(image).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
