"""From an example on disk to one that the network takes."""

import numpy as np
import pytest
import torch

from meddlr_greedy.data.augment import CineAugmentor, mirrored
from meddlr_greedy.data.build import build_train_loader, build_val_loader
from meddlr_greedy.data.kt_mask import partial_echo
from meddlr_greedy.data.seeding import seed_transform
from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.cine_sense import CineSenseModel
from tests.helpers.examples import (
    COILS,
    FRAMES,
    HEIGHT,
    MAPS,
    WIDTH,
    as_numpy,
    first_batches,
    make_example,
    make_transform,
    scan_arrays,
)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shapes_and_types_of_a_cine_batch(data_cfg, num_workers):
    batch = first_batches(build_train_loader(data_cfg("cine", "DATALOADER.NUM_WORKERS", num_workers), 0), 1)[0]
    assert batch.pop("constant_along_readout") is True
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    plane = (4, HEIGHT, WIDTH)
    assert shapes == {
        "kspace": (plane + (FRAMES, COILS), torch.complex64),
        "maps": (plane + (1, COILS, MAPS), torch.complex64),
        "target": (plane + (FRAMES, MAPS), torch.complex64),
        "mask": (plane + (FRAMES, 1), torch.float32),
        "edge_mask": (plane + (FRAMES, 1), torch.float32),
        "mean": ((4, 1), torch.float32),
        "std": ((4, 1), torch.float32),
        "norm": ((4,), torch.float32),
        "is_unsupervised": ((4,), torch.bool),
    }
    assert torch.equal(batch["kspace"], batch["kspace"] * batch["mask"])
    assert (batch["mask"] == batch["mask"][:, :1]).all()


def test_an_example_is_the_masked_scaled_scan(data_cfg):
    batch = next(iter(build_val_loader(data_cfg("cine", "SOLVER.TEST_BATCH_SIZE", 3), "small_cine_val")))
    scan = {name: torch.from_numpy(array) for name, array in scan_arrays(0, "cine").items()}
    scale = batch["std"].reshape(3, 1, 1, 1, 1)
    torch.testing.assert_close(batch["kspace"] * scale, scan["kspace"] * batch["mask"])
    torch.testing.assert_close(batch["target"] * scale, scan["target"])
    assert torch.equal(batch["maps"], scan["maps"])


@pytest.mark.parametrize("kind, as_test", [("plane", False), ("cine", False), ("cine", True)])
def test_masks_of_validation_and_test_are_a_function_of_the_seed(data_cfg, kind, as_test):
    first, again, other = (
        torch.cat([b["kspace"] != 0 for b in build_val_loader(data_cfg(kind, "SEED", n), f"small_{kind}_val", as_test)])
        for n in (3, 3, 4)
    )
    assert torch.equal(first, again) and all(not torch.equal(a, b) for a, b in zip(first, other))


@pytest.mark.parametrize("name", ["hard_dc_edge", "hard_dc_all"])
def test_postprocessor_works_for_cine(data_cfg, name):
    batch = next(iter(build_val_loader(data_cfg("cine", "TEST.POSTPROCESSOR.NAME", name), "small_cine_val")))
    expected = batch["mask"] if name == "hard_dc_all" else torch.zeros_like(batch["mask"])
    assert torch.equal(batch["postprocessing_mask"], expected)


AUGMENTED = {"READOUT_CROP": 16, "READOUT_CROP_JITTER": 4.0, "FLIP_PROBABILITY": 0.5, "PARTIAL_ECHO": 0.25}


@pytest.mark.parametrize("normalizer", ["TopMagnitudeNormalizer", "TimeAverageNormalizer", "NoOpNormalizer"])
@pytest.mark.parametrize("greedy", [{}, {"FLIP_PROBABILITY": 1.0}, AUGMENTED])
def test_an_example_is_the_plain_computation_on_whole_arrays(normalizer, greedy):
    """The transform touches the sampled lines only; here everything is computed on all of k-space."""
    arrays = as_numpy(*make_example(24, 20, 5))
    transform = make_transform(normalizer, **greedy)
    copies = [array.copy() for array in arrays]
    for seed in range(3):
        seed_transform(transform, seed)
        out = transform(*arrays, fname="scan", slice_id=0, is_fixed=False)
        assert all(np.array_equal(array, copy) for array, copy in zip(arrays, copies))

        seed_transform(transform, seed)
        kspace, maps, target = map(torch.from_numpy, arrays)
        augmentation = CineAugmentor(
            greedy.get("READOUT_CROP", 0), greedy.get("READOUT_CROP_JITTER", 0), greedy.get("FLIP_PROBABILITY", 0)
        ).draw(kspace.shape, transform.rng)
        kspace, maps, target = augmentation.kspace(kspace), augmentation.image(maps), augmentation.image(target)
        mask = transform.mask_func((1, *kspace.shape[:-1], 1), None, None)
        mask = partial_echo(mask, greedy.get("PARTIAL_ECHO", 0))[0]
        masked = kspace * mask
        average = masked.sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True).clamp(min=1)
        image = CineSenseModel(maps[None])(
            (average if normalizer == "TimeAverageNormalizer" else masked)[None], adjoint=True
        )
        magnitude = image.abs().flatten()
        scale = magnitude.sort(descending=True).values[round(0.05 * magnitude.numel()) - 1]
        scale = torch.ones(()) if normalizer == "NoOpNormalizer" else scale

        assert torch.equal(out["mask"], mask.expand_as(out["mask"]))
        torch.testing.assert_close(out["std"], scale[None])
        torch.testing.assert_close(out["kspace"], masked / scale)
        torch.testing.assert_close(out["target"], target / scale)
        torch.testing.assert_close(out["norm"], target.abs().square().mean().sqrt())
        assert torch.equal(out["maps"], maps)


