"""Loaders as the config asks for them, and what is refused."""

from collections import Counter

import pytest
import torch
from meddlr.data.transforms.subsample import build_mask_func

from meddlr_greedy.data.build import build_train_loader, build_val_loader
from meddlr_greedy.errors import UserError
from tests.helpers.examples import HEIGHT, KINDS, NOISE, WIDTH, assert_equal, first_batches, prospective, scan_arrays


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_test", [True, False])
def test_validation_is_the_same_each_time(data_cfg, kind, as_test):
    loader = build_val_loader(data_cfg(kind), f"small_{kind}_val", as_test)
    batches = list(loader)
    assert_equal(list(loader), batches)
    cfg = data_cfg(kind, "DATALOADER.NUM_WORKERS", 1)
    assert_equal(list(build_val_loader(cfg, f"small_{kind}_val", as_test)), batches)
    assert len(loader.dataset) == 3
    assert [len(batch["mask"]) for batch in batches] == [2, 1]
    assert batches[1]["metadata"] == [{"scan_id": "val_0", "slice_id": 2}]
    if kind == "cine":
        masks = torch.cat([batch["mask"] for batch in batches])
        assert len({mask.numpy().tobytes() for mask in masks}) == 3, "one mask per slice"


def test_test_masks_in_2d_are_those_of_meddlr(data_cfg):
    cfg = data_cfg("plane")
    cfg.AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS = (3,)
    expected = build_mask_func(cfg.AUG_TRAIN)((1, HEIGHT, WIDTH, 1), seed=sum(map(ord, "val_0")))
    for batch in build_val_loader(cfg, "small_plane_val"):
        assert torch.equal(batch["mask"], expected.expand_as(batch["mask"]))


def test_coverage_of_the_sampling_is_logged(data_cfg, caplog):
    with caplog.at_level("INFO", "meddlr_greedy"):
        build_train_loader(data_cfg("cine"), seed=0)
    assert "k-t sampling: the time average covers" in caplog.text and f"of {WIDTH} lines" in caplog.text


