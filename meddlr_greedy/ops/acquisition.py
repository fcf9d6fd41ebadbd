"""Simulated acquisition: from a magnitude image to multi-coil k-space with phase, coil sensitivities and noise."""

import zlib
from typing import Any, Tuple

import numpy as np
from sigpy import fft, resize
from sigpy.mri import birdcage_maps

__all__ = [
    "acquire",
    "coil_sensitivities",
    "crop_kspace",
    "noise_reference",
    "random_smooth_phase",
    "seeded_generator",
]

_SPACE = (-2, -1)  # (H, W) of arrays ordered (C, T, H, W)


def noise_reference(magnitude: np.ndarray) -> float:
    """The signal that noise is relative to: the 95th percentile of the magnitude over all pixels of a subject."""
    return float(np.percentile(magnitude, 95))


def random_smooth_phase(shape: Tuple[int, int], num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Phase of the image: a polynomial of order 2 in space, and a smooth bump that swells once per heart beat (flow).

    Returns:
        Radians, shape (T, H, W).
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    offset, *slopes = rng.uniform(-1, 1, 6) * (np.pi, 1, 1, 0.7, 0.7, 0.7)
    static = offset + sum(a * term for a, term in zip(slopes, (x, y, x * y, x * x, y * y)))
    center_x, center_y = rng.uniform(-0.2, 0.2, 2)
    bump = np.exp(-((x - center_x) ** 2 + (y - center_y) ** 2) / 0.15)
    beat = np.cos(2 * np.pi * np.arange(num_frames) / num_frames + rng.uniform(0, 2 * np.pi))
    return static + rng.uniform(0.1, 0.4) * beat[:, None, None] * bump


def coil_sensitivities(shape: Tuple[int, int], num_coils: int, rng: np.random.Generator) -> np.ndarray:
    """Sensitivities of a ring of coils (sigpy's birdcage), placed off center and with unequal gains.

    Returns:
        complex64, shape (C, H, W); the root sum of squares over coils is about 1 and varies smoothly.
    """
    grid = [int(np.ceil(1.1 * n)) for n in shape]
    # Corners lie at sqrt(2): no coil stands inside the image.
    maps = birdcage_maps((num_coils, *grid), r=rng.uniform(1.42, 1.55))
    # A window of the shape asked for, anywhere in the larger grid, is the ring moved against the body.
    top, left = (int(rng.uniform(0, large - n + 1)) for large, n in zip(grid, shape))
    gains = rng.uniform(0.7, 1.3, num_coils) * np.exp(2j * np.pi * rng.uniform(size=num_coils))
    maps = gains[:, None, None] * maps[:, top : top + shape[0], left : left + shape[1]]
    return maps.astype(np.complex64)


def crop_kspace(kspace: np.ndarray, matrix: Tuple[int, int]) -> np.ndarray:
    """The center (..., H, W) of a centered k-space, scaled so that image intensities stay (orthonormal FFTs)."""
    scale = np.sqrt(np.prod(matrix) / np.prod(kspace.shape[-2:]))
    return resize(kspace, (*kspace.shape[:-2], *matrix)) * kspace.dtype.type(scale)


def acquire(
    image: np.ndarray,
    sensitivities: np.ndarray,
    matrix: Tuple[int, int],
    noise_std: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Fully sampled k-space of one slice.

    Args:
        image: Complex, shape (T, H0, W0).
        sensitivities: Complex, shape (C, H0, W0).
        matrix: Acquired points (H, W).
        noise_std: Standard deviation of the real and of the imaginary part of the noise.
        rng: Draws the noise.

    Returns:
        complex64, shape (C, T, H, W).
    """
    coil_images = sensitivities[:, None] * image.astype(np.complex64)
    kspace = crop_kspace(fft(coil_images, axes=_SPACE), matrix)
    noise = rng.standard_normal((2, *kspace.shape), np.float32)
    return kspace + np.float32(noise_std) * (noise[0] + 1j * noise[1])


def seeded_generator(seed: int, *key: Any) -> np.random.Generator:
    """An independent generator for each (seed, key)."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, key)).encode())])