def test_partial_echo_of_an_example():
    kspace, maps, target = as_numpy(*make_example(24, 20, 5))
    transform = make_transform(PARTIAL_ECHO=0.25, augment=False)
    for is_fixed in (False, True):
        seed_transform(transform, 1)
        out = transform(kspace, maps, target, "scan", 0, is_fixed, acceleration=3)
        assert not out["mask"][:6].any() and not out["kspace"][:6].any()
        assert (out["mask"][6:] == out["mask"][6:7]).all() and out["kspace"][6:].any()


def test_augmentation_is_for_training_only():
    kspace, maps, target = as_numpy(*make_example(24, 20, 5))
    for transform, is_fixed in (
        (make_transform(augment=False, **AUGMENTED), False),
        (make_transform(**AUGMENTED), True),
    ):
        seed_transform(transform, 1)
        out = transform(kspace, maps, target, "scan", 0, is_fixed, acceleration=3)
        assert torch.equal(out["maps"], torch.from_numpy(maps))


@pytest.mark.parametrize("rows", [1, 24])
def test_own_mask_is_kept_and_augmented(rows):
    kspace, maps, target = as_numpy(*make_example(24, 20, 5))
    mask = (np.random.default_rng(1).uniform(size=(rows, 20, 5, 1)) < 0.4).astype(np.uint8)
    transform = make_transform(augment=False, PARTIAL_ECHO=0.25)
    seed_transform(transform, 1)
    out = transform(kspace, maps, None, "scan", 0, False, mask=mask)
    assert "target" not in out
    assert torch.equal(out["mask"], torch.from_numpy(mask).float().expand(24, 20, 5, 1))
    torch.testing.assert_close(out["kspace"] * out["std"], torch.from_numpy(kspace * mask))

    transform = make_transform(FLIP_PROBABILITY=1.0)
    seed_transform(transform, 1)
    flipped = transform(kspace, maps, target, "scan", 0, False, mask=mask)
    for key in ("mask", "kspace"):
        expected = out[key][mirrored(24)][:, mirrored(20)].flip(2)
        torch.testing.assert_close(
            flipped[key] * flipped["std"], expected * (out["std"] if key == "kspace" else flipped["std"])
        )

    transform = make_transform(READOUT_CROP=16)
    seed_transform(transform, 1)
    if rows == 1:
        assert transform(kspace, maps, None, "scan", 0, False, mask=mask)["kspace"].shape == (16, 20, 5, COILS)
    else:
        with pytest.raises(
            UserError, match=r"^MISC\.GREEDY\.CINE\.READOUT_CROP: found 16, .* scan, slice 0 varies along"
        ):
            transform(kspace, maps, None, "scan", 0, False, mask=mask)


def test_no_signal_on_the_sampled_lines():
    kspace, maps, target = as_numpy(*make_example(24, 20, 5))
    mask = np.zeros((1, 20, 5, 1), np.float32)
    mask[:, 3] = 1
    kspace[:, 3] = 0
    with pytest.raises(UserError, match="scan: slice 7: k-space is zero on all sampled lines"):
        make_transform()(kspace, maps, target, "scan", 7, False, mask=mask)


def test_edge_mask_of_an_augmented_example():
    kspace, maps, target = as_numpy(*make_example(24, 20, 5))
    kspace[:, :3] = kspace[20:] = 0
    transform = make_transform(FLIP_PROBABILITY=1.0)
    seed_transform(transform, 1)
    out = transform(kspace, maps, target, "scan", 0, False)
    inner = torch.zeros(24, 20)
    inner[:20, 3:] = 1
    inner = inner[mirrored(24)][:, mirrored(20)]
    assert torch.equal(out["edge_mask"], (1 - inner)[:, :, None, None].expand(24, 20, 5, 1))
    cropped = make_transform(READOUT_CROP=16)
    seed_transform(cropped, 1)
    out = cropped(kspace, maps, target, "scan", 0, False)
    assert (out["edge_mask"].mean(dim=(0, 2, 3)) == torch.tensor([1.0] * 3 + [0.0] * 17)).all()


def test_a_crop_without_signal_is_told_as_such():
    kspace, maps, target = (x.numpy() for x in make_example(40, 12, 4))
    background = np.arange(40) < 34
    maps[background] = 0
    with pytest.raises(UserError) as error:
        for seed in range(20):
            transform = make_transform(READOUT_CROP=8, READOUT_CROP_JITTER=8.0)
            seed_transform(transform, seed)
            transform(kspace, maps, target, "scan", 3, False)
    assert "scan, slice 3: a crop of 8 of 40 readout points holds no signal" in str(error.value)
    assert "READOUT_CROP" in str(error.value) and "BASE_LR" not in str(error.value)
