"""Small generated data and the pieces that several tests share."""

import functools
import gc
import logging
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from meddlr.config import get_cfg
from meddlr.ops import complex as complex_ops
from meddlr.utils import env
from meddlr.utils.logger import setup_logger

from meddlr_greedy.data.catalog import register_datasets
from tests.helpers.heart import make_heart
from tests.helpers.scans import write_dataset, write_scans

torch.set_num_threads(1)
# Each operation on complex numbers asks for it, and meddlr reads torch's version anew: a tenth of a small training.
env.supports_cplx_tensor = complex_ops.supports_cplx_tensor = functools.cache(env.supports_cplx_tensor)


def pytest_configure(config):
    """The tests run on the CPU, unless ``-m cuda`` asks for those that need a GPU.

    Under ``nohup``, and in the background of a script, signals are ignored; the tests send them to their processes.
    """
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)
    if not re.search(r"(?<!not )\bcuda\b", config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


#: The files that take longest. They are begun first, so that no worker is left with one of them at the end.
LONG = (
    "test_train.py",
    "test_plan.py",
    "parallel/test_trainer.py",
    "jobs/test_job.py",
    "jobs/test_launch.py",
    "test_door.py",
    "fuzz/test_fuzz.py",
    "jobs/test_slurm.py",
    "readers/test_ismrmrd.py",
    "test_reconstruct.py",
    "test_configs.py",
    "projects/support/test_synchronizations.py",
    "test_compare.py",
    "test_outputs.py",
    "test_startup.py",
    "projects/benchmarks/test_gpu.py",
    "modeling/test_knobs.py",
    "test_self_supervised.py",
    "readers/test_ismrmrd_calibration.py",
    "preparation/test_dataset.py",
    "readers/test_ismrmrd_phases.py",
    "projects/studies/test_budget.py",
    "modeling/test_invertible.py",
    "modeling/test_greedy.py",
    "ops/test_total_variation.py",
    "projects/support/test_trials.py",
    "readers/test_undersampled.py",
    "test_eval_net.py",
    "parallel/test_partition.py",
    "parallel/test_checkpointer.py",
)


def pytest_collection_modifyitems(items):
    """Long files first; the others stay in their order."""
    place = {Path(__file__).parent / name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not go through it again, half a second each time."""
    gc.collect()
    gc.freeze()


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
    _register(root)
    return root


@pytest.fixture(autouse=True)
def registered(request):
    """A test that uses ``datasets`` finds them registered, though a command of another one registered others."""
    if "datasets" in request.fixturenames:
        _register(request.getfixturevalue("datasets"))


def _register(root):
    os.environ["MEDDLR_GREEDY_DATASETS"] = str(root)
    register_datasets(str(root))


@pytest.fixture(scope="session")
def heart():
    return make_heart(0)


@pytest.fixture(scope="session")
def magnitude(heart):
    return np.round(1000 * np.abs(heart.image)).astype(np.uint16)


@pytest.fixture
def several_shapes(datasets):
    """Overrides for a data set of cine scans of several shapes: 4, 3 and 1 training examples of one shape each."""
    cine = {"num_coils": 3, "num_frames": 4}
    kinds = {
        "train_0": {"num_slices": 2, "height": 16, "width": 12},
        "train_1": {"num_slices": 3, "height": 16, "width": 10},
        "train_2": {"num_slices": 2, "height": 16, "width": 12},
        "train_3": {"num_slices": 1, "height": 14, "width": 12},
        "val_0": {"num_slices": 1, "height": 16, "width": 10},
        "val_1": {"num_slices": 1, "height": 14, "width": 12},
    }
    write_scans(datasets, "shapes", {name: {**cine, **kind} for name, kind in kinds.items()})
    register_datasets(str(datasets))
    names = ["DATASETS.TRAIN", "('shapes_train',)", "DATASETS.VAL", "('shapes_val',)", "DATASETS.TEST", "()"]
    yield [*names, "DATALOADER.DROP_LAST", "False"]
    shutil.rmtree(datasets / "shapes")
    register_datasets(str(datasets))


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
  GREEDY:
    META_ARCHITECTURE: {arch}
    NUM_MODULES: {modules}
    RUN: {{THREADS: 1, LOG_PERIOD: 1, BEST_METRIC: val_psnr}}
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
