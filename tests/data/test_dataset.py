"""Examples as they are read from the files of a data set."""

import numpy as np
import pytest
import torch
from meddlr.data import DatasetCatalog

from meddlr_greedy.data import dataset
from meddlr_greedy.data.build import build_train_loader, build_val_loader
from meddlr_greedy.data.dataset import CineSliceData
from meddlr_greedy.errors import UserError
from meddlr_greedy.hdf5 import read_item
from tests.helpers.examples import (
    COILS,
    FRAMES,
    HEIGHT,
    WIDTH,
    first_batches,
    prospective,
    rename,
    scan_arrays,
    write_arrays,
)


def test_scans_of_one_dataset_must_fit_together(tmp_path):
    cine = write_arrays(tmp_path / "cine.h5", scan_arrays(0, "cine"))
    plane = write_arrays(tmp_path / "plane.h5", scan_arrays(0, "plane"))
    (tmp_path / "sub").mkdir()
    twin = write_arrays(tmp_path / "sub" / "cine.h5", scan_arrays(1, "cine"))
    with pytest.raises(UserError, match="plane.h5: .* cannot be mixed"):
        CineSliceData([{"file_name": cine}, {"file_name": plane}], None)
    with pytest.raises(UserError, match="sub/cine.h5: has the same name"):
        CineSliceData([{"file_name": cine}, {"file_name": twin}], None)
    for size in ([4, HEIGHT, WIDTH, FRAMES, COILS], [0], ["2"], [], "x", 2, None):
        with pytest.raises(UserError, match=r"cine\.h5: kspace_size .* in the annotation; .* 1 to 3 slices"):
            CineSliceData([{"file_name": cine, "kspace_size": size}], None)
    with pytest.raises(UserError, match=r"cine\.h5: .*num_slices"):
        CineSliceData([{"file_name": cine, "num_slices": "x"}], None)
    assert len(CineSliceData([{"file_name": cine, "kspace_size": [2]}], None)) == 2


def test_examples_are_seeded_by_the_name_of_their_data_set_wherever_it_lies(annotate):
    folder = annotate(("subject000", scan_arrays(0, "cine")))
    scans = CineSliceData(DatasetCatalog.get("some_train"), None)
    assert scans.scan_names == {str(folder / "subject000.h5"): "some/subject000"}


@pytest.mark.parametrize("rows", [1, HEIGHT])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_prospective_scans_keep_their_mask_and_need_no_target(data_cfg, annotate, rows, dtype, num_workers):
    arrays = prospective(rows=rows, dtype=dtype)
    annotate(("scan", arrays))
    cfg = data_cfg("cine", "DATASETS.TRAIN", ("some_train",), "DATALOADER.NUM_WORKERS", num_workers)
    cfg.SOLVER.TEST_BATCH_SIZE = 3
    (train, again), (val,) = first_batches(build_train_loader(cfg, seed=0), 2), build_val_loader(cfg, "some_train")
    mask = torch.from_numpy(arrays["mask"]).float().expand(3, HEIGHT, WIDTH, FRAMES, 1)
    for batch in (train, again, val):
        assert "target" not in batch
        order = [
            next(i for i, maps in enumerate(arrays["maps"]) if np.array_equal(maps, found)) for found in batch["maps"]
        ]
        assert sorted(order) == [0, 1, 2]
        assert torch.equal(batch["mask"], mask[order])
        scaled = batch["kspace"] * batch["std"].reshape(3, 1, 1, 1, 1)
        torch.testing.assert_close(scaled, (torch.from_numpy(arrays["kspace"]) * mask)[order])


@pytest.mark.parametrize("kind", ["cine", "plane"])
def test_every_array_of_an_example_is_read_into_huge_pages(data_cfg, annotate, kind, monkeypatch):
    arrays = scan_arrays(0, kind)
    annotate(("scan", arrays))
    read = []
    monkeypatch.setattr(dataset, "read_item", lambda array, index: read.append(array.name) or read_item(array, index))
    first_batches(build_train_loader(data_cfg(kind, "DATASETS.TRAIN", ("some_train",)), seed=0), 1)
    assert {"/kspace", "/maps", "/target"} <= set(read)


@pytest.mark.parametrize("value, words", [(2, "values other than 0 and 1"), (0, "nothing but zeros"), (np.nan, "NaN")])
def test_wrong_values_in_a_mask(data_cfg, annotate, value, words):
    arrays = prospective(dtype=np.float32)
    arrays["mask"][1] = value
    annotate(("spoilt", arrays))
    cfg = data_cfg("cine", "DATASETS.TRAIN", ("some_train",))
    with pytest.raises(UserError, match=rf"spoilt\.h5: slice 1: mask holds {words}"):
        first_batches(build_train_loader(cfg, seed=0), 1)


def test_names_in_the_file_of_a_prospective_scan(data_cfg, annotate):
    annotate(("scan", rename(prospective(), "mask")))
    cfg = data_cfg("cine", "DATASETS.TRAIN", ("some_train",))
    cfg.DATALOADER.DATA_KEYS = (("mask", "other"),)
    assert "target" not in first_batches(build_train_loader(cfg, seed=0), 1)[0]


def test_magnitude_targets_go_without_maps(data_cfg, annotate):
    arrays = scan_arrays(0, "plane")
    rss = np.linalg.norm(arrays["target"], axis=-1)
    annotate(("scan", {"kspace": arrays["kspace"], "reconstruction_rss": rss}))
    cfg = data_cfg("plane", "DATASETS.TRAIN", ("some_train",))
    cfg.DATALOADER.DATA_KEYS = (("target", "reconstruction_rss"),)
    assert first_batches(build_train_loader(cfg, seed=0), 1)[0]["target"].shape == (3, HEIGHT, WIDTH, 1)
