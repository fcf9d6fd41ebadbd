"""Small generated data and the pieces that several tests share."""

import json
import logging
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from meddlr.config import get_cfg  # noqa: E402
from meddlr.data.transforms.subsample import MASK_FUNC_REGISTRY, MaskFunc  # noqa: E402
from meddlr.ops import fft2c, ifft2c  # noqa: E402
from meddlr.utils.logger import setup_logger  # noqa: E402

from meddlr_greedy.data.catalog import register_datasets  # noqa: E402

torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@MASK_FUNC_REGISTRY.register()
class FixedMaskFunc(MaskFunc):
    """The same lines for every example: every second one, and the centre."""

    def __init__(self, accelerations, calib_size=None, center_fractions=None):
        super().__init__(accelerations)

    def __call__(self, shape, seed=None, acceleration=None):
        lines = torch.zeros(shape[2])
        lines[::2] = 1
        lines[shape[2] // 2 - 2 : shape[2] // 2 + 2] = 1
        return lines.reshape(1, 1, -1, *[1] * (len(shape) - 3)).expand(shape).contiguous()

    def get_edge_mask(self, kspace, out_shape=None):
        return torch.zeros(out_shape)


def random_complex(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def make_scan(rng, num_slices, height, width, num_coils, num_maps=1, num_frames=None):
    """Smooth-ish random images with normalised random maps; the arrays of one HDF5 scan."""
    frames = (num_frames,) if num_frames else ()
    maps = random_complex(rng, num_slices, height, width, *(1 for _ in frames), num_coils, num_maps)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(axis=-2, keepdims=True))
    image = random_complex(rng, num_slices, height, width, *frames, num_maps)
    image[:, height // 4 : height // 2, width // 4 : width // 2] += 3
    coils = (maps * image[..., None, :]).sum(-1)
    kspace = fft2c(torch.from_numpy(coils), channels_last=True).numpy()
    images = ifft2c(torch.from_numpy(kspace), channels_last=True).numpy()
    target = (maps.conj() * images[..., None]).sum(-2)
    return {"kspace": kspace, "maps": maps, "target": target.astype(np.complex64)}


def write_dataset(root: Path, name: str, scans_per_split, **kwargs):
    rng = np.random.default_rng(sum(map(ord, name)))
    for split, num_scans in scans_per_split.items():
        (root / name / split).mkdir(parents=True)
        (root / name / "annotations").mkdir(exist_ok=True)
        images = []
        for i in range(num_scans):
            scan = make_scan(rng, **kwargs)
            path = root / name / split / f"{name}_{split}_{i}.h5"
            with h5py.File(path, "w") as file:
                for key, value in scan.items():
                    file[key] = value
            images.append({"file_name": f"{split}/{path.name}", "kspace_size": list(scan["kspace"].shape)})
        (root / name / "annotations" / f"{split}.json").write_text(json.dumps({"images": images, "info": {}}))


@pytest.fixture(autouse=True)
def fresh_loggers():
    """meddlr's loggers keep the stream that was there at their first set-up: pytest's, closed after the test."""
    yield
    setup_logger.cache_clear()
    for name in ("meddlr", "meddlr_greedy", "fvcore"):
        logging.getLogger(name).handlers.clear()


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """Data sets ``flat`` (2D) and ``beat`` (cine), each with train, val and test; registered with meddlr."""
    root = tmp_path_factory.mktemp("datasets")
    splits = {"train": 2, "val": 1, "test": 2}
    write_dataset(root, "flat", splits, num_slices=2, height=20, width=16, num_coils=3)
    write_dataset(root, "beat", splits, num_slices=2, height=16, width=12, num_coils=3, num_frames=4)
    os.environ["MEDDLR_GREEDY_DATASETS"] = str(root)
    register_datasets(str(root))
    return root


COMMON = """
MODEL:
  DEVICE: cpu
  META_ARCHITECTURE: {arch}
  UNROLLED: {{NUM_UNROLLED_STEPS: 4, NUM_RESBLOCKS: 1, NUM_FEATURES: 4, KERNEL_SIZE: [3]}}
DATASETS: {{TRAIN: [{data}_train], VAL: [{data}_val], TEST: [{data}_test]}}
DATALOADER: {{NUM_WORKERS: 0}}
AUG_TRAIN: {{UNDERSAMPLE: {{NAME: FixedMaskFunc, ACCELERATIONS: [2], CALIBRATION_SIZE: 4}}}}
SOLVER: {{TRAIN_BATCH_SIZE: 2, TEST_BATCH_SIZE: 1, WARMUP_ITERS: 0, BASE_LR: 0.001, MAX_ITER: 5, CHECKPOINT_PERIOD: 5}}
TEST: {{EVAL_PERIOD: 5, VAL_METRICS: {{RECON: [psnr, psnr_scan]}}}}
TIME_SCALE: iter
SEED: 3
OUTPUT_DIR: {out}
"""

GREEDY = """
MISC:
  GREEDY: {{META_ARCHITECTURE: {arch}, NUM_MODULES: {modules}, THREADS: 1, LOG_PERIOD: 1, BEST_METRIC: val_psnr}}
"""


@pytest.fixture
def write_config(datasets, tmp_path):
    """Writes a config file: write_config(arch, modules, data="flat"); modules None is the plain network."""

    def write(arch="GeneralizedUnrolledCNN", modules=2, data="flat", out=None, extra=""):
        out = out or tmp_path / "run"
        greedy = modules is not None
        text = COMMON.format(arch="GreedyUnrolled" if greedy else arch, data=data, out=out)
        if greedy:
            text += GREEDY.format(arch=arch, modules=modules)
        path = tmp_path / f"{'greedy' if greedy else 'plain'}-{Path(out).name}.yaml"
        path.write_text(text + extra)
        return path

    return write


@pytest.fixture
def make_cfg(write_config):
    """A config object with overrides: make_cfg(overrides, arch=..., modules=...)."""

    def make(overrides=(), **kwargs):
        cfg = get_cfg()
        cfg.merge_from_file(str(write_config(**kwargs)))
        cfg.merge_from_list(list(overrides))
        return cfg

    return make
