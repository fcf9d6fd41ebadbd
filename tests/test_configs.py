"""Every config of the package trains on data of its kind."""

import shutil

import numpy as np
import pytest

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.config.shipped import shipped_configs
from meddlr_greedy.data.catalog import register_datasets
from tests.helpers.runs import metrics, train
from tests.helpers.scans import write_scans

CINE = {"num_slices": 1, "height": 72, "width": 40, "num_frames": 12, "num_coils": 3}
# Cine is trained by one slice after the other, 2D in batches of 4.
PLANE = {"num_slices": 4, "height": 48, "width": 40, "num_coils": 3}


@pytest.fixture
def write_data(datasets):
    """write_data(name, without_targets, **kind): the data set ``name``, with train, val and test."""
    written = []

    def write(name, without_targets, **kind):
        scans = {f"{split}_0": kind for split in ("train", "val", "test")}
        write_scans(datasets, name, scans, change=undersampled if without_targets else None)
        written.append(datasets / name)
        register_datasets(str(datasets))

    yield write
    for folder in written:
        shutil.rmtree(folder)
    register_datasets(str(datasets))


def undersampled(scan):
    """The scan as it is acquired with a mask of its own, without target."""
    slices, _, width, frames, _ = scan["kspace"].shape
    mask = np.zeros((slices, 1, width, frames, 1), np.uint8)
    mask[:, :, ::2] = mask[:, :, width // 2 - 2 : width // 2 + 2] = 1
    return {"kspace": scan["kspace"] * mask, "maps": scan["maps"], "mask": mask}


@pytest.mark.parametrize("name", shipped_configs())
def test_two_iterations(name, write_data, tmp_path):
    cfg = load_config(name)
    is_cine = not name.startswith("knee/")
    kind = {**(CINE if is_cine else PLANE), "num_maps": cfg.MODEL.UNROLLED.NUM_EMAPS}
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL, *cfg.DATASETS.TEST]
    # Knee: names of its data sets are meddlr's, which belong to other files.
    for data in sorted({name.rpartition("_")[0] for name in names}) if is_cine else ["knee"]:
        write_data(data, not cfg.DATASETS.TEST, **kind)
    opts = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "run")]
    opts += ["TIME_SCALE", "iter", "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0", "SOLVER.CHECKPOINT_PERIOD", "0"]
    opts += ["MODEL.UNROLLED.NUM_FEATURES", "4", "MISC.GREEDY.RUN.LOG_PERIOD", "1"]
    if not is_cine:
        for split in ("TRAIN", "VAL", "TEST"):
            opts += [f"DATASETS.{split}", f"('knee_{split.lower()}',)"]
    train(name, *opts)
    assert [line["iteration"] for line in metrics(tmp_path / "run")] == [0, 1]
    assert all(np.isfinite(line["total_loss"]) for line in metrics(tmp_path / "run"))
    assert (tmp_path / "run" / "model_best.pth").exists() == bool(cfg.DATASETS.VAL)
