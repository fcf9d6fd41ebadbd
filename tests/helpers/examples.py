"""Small scans, the loaders' batches of them, and examples of one slice."""

import itertools

import h5py
import numpy as np
import torch
from meddlr.config import CfgNode, get_cfg
from meddlr.data.transforms.subsample import build_mask_func
from meddlr.ops import fft2c

from meddlr_greedy.data.seeding import SeededMaskFunc
from meddlr_greedy.data.transform import CineDataTransform

HEIGHT, WIDTH, FRAMES, COILS, MAPS = 10, 32, 4, 3, 2
KINDS = ["plane", "cine"]

NOISE = (
    *("AUG_TRAIN.USE_NOISE", True, "AUG_TRAIN.NOISE_P", 0.5),
    *("AUG_TRAIN.USE_MOTION", True, "AUG_TRAIN.MOTION_P", 0.5),
    *("MODEL.CONSISTENCY.AUG.NOISE.STD_DEV", (0.1, 0.5)),
)

AUGMENTED = (*NOISE, "MISC.GREEDY.CINE", {"READOUT_CROP": 6, "FLIP_PROBABILITY": 0.5, "PARTIAL_ECHO": 0.25})


def scan_arrays(seed, kind):
    """kspace, maps and target of a scan of 3 slices that follow the conventions."""
    rng = np.random.default_rng(seed)
    frames = (FRAMES,) if kind == "cine" else ()

    def normal(*shape):
        return torch.view_as_complex(torch.from_numpy(rng.standard_normal(shape + (2,)).astype(np.float32)))

    maps = normal(3, HEIGHT, WIDTH, *(1 for _ in frames), COILS, MAPS)
    image = normal(3, HEIGHT, WIDTH, *frames, MAPS)
    coil_images = (maps * image[..., None, :]).sum(-1)
    target = (maps.conj() * coil_images[..., None]).sum(-2)
    kspace = fft2c(coil_images, channels_last=True)
    return {"kspace": kspace.numpy(), "maps": maps.numpy(), "target": target.numpy()}


def prospective(seed=0, rows=1, dtype=np.uint8, **changes):
    """A scan without target and with its own mask."""
    arrays = scan_arrays(seed, "cine")
    del arrays["target"]
    mask = np.random.default_rng(seed).uniform(size=(3, rows, WIDTH, FRAMES, 1)) < 0.3
    return {**arrays, "mask": mask.astype(dtype), **changes}


def rename(arrays, name):
    """The arrays, of which one is called "other"."""
    return {("other" if key == name else key): value for key, value in arrays.items()}


def write_arrays(path, arrays, **attributes):
    """Writes arrays as they are, also such as no scan file may hold."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes)
    return str(path)


def first_batches(loader, count):
    return list(itertools.islice(loader, count))


def equal(value, other):
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(equal(value[key], other[key]) for key in value)
    return torch.equal(value, other) if torch.is_tensor(value) else value == other


def assert_equal(actual, expected):
    assert len(actual) == len(expected) > 0
    for batch, other in zip(actual, expected):
        assert batch.keys() == other.keys()
        for key, value in batch.items():
            assert equal(value, other[key]), key


def make_example(height, width, frames, seed=0):
    """k-space (H, W, T, C), maps (H, W, 1, C, M) and images (H, W, T, M) with kspace = F S image; complex128."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return torch.from_numpy(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))

    maps, image = normal(height, width, 1, COILS, MAPS), normal(height, width, frames, MAPS)
    return kspace_of(image, maps), maps, image


def kspace_of(image, maps):
    return fft2c((maps * image[..., None, :]).sum(-1)[None], channels_last=True)[0]


def make_transform(normalizer="TopMagnitudeNormalizer", augment=True, mask_name="GoldenStepKtMaskFunc", **greedy):
    cfg = get_cfg()
    cfg.SEED = 1
    cfg.MODEL.NORMALIZER.NAME = normalizer
    undersample = cfg.AUG_TRAIN.UNDERSAMPLE
    undersample.NAME, undersample.ACCELERATIONS, undersample.CALIBRATION_SIZE = mask_name, (2, 4), 2
    cfg.MISC.GREEDY = CfgNode({"CINE": greedy})
    return CineDataTransform(cfg, SeededMaskFunc(build_mask_func(cfg.AUG_TRAIN)), augment=augment)


def as_numpy(*tensors):
    return [tensor.to(torch.complex64).numpy() for tensor in tensors]
