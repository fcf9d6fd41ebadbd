"""The physics of a simulated acquisition."""

import numpy as np
import pytest
import sigpy as sp

from meddlr_greedy.ops.acquisition import coil_sensitivities, crop_kspace, noise_reference


def test_cropping_kspace_is_evaluating_the_fourier_series_of_fewer_frequencies():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((12, 10)) + 1j * rng.standard_normal((12, 10))
    kspace = sp.fft(image)
    low = sp.ifft(crop_kspace(kspace, (6, 4)))

    def dft(n_positions, n_frequencies, sign):
        position = (np.arange(n_positions) - n_positions // 2) / n_positions
        frequency = np.arange(n_frequencies) - n_frequencies // 2
        return np.exp(sign * 2j * np.pi * np.outer(position, frequency))

    # Coefficients of the Fourier series by explicit sums over the fine grid; the series on the coarse grid.
    coefficients = dft(12, 6, -1).T @ image @ dft(10, 4, -1) / image.size
    expected = dft(6, 6, 1) @ coefficients @ dft(4, 4, 1).T
    np.testing.assert_allclose(low, expected, atol=1e-12)


def test_cropping_kspace_keeps_intensities():
    image = np.full((3, 30, 20), 7.0, np.complex64)
    low = sp.ifft(crop_kspace(sp.fft(image, axes=(-2, -1)), (14, 9)), axes=(-2, -1))
    assert low.dtype == np.complex64
    np.testing.assert_allclose(low, np.full((3, 14, 9), 7), rtol=1e-5)


def test_noise_reference_is_the_95th_percentile():
    assert noise_reference(np.arange(101.0)) == 95


@pytest.mark.parametrize("num_coils", [1, 5, 8])
def test_coil_sensitivities_are_smooth_and_cover_the_image(num_coils):
    coarse, fine = (coil_sensitivities(shape, num_coils, np.random.default_rng(1)) for shape in ((40, 30), (160, 120)))
    assert coarse.shape == (num_coils, 40, 30) and coarse.dtype == np.complex64
    total = np.linalg.norm(coarse, axis=0)
    assert 0.6 < total.min() and total.max() < 1.4
    # A smooth function changes four times less over a pixel a quarter as large; a jump would not.
    change = [max(np.abs(np.diff(maps, axis=axis)).max() for axis in (1, 2)) for maps in (coarse, fine)]
    assert change[1] < 0.4 * change[0]
