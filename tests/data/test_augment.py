"""Augmentation of cine, exact in image and k-space; the example made from it; scaling by the time average."""

import numpy as np
import pytest
import torch
from meddlr.config import CfgNode, get_cfg
from meddlr.data.transforms.subsample import build_mask_func
from meddlr.data.transforms.transform import NoOpNormalizer, TopMagnitudeNormalizer
from meddlr.ops import fft2c

from meddlr_greedy.data.augment import Augmentation, CineAugmentor, mirrored
from meddlr_greedy.data.kt_mask import partial_echo
from meddlr_greedy.data.normalizers import LeanTopMagnitudeNormalizer, TimeAverageNormalizer, lean
from meddlr_greedy.data.sampled_lines import SampledLines
from meddlr_greedy.data.seeding import SeededMaskFunc, seed_transform
from meddlr_greedy.data.transform import CineDataTransform
from meddlr_greedy.errors import UserError
from meddlr_greedy.ops.cine_sense import CineSenseModel

COILS, MAPS = 3, 2


def make_example(height, width, frames, seed=0):
    """k-space (H, W, T, C), maps (H, W, 1, C, M) and images (H, W, T, M) with kspace = F S image; complex128."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return torch.from_numpy(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))

    maps, image = normal(height, width, 1, COILS, MAPS), normal(height, width, frames, MAPS)
    return kspace_of(image, maps), maps, image


def kspace_of(image, maps):
    return fft2c((maps * image[..., None, :]).sum(-1)[None], channels_last=True)[0]


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_mirrored_commutes_with_the_centered_fft(size):
    x = torch.randn(size, dtype=torch.complex128)

    def centered(x):
        return torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(x)))

    torch.testing.assert_close(centered(x[mirrored(size)]), centered(x)[mirrored(size)])
    assert mirrored(size)[size // 2] == size // 2
    assert np.array_equal(mirrored(size)[mirrored(size)], np.arange(size))


@pytest.mark.parametrize("height, width, frames", [(12, 10, 4), (13, 9, 5), (12, 9, 1)])
@pytest.mark.parametrize("crop", [0, 7, 8])
@pytest.mark.parametrize("flips", [0.0, 0.5, 1.0])
def test_kspace_of_the_augmented_image_is_the_augmented_kspace(height, width, frames, crop, flips):
    kspace, maps, image = make_example(height, width, frames)
    augmentor = CineAugmentor(crop, readout_jitter=3, flip_probability=flips)
    for seed in range(4):
        augmentation = augmentor.draw(kspace.shape, np.random.RandomState(seed))
        new_image, new_maps = augmentation.image(image), augmentation.image(maps)
        assert new_image.shape == (crop or height, width, frames, MAPS)
        torch.testing.assert_close(augmentation.kspace(kspace), kspace_of(new_image, new_maps))


def test_flips_and_crop_are_what_they_say():
    image = torch.arange(2 * 9 * 5 * 3).reshape(18, 5, 3, 1)
    flip = CineAugmentor(flip_probability=1).draw(image.shape, np.random.RandomState(0))
    assert torch.equal(flip.image(image)[1:], image.flip(0, 1, 2)[:-1]), "an even axis keeps its first element"
    crop = CineAugmentor(readout_crop=8, readout_jitter=0).draw(image.shape, np.random.RandomState(0))
    assert torch.equal(crop.image(image), image[5:13]), "the center is at size // 2"
    assert CineAugmentor().draw(image.shape, np.random.RandomState(0)).image(image) is image


def test_crop_is_jittered_and_stays_inside():
    augmentor = CineAugmentor(readout_crop=64, readout_jitter=32)
    starts = np.array([augmentor.draw((224, 8, 2), np.random.RandomState(seed)).rows[0] for seed in range(2000)])
    assert starts.min() == 0 and starts.max() == 160
    inside = starts[(starts > 0) & (starts < 160)]
    assert starts.mean() == pytest.approx(80, abs=3) and 25 < inside.std() < 33
    with pytest.raises(UserError, match=r"^MISC\.GREEDY\.CINE\.READOUT_CROP: found 64, .* 48 readout points"):
        augmentor.draw((48, 8, 2), np.random.RandomState(0))


def test_flips_are_independent_and_as_probable_as_asked():
    shape = (6, 5, 4)
    drawn = [CineAugmentor(flip_probability=0.3).draw(shape, np.random.RandomState(seed)) for seed in range(2000)]
    flipped = np.array([[index[-1] != len(index) - 1 for index in augmentation] for augmentation in drawn])
    assert flipped.mean(axis=0) == pytest.approx(0.3, abs=0.04)
    assert abs(np.corrcoef(flipped.T)[np.triu_indices(3, 1)]).max() < 0.08


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


def test_time_average_of_a_still_object_is_the_object():
    """Where the frames together sample all lines, some of them several times."""
    kspace, maps, image = make_example(16, 12, 1)
    still = kspace.expand(-1, -1, 6, -1)
    mask = torch.zeros(1, 12, 6, 1)
    mask[0, range(12), np.arange(12) % 6] = 1
    mask[0, 5:7] = 1
    average = SampledLines.of(still, mask, Augmentation.none(still.shape)).time_average()
    torch.testing.assert_close(average.kspace((16, 12, 1, COILS)), kspace)


def where_a_sample_misleads(size, sampled):
    """Magnitudes that are large on one point in 64, which a regular sample sees alone, or on all others."""
    large = (torch.arange(size) % 64 == 0) == sampled
    return torch.where(large, 100.0, 1.0) * torch.rand(size)


@pytest.mark.parametrize("keywords", [None, ("image", "target"), ("image",)])
@pytest.mark.parametrize(
    "magnitude",
    [torch.rand(80), torch.rand(64 * 90), where_a_sample_misleads(6400, True), where_a_sample_misleads(6400, False)],
    ids=["small", "large", "large ones in the sample", "no large ones in the sample"],
)
def test_lean_normalizer_is_that_of_meddlr(magnitude, keywords):
    image = torch.polar(magnitude, 6 * torch.rand(len(magnitude)))
    kspace, target = torch.randn(2, 7, 5, dtype=torch.complex64)
    stock = TopMagnitudeNormalizer(keywords)
    for normalizer in (lean(stock), TimeAverageNormalizer(keywords)):
        assert isinstance(normalizer, LeanTopMagnitudeNormalizer)
        out, expected = (n.normalize(masked_kspace=kspace, image=image, target=target) for n in (normalizer, stock))
        assert out.keys() == expected.keys()
        for key in ("masked_kspace", "target", "mean", "std"):
            torch.testing.assert_close(out[key], expected[key])


def test_lean_normalizer_takes_the_place_of_that_of_meddlr_alone():
    for normalizer in (NoOpNormalizer(), TimeAverageNormalizer()):
        assert lean(normalizer) is normalizer
