"""Batches that do not depend on who reads them, and a user's mistake met by a worker."""

import random

import numpy as np
import pytest
import torch

from meddlr_greedy.data.build import build_train_loader, build_val_loader
from meddlr_greedy.data.transform import CineDataTransform
from meddlr_greedy.errors import UserError
from tests.helpers.examples import AUGMENTED, HEIGHT, KINDS, NOISE, assert_equal, first_batches, scan_arrays


def rows_by_target(batches):
    """mask of each example, known by its (normalized, unchanging) target."""
    return {
        tuple((target * std).abs().flatten()[:3].mul(1e3).round().tolist()): mask
        for batch in batches
        for target, std, mask in zip(batch["target"], batch["std"], batch["mask"])
    }


@pytest.mark.parametrize("kind, options", [("plane", NOISE), ("cine", NOISE), ("cine", AUGMENTED)])
def test_batches_do_not_depend_on_workers_and_resume(data_cfg, kind, options):
    """6 examples in batches of 4 and 2; three epochs, with random masks, accelerations, noise, motion, crop, flips."""
    threads = torch.get_num_threads()
    expected = first_batches(build_train_loader(data_cfg(kind, *options), seed=5), 6)
    assert [len(batch["kspace"]) for batch in expected] == [4, 2] * 3
    assert torch.get_num_threads() == threads
    for num_workers in (1, 2):
        cfg = data_cfg(kind, *options, "DATALOADER.NUM_WORKERS", num_workers)
        assert_equal(first_batches(build_train_loader(cfg, seed=5), 6), expected)
    resumed = build_train_loader(data_cfg(kind, *options, "DATALOADER.NUM_WORKERS", 2), seed=5)
    resumed.batch_sampler.start_iter = 3
    assert_equal(first_batches(resumed, 3), expected[3:])


