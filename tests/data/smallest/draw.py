"""Draws 2D k-space of four coils, a file for each of six subjects: ``python -m tests.data.smallest.draw FOLDER``."""

import sys
from pathlib import Path

import h5py
import numpy as np

folder = Path(sys.argv[1])
folder.mkdir()
y, x = np.mgrid[-1:1:48j, -1:1:40j]
coils = np.stack([np.exp(-((y - a) ** 2) - (x - b) ** 2) for a in (-1, 1) for b in (-1, 1)], axis=-1)  # (H, W, C)
for subject in range(6):
    rng = np.random.default_rng(subject)
    images = np.zeros((4, 48, 40))  # (S, H, W)
    for image in images:
        for size, brightness in ((0.8, 0.5), *zip(rng.uniform(0.1, 0.4, 5), rng.uniform(0.2, 1, 5))):
            center = (0, 0) if size == 0.8 else rng.uniform(-0.4, 0.4, 2)
            image += brightness * (np.hypot(y - center[0], x - center[1]) < size)
    kspace = np.fft.fft2(np.fft.ifftshift(images[..., None] * coils, axes=(1, 2)), axes=(1, 2), norm="ortho")
    with h5py.File(folder / f"subject{subject}.h5", "w") as file:
        file["kspace"] = np.fft.fftshift(kspace, axes=(1, 2)).astype(np.complex64)  # (S, H, W, C)