def narrowed(arrays, width=8):
    return {key: value[:, :, :width] if value.shape[2] > 1 else value for key, value in arrays.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_scans_of_different_shapes_and_maps(data_cfg, annotate, caplog, kind):
    """3 slices of each scan; the examples are those of batches of one, in another order."""
    arrays = scan_arrays(0, kind)
    one_map = {key: value if key == "kspace" else value[..., :1] for key, value in arrays.items()}
    annotate(("wide", arrays), ("narrow", narrowed(arrays)), ("twin", scan_arrays(1, kind)), ("one_map", one_map))
    cfg = data_cfg(kind, *NOISE, "DATASETS.TRAIN", ("some_train",))
    with caplog.at_level("INFO", "meddlr_greedy"):
        loader = build_train_loader(cfg, seed=5)
    assert (
        "there are 3 kinds (6 of (10, 32" in caplog.text and "4 batches in an epoch, 3 of them smaller" in caplog.text
    )
    batches = first_batches(loader, 8)
    for epoch in (batches[:4], batches[4:]):
        assert sorted(len(batch["kspace"]) for batch in epoch) == [2, 3, 3, 4]
        shapes = Counter()
        for batch in epoch:
            shapes[tuple(batch["kspace"].shape[1:]), batch["maps"].shape[-1]] += len(batch["kspace"])
        assert sorted(shapes.values()) == [3, 3, 6] and len(shapes) == 3
    cfg.DATALOADER.NUM_WORKERS = 2
    resumed = build_train_loader(cfg, seed=5)
    resumed.batch_sampler.start_iter = 3
    assert_equal(first_batches(resumed, 5), batches[3:])

    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.TRAIN_BATCH_SIZE = 0, 1
    alone = {key: value for batch in first_batches(build_train_loader(cfg, seed=5), 12) for key, value in rows(batch)}
    together = {key: value for batch in batches[:4] for key, value in rows(batch)}
    assert len(alone) == 12 and alone.keys() == together.keys()
    assert all(torch.equal(alone[key], together[key]) for key in alone)


def rows(batch):
    """The k-space of each example, known by its maps."""
    return [(maps.numpy().tobytes(), kspace) for maps, kspace in zip(batch["maps"], batch["kspace"])]


@pytest.mark.parametrize("kind", KINDS)
def test_validation_of_different_shapes(data_cfg, annotate, kind):
    """In order, and batches end where the shape changes."""
    annotate(("a", scan_arrays(0, kind)), ("b", narrowed(scan_arrays(1, kind))), ("c", narrowed(scan_arrays(2, kind))))
    cfg = data_cfg(kind, "SOLVER.TEST_BATCH_SIZE", 2)
    loader = build_val_loader(cfg, "some_train")
    batches = list(loader)
    assert [len(batch["kspace"]) for batch in batches] == [2, 1, 2, 2, 2] and len(loader) == 5
    found = [(m["scan_id"], m["slice_id"]) for batch in batches for m in batch["metadata"]]
    assert found == [(scan, i) for scan in "abc" for i in range(3)]


def test_scans_with_and_without_target_are_no_batch(data_cfg, annotate):
    annotate(("with", scan_arrays(0, "cine")), ("without", prospective()))
    cfg = data_cfg("cine", "DATASETS.TRAIN", ("some_train",))
    batches = first_batches(build_train_loader(cfg, seed=0), 2)
    assert sorted((len(batch["kspace"]), "target" in batch) for batch in batches) == [(3, False), (3, True)]
    cfg.SOLVER.TRAIN_BATCH_SIZE = 1
    assert sum("target" in batch for batch in first_batches(build_train_loader(cfg, seed=0), 6)) == 3


def test_a_scan_with_fewer_examples_than_a_batch_is_refused_where_it_would_never_come(data_cfg, annotate):
    annotate(("wide", scan_arrays(0, "plane")), ("narrow", narrowed(scan_arrays(1, "plane"))))
    cfg = data_cfg("plane", "DATASETS.TRAIN", ("some_train",), "DATALOADER.DROP_LAST", True)
    with pytest.raises(
        UserError, match=r"TRAIN_BATCH_SIZE: 4 is more than the 3 .* \(\(10, 32, 3\), 2 maps, with target"
    ):
        build_train_loader(cfg, seed=0)


@pytest.mark.parametrize("key, value", [("PARTIAL_ECHO", 0.25), ("READOUT_CROP", 6), ("FLIP_PROBABILITY", 0.5)])
def test_keys_for_cine_are_refused_for_2d(data_cfg, key, value):
    with pytest.raises(UserError, match=rf"^MISC\.GREEDY\.CINE\.{key}: found {value}, but the data are 2D"):
        build_train_loader(data_cfg("plane", "MISC.GREEDY.CINE", {key: value}), seed=0)


@pytest.mark.parametrize(
    "kind, key, value",
    [
        ("plane", "DATALOADER.SAMPLER_TRAIN", "GroupSampler"),
        ("plane", "DATASETS.TRAIN", ()),
        ("plane", "AUG_TRAIN.UNDERSAMPLE.NAME", "RandomMask1D"),
        ("cine", "AUG_TRAIN.UNDERSAMPLE.NAME", "PoissonDiskMaskFunc"),
        ("cine", "AUG_TRAIN.MRI_RECON.TRANSFORMS", ({"name": "RandomFlip", "p": 0.5, "ndim": 2},)),
        ("cine", "SOLVER.TRAIN_BATCH_SIZE", 0),
        ("cine", "SOLVER.TRAIN_BATCH_SIZE", 7),
        ("cine", "DATALOADER.NUM_WORKERS", -1),
        ("cine", "TEST.POSTPROCESSOR.NAME", "soft"),
    ],
)
def test_config_that_cannot_be_is_refused(data_cfg, kind, key, value):
    cfg = data_cfg(kind, "DATALOADER.DROP_LAST", True, key, value)
    with pytest.raises(UserError, match=f"^{key}: "):
        build_train_loader(cfg, seed=0)


def test_prefetch_factor_counts_with_workers_only(data_cfg):
    cfg = data_cfg("cine", "DATALOADER.PREFETCH_FACTOR", 0)
    assert first_batches(build_train_loader(cfg, seed=0), 1) and list(build_val_loader(cfg, "small_cine_val"))
    cfg.DATALOADER.NUM_WORKERS = 1
    for build in (lambda: build_train_loader(cfg, seed=0), lambda: build_val_loader(cfg, "small_cine_val")):
        with pytest.raises(UserError, match=r"^DATALOADER\.PREFETCH_FACTOR: 0 .* 1 or more"):
            build()


@pytest.mark.parametrize("kind", KINDS)
def test_postprocessor_that_is_unknown(data_cfg, kind):
    cfg = data_cfg(kind, "TEST.POSTPROCESSOR.NAME", "hard_dc_al")
    with pytest.raises(UserError, match=r"^TEST\.POSTPROCESSOR\.NAME: .*did you mean 'hard_dc_all'"):
        build_val_loader(cfg, f"small_{kind}_val")


def test_what_a_mask_function_of_meddlr_refuses_is_one_line(data_cfg):
    cfg = data_cfg("plane", "AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE", 4)
    with pytest.raises(UserError, match=r"^AUG_TRAIN\.UNDERSAMPLE: not allowed for RandomMaskFunc1D: Only one of"):
        build_train_loader(cfg, seed=0)


def test_scheduled_noise_needs_the_iteration(data_cfg):
    overrides = (*NOISE, "MODEL.CONSISTENCY.AUG.NOISE.SCHEDULER.WARMUP_METHOD", "linear")
    build_train_loader(data_cfg("plane", *overrides), seed=0)
    with pytest.raises(UserError, match=r"^DATALOADER\.NUM_WORKERS: 1 "):
        build_train_loader(data_cfg("plane", *overrides, "DATALOADER.NUM_WORKERS", 1), seed=0)
