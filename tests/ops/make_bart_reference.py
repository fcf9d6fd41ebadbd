"""Writes ``bart_ecalib.npz``: k-space of a folded phantom, and the two map sets that BART's ``ecalib`` finds in it.

    python -m tests.ops.make_bart_reference

Needs the program ``bart`` (Debian package ``bart``); the tests need only the file. How equal settings are made equal:

* ``-t``: BART compares it with the square of a singular value relative to the largest, so it gets ``thresh ** 2``.
* ``-C``: the calibration region is the center of k-space. Without it BART moves the region along the first axis to
  where the energy is highest.
* ``-r``, ``-k``: calibration and kernel width, along both axes.
* ``-c 0``: no crop, since the maps are compared at every pixel. Softly cropped maps (``-S``) in a second call.
* ``-O``: eigenvectors by LAPACK in place of 30 orthogonal iterations, which need not have converged where eigenvalues
  lie close together.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from meddlr_greedy.ops.acquisition import acquire, coil_sensitivities
from meddlr_greedy.readers.simulation.beating_heart import beating_heart

SETTINGS = {"calib_width": 20, "kernel_width": 6, "thresh": 0.02}
SOFT_CROP = 0.8
PATH = Path(__file__).with_name("bart_ecalib.npz")


def folded_kspace(shape, num_coils, noise=0.002, seed=0):
    """Fully sampled k-space (C, H, W) of a field of view along W that holds two thirds of the phantom's width."""
    rng = np.random.default_rng(seed)
    height, width = shape
    # A field of view of 4/3 of the body's, its k-space thinned by two: 2/3 are left, and the rest folds in.
    body = beating_heart((height, 3 * width // 2), 1, 0.5, rng)
    margin = (2 * width - body.shape[-1]) // 2
    image = np.pad(body, ((0, 0), (0, 0), (margin, 2 * width - body.shape[-1] - margin)))
    wide = acquire(image, coil_sensitivities(image.shape[1:], num_coils, rng), image.shape[1:], noise, rng)
    return np.ascontiguousarray(wide[:, 0, :, ::2])


def ecalib(kspace, *options):
    """Maps (H, W, C, M) and eigenvalues (H, W, M) of BART for k-space (C, H, W)."""
    width, thresh = SETTINGS["calib_width"], SETTINGS["thresh"]
    kernel = ":".join([str(SETTINGS["kernel_width"])] * 2 + ["1"])
    with tempfile.TemporaryDirectory() as folder:
        write_cfl(Path(folder, "kspace"), kspace.transpose(1, 2, 0)[:, :, None])
        equal = ["-C", "-O", "-m", "2", "-k", kernel, "-r", f"{width}:{width}:1", "-t", repr(thresh**2)]
        subprocess.run(["bart", "ecalib", *equal, *options, "kspace", "maps", "eigenvalues"], cwd=folder, check=True)
        maps, eigenvalues = read_cfl(Path(folder, "maps")), read_cfl(Path(folder, "eigenvalues"))
    return maps[:, :, 0], eigenvalues[:, :, 0, 0].real


def write_cfl(path, array):
    """BART's format: dimensions as text, and complex64 values, the first axis fastest."""
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def read_cfl(path):
    shape = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    shape = shape[: max(5, max((i + 1 for i, n in enumerate(shape) if n > 1), default=0))]
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(shape, order="F")


def main():
    kspace = folded_kspace((40, 36), num_coils=6)
    maps, eigenvalues = ecalib(kspace, "-c", "0")
    soft, _ = ecalib(kspace, "-S", "-c", str(SOFT_CROP))
    version = subprocess.run(["bart", "version"], capture_output=True, text=True, check=True).stdout.strip()
    np.savez_compressed(
        PATH,
        kspace=kspace,
        maps=maps,
        eigenvalues=eigenvalues,
        soft_weights=np.linalg.norm(soft, axis=2),
        bart_version=version,
    )
    print(f"written: {PATH}, {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