@pytest.mark.parametrize("kind", KINDS)
def test_masks_differ_between_epochs_examples_and_seeds(data_cfg, kind):
    batches = first_batches(build_train_loader(data_cfg(kind), seed=5), 4)
    epochs = [rows_by_target(batches[:2]), rows_by_target(batches[2:])]
    other = rows_by_target(first_batches(build_train_loader(data_cfg(kind), seed=6), 2))
    assert epochs[0].keys() == epochs[1].keys() == other.keys()
    assert len(epochs[0]) == 6
    for masks in (epochs[1], other):
        assert all(not torch.equal(masks[key], mask) for key, mask in epochs[0].items())
    assert len({mask.numpy().tobytes() for mask in epochs[0].values()}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_global_generators_are_left_alone(data_cfg, kind):
    loader = build_train_loader(data_cfg(kind, *NOISE), seed=5)
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    first_batches(loader, 3)
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    assert before == after


def test_examples_are_read_on_one_thread(data_cfg, monkeypatch):
    threads, seen = torch.get_num_threads(), []
    draw = CineDataTransform._draw_mask
    monkeypatch.setattr(
        CineDataTransform, "_draw_mask", lambda *args: seen.append(torch.get_num_threads()) or draw(*args)
    )
    dataset = build_train_loader(data_cfg("cine"), seed=0).dataset
    torch.set_num_threads(2)
    try:
        dataset[0, 0]
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_augmentations_of_meddlr_are_seeded_too(data_cfg):
    cfg = data_cfg("plane", "DATALOADER.NUM_WORKERS", 1)
    cfg.AUG_TRAIN.MRI_RECON.TRANSFORMS = (
        {"name": "RandomRot90", "p": 0.5, "ks": (2,)},
        {"name": "RandomFlip", "p": 0.5, "ndim": 2},
        {"name": "RandomNoise", "p": 0.5, "std_devs": (0.1, 0.4)},
    )
    expected = first_batches(build_train_loader(cfg, seed=1), 3)
    cfg.DATALOADER.NUM_WORKERS = 0
    assert_equal(first_batches(build_train_loader(cfg, seed=1), 3), expected)


def test_augmentations_differ_between_epochs_examples_and_seeds_and_validation_has_none(data_cfg):
    cfg = data_cfg("cine", "MISC.GREEDY.CINE", {"READOUT_CROP": 6, "FLIP_PROBABILITY": 0.5, "READOUT_CROP_JITTER": 2.0})

    def maps(seed, count):
        return [
            m.numpy().tobytes() for batch in first_batches(build_train_loader(cfg, seed), count) for m in batch["maps"]
        ]

    one, two = maps(5, 4), maps(6, 2)
    assert len(set(one)) >= 8 and len(set(one[:6] + two)) >= 8  # of 12; few flips and places of the crop there are
    assert one[:6] == maps(5, 2)
    for as_test in (True, False):
        for batch in build_val_loader(cfg, "small_cine_val", as_test):
            assert batch["maps"].shape[1] == HEIGHT


@pytest.mark.parametrize("kind", KINDS)
def test_undersampled_scans_keep_their_mask(data_cfg, kind):
    cfg = data_cfg(kind, *NOISE, "DATALOADER.SUBSAMPLE_TRAIN.NUM_UNDERSAMPLED", 1, "SOLVER.TRAIN_BATCH_SIZE", 6)
    first, second = first_batches(build_train_loader(cfg, seed=5), 2)
    for group, same in (("unsupervised", True), ("supervised", False)):
        masks = [
            sorted(mask.numpy().tobytes() for mask in batch[group]["kspace"].abs() > 0) for batch in (first, second)
        ]
        assert len(masks[0]) == 3
        assert (masks[0] == masks[1]) is same


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    "name, value, words",
    [
        ("kspace", np.nan, "NaN"),
        ("kspace", np.inf, "NaN"),
        ("kspace", 0, "nothing but zeros"),
        ("maps", 0, "nothing but zeros"),
        ("target", 0, "nothing but zeros"),
    ],
)
def test_bad_values_are_told_in_one_line_also_by_a_worker(data_cfg, annotate, kind, num_workers, name, value, words):
    arrays = scan_arrays(0, kind)
    arrays[name][1] = value
    cfg = data_cfg(kind, "DATALOADER.NUM_WORKERS", num_workers, "DATASETS.TRAIN", ("some_train",))
    annotate(("spoilt", arrays))
    with pytest.raises(UserError, match=f"spoilt.h5: slice 1: {name} holds {words}") as error:
        first_batches(build_train_loader(cfg, seed=0), 1)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_data_sets_may_use_the_same_names_for_their_scans(data_cfg, annotate, kind):
    """Their examples get random choices of their own, though the data here are the same too."""
    for dataset in ("one", "two"):
        annotate(("subject000", scan_arrays(0, kind)), dataset=dataset)
    cfg = data_cfg(kind, "DATASETS.TRAIN", ("one_train", "two_train"), "SOLVER.TRAIN_BATCH_SIZE", 6)
    (batch,) = first_batches(build_train_loader(cfg, seed=5), 1)
    assert len({mask.numpy().tobytes() for mask in batch["mask"]}) == 6
    for dataset in ("one", "two"):
        (batch,) = build_val_loader(data_cfg(kind, "SOLVER.TEST_BATCH_SIZE", 3), f"{dataset}_train")
        assert batch["metadata"] == [{"scan_id": "subject000", "slice_id": i} for i in range(3)]


def test_lines_for_the_loss_are_decided_by_the_epoch_and_the_example(data_cfg):
    cfg = data_cfg("cine", "DATALOADER.SUBSAMPLE_TRAIN.NUM_UNDERSAMPLED", 2, "MISC.GREEDY.CINE", {"LOSS_LINES": 0.4})
    dataset = build_train_loader(cfg, seed=5).dataset
    first, again, other_epoch, other_slice = (dataset[key] for key in ((0, 0), (0, 0), (1, 0), (0, 1)))
    acquired = first["mask"] + first["loss_mask"]
    assert torch.equal(first["loss_mask"], again["loss_mask"])
    assert not torch.equal(first["loss_mask"], other_epoch["loss_mask"])
    assert torch.equal(acquired, other_epoch["mask"] + other_epoch["loss_mask"]), "the mask of the scan is fixed"
    assert not torch.equal(first["loss_mask"], other_slice["loss_mask"])


@pytest.mark.parametrize(("echo", "constant"), [(0.0, True), (0.25, False)])
def test_what_is_said_of_the_mask(data_cfg, echo, constant):
    cfg = data_cfg("cine", "MISC.GREEDY.CINE", {"PARTIAL_ECHO": echo})
    for batch in first_batches(build_train_loader(cfg, seed=5), 3):
        mask = batch["mask"]
        assert (
            batch["constant_along_readout"]
            is constant
            is all(torch.equal(mask[:, i], mask[:, 0]) for i in range(HEIGHT))
        )
    assert all(
        "constant_along_readout" not in batch for batch in first_batches(build_train_loader(data_cfg("plane"), 5), 1)
    )
