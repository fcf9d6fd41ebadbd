"""Small data sets on disk, and a config that loads them."""

import json

import pytest
from meddlr.config import CfgNode, get_cfg

from meddlr_greedy.data.catalog import register_datasets
from tests.helpers.examples import KINDS, scan_arrays, write_arrays


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Data sets small_plane and small_cine with 2 scans to train on and 1 to validate with."""
    root = tmp_path_factory.mktemp("root")
    for kind in KINDS:
        for split, num_scans in (("train", 2), ("val", 1)):
            folder = root / f"small_{kind}"
            (folder / split).mkdir(parents=True)
            (folder / "annotations").mkdir(exist_ok=True)
            names = [f"{split}/{split}_{scan}.h5" for scan in range(num_scans)]
            for seed, name in enumerate(names):
                write_arrays(folder / name, scan_arrays(seed, kind))
            annotation = {"images": [{"file_name": name} for name in names], "info": {}}
            (folder / "annotations" / f"{split}.json").write_text(json.dumps(annotation))
    register_datasets(root)
    yield root
    register_datasets()


@pytest.fixture
def data_cfg(root):
    """Makes a config: data_cfg("cine", "SOLVER.TRAIN_BATCH_SIZE", 3, ...)."""

    def make(kind, *overrides):
        cfg = get_cfg()
        cfg.DATASETS.TRAIN, cfg.DATASETS.VAL = (f"small_{kind}_train",), (f"small_{kind}_val",)
        cfg.MODEL.DEVICE = "cpu"
        cfg.SEED = 3
        cfg.SOLVER.TRAIN_BATCH_SIZE, cfg.SOLVER.TEST_BATCH_SIZE = 4, 2
        cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.DROP_LAST = 0, False
        cfg.AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS = (2, 4)
        if kind == "cine":
            cfg.AUG_TRAIN.UNDERSAMPLE.NAME = "VariableDensityKtMaskFunc"
            cfg.AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE = 2
        else:
            cfg.AUG_TRAIN.UNDERSAMPLE.NAME = "RandomMaskFunc1D"
            cfg.AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE = 0
            cfg.AUG_TRAIN.UNDERSAMPLE.CENTER_FRACTIONS = (0.1,)
        overrides = dict(zip(overrides[::2], overrides[1::2]))
        cfg.MISC.GREEDY = CfgNode({"CINE": overrides.pop("MISC.GREEDY.CINE", {})})
        cfg.merge_from_list([word for item in overrides.items() for word in item])
        return cfg

    return make


@pytest.fixture
def annotate(root, tmp_path):
    """Registers a data set of the given scans, as (name, arrays); in the end those of ``root`` again."""

    def write(*scans, dataset="some"):
        folder = tmp_path / dataset
        (folder / "annotations").mkdir(parents=True)
        images = [{"file_name": f"{name}.h5"} for name, _ in scans]
        (folder / "annotations" / "train.json").write_text(json.dumps({"images": images}))
        for name, arrays in scans:
            write_arrays(folder / f"{name}.h5", arrays)
        register_datasets(tmp_path)
        return folder

    yield write
    register_datasets(root)
