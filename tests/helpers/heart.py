"""A heart as images and as multi-coil k-space, and the scan files that are made of it."""

from dataclasses import dataclass

import h5py
import numpy as np

from meddlr_greedy.data.scan_file import read_header
from meddlr_greedy.ops.acquisition import coil_sensitivities, random_smooth_phase, seeded_generator
from meddlr_greedy.preparation.dataset import prepare_dataset
from meddlr_greedy.preparation.settings import CoilMaps, Preparation
from meddlr_greedy.preparation.sources import Source
from meddlr_greedy.readers.images import ImagesReader
from meddlr_greedy.readers.phantom import PhantomReader, subject_names
from meddlr_greedy.readers.simulation.beating_heart import beating_heart

SLICES, PHASES, HEIGHT, WIDTH, COILS = 2, 4, 64, 48, 6

# Maps everywhere and no compression: what goes in should come out.
EXACT = Preparation(CoilMaps(crop=0), coils=None, compression="none")
ALL_TRAIN = ("1", "0", "0")


def fft(image, axes):
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image, axes), axes=axes, norm="ortho"), axes)


def ifft(kspace, axes):
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes), axes=axes, norm="ortho"), axes)


@dataclass(frozen=True)
class Heart:
    """Images (S, T, H, W) and coil images (S, T, C, H, W) whose root sum of squares over coils is the magnitude."""

    image: np.ndarray
    maps: np.ndarray

    @property
    def coil_images(self):
        return self.image[:, :, None] * self.maps

    @property
    def kspace(self):
        return fft(self.coil_images, (-2, -1))


def make_heart(seed):
    rng = np.random.default_rng(seed)
    magnitude = [
        beating_heart((HEIGHT, WIDTH), PHASES, position, np.random.default_rng(seed)) for position in (0.3, 0.6)
    ]
    image = [m * np.exp(1j * random_smooth_phase((HEIGHT, WIDTH), PHASES, rng)) for m in magnitude]
    maps = coil_sensitivities((HEIGHT, WIDTH), COILS, rng)
    return Heart(np.stack(image), maps / np.linalg.norm(maps, axis=0))


def psnr(found, expected, support):
    """Of magnitudes (..., H, W), where the maps are not zero."""
    support = np.broadcast_to(support, expected.shape)
    error = np.sqrt(np.mean((np.abs(found) - np.abs(expected))[support] ** 2))
    return 20 * np.log10(np.abs(expected).max() / error)


def read(path):
    with h5py.File(path, "r") as file:
        return {key: file[key][()] for key in file}, dict(file.attrs)


def target_and_support(path):
    """Target (S, T, H, W), and where there are maps (S, 1, H, W)."""
    arrays, _ = read(path)
    target = arrays["target"][..., 0].transpose(0, 3, 1, 2)
    return target, (np.abs(arrays["maps"]).sum(axis=(-2, -1)) > 0).transpose(0, 3, 1, 2)


def expected_magnitude(magnitude, subject):
    """Of a simulated scan: the root sum of squares of its coils is part of what is acquired."""
    maps = coil_sensitivities(magnitude.shape[-2:], 8, seeded_generator(0, subject, "coils"))
    return magnitude * np.linalg.norm(maps, axis=0)


def prepared(output, reader, *inputs, preparation=EXACT, split=ALL_TRAIN, options=None, **arguments):
    """The files written, in order of their names."""
    source = Source(reader, [str(given) for given in inputs], options or {})
    folder = prepare_dataset(output, source, preparation, split=split, **arguments)
    paths = sorted((folder / "scans").glob("*.h5"))
    for path in paths:
        if "target" in read(path)[0]:
            read_header(str(path))
    return paths


def kt_mask():
    """(W, T): every third line, shifted from phase to phase, and the center."""
    mask = (np.arange(WIDTH)[:, None] + np.arange(PHASES)) % 3 == 0
    mask[WIDTH // 2 - 2 : WIDTH // 2 + 2] = True
    return mask


def relative_difference(a, b):
    return np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(b)


def read_scans(folder):
    """{"<scan>": {"kspace": ..., "maps": ..., "target": ..., "attributes": ...}}."""
    scans = {}
    for path in sorted((folder / "scans").glob("*.h5")):
        arrays, attributes = read(path)
        scans[path.stem] = {**arrays, "attributes": attributes}
    return scans


def prepare_simulated(output, source, split=None, coil_maps=None, **arguments):
    preparation = Preparation(coil_maps or CoilMaps(), coils=None, compression="none")
    return prepare_dataset(output, source, preparation, split=split, **arguments)


def prepare_phantom(output, subjects=3, split=None, coil_maps=None, overwrite=False, progress=False, **options):
    source = Source(PhantomReader(), subject_names(subjects), options)
    return prepare_simulated(output, source, split, coil_maps, overwrite=overwrite, progress=progress)


def prepare_series(output, path, split=None, **options):
    return prepare_simulated(output, Source(ImagesReader(), [str(path)], options), split)
