"""The centered FFT against numpy, and that it is unitary."""

import numpy as np
import pytest
import torch

from meddlr_greedy.ops.fft import centered_fft, centered_ifft, from_fft_layout, to_fft_layout
from tests.helpers.operators import assert_adjoint, randn, relative

CASES = [((6,), (0,)), ((7,), (-1,)), ((4, 5, 3), (0,)), ((4, 5, 3), (-1,)), ((2, 8, 6), (-2, -1)), ((2, 7, 8), (1, 2))]
CASES += [((3, 9, 5), (0, 1, 2)), ((1, 1), (0, 1))]


@pytest.mark.parametrize("shape, dims", CASES)
def test_agrees_with_numpy(shape, dims):
    torch.manual_seed(0)
    x = randn(*shape, dtype=torch.complex128)
    for transform, numpy_transform in ((centered_fft, np.fft.fftn), (centered_ifft, np.fft.ifftn)):
        shifted = np.fft.ifftshift(x.numpy(), axes=dims)
        expected = np.fft.fftshift(numpy_transform(shifted, axes=dims, norm="ortho"), axes=dims)
        torch.testing.assert_close(transform(x, dims), torch.from_numpy(expected))


@pytest.mark.parametrize("shape, dims", CASES)
def test_is_unitary(shape, dims):
    torch.manual_seed(0)
    x, y = randn(*shape), randn(*shape)
    assert_adjoint(lambda x: centered_fft(x, dims), lambda y: centered_ifft(y, dims), x, y)
    assert relative(centered_ifft(centered_fft(x, dims), dims), x) < 1e-6
    assert relative(centered_fft(x, dims).norm(), x.norm()) < 1e-6
    assert centered_fft(x, dims).dtype == x.dtype


@pytest.mark.parametrize("size", [6, 7])
def test_zero_frequency_is_in_the_center(size):
    kspace = centered_fft(torch.ones(size, dtype=torch.complex64), dims=(0,))
    expected = torch.zeros(size, dtype=torch.complex64)
    expected[size // 2] = size**0.5
    torch.testing.assert_close(kspace, expected)


def test_layout_is_a_view_and_back():
    x = randn(2, 3, 4, 5, 6)
    assert to_fft_layout(x).shape == (2, 6, 5, 3, 4)
    assert to_fft_layout(x).data_ptr() == x.data_ptr()
    assert torch.equal(from_fft_layout(to_fft_layout(x)), x)
