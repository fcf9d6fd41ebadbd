"""Augmentation of cine, exact in image and k-space."""

import numpy as np
import pytest
import torch

from meddlr_greedy.data.augment import CineAugmentor, mirrored
from meddlr_greedy.errors import UserError
from tests.helpers.errors import expect_error
from tests.helpers.examples import MAPS, kspace_of, make_example


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


@pytest.mark.parametrize(("crop", "kernel"), [(1, 3), (2, 3), (4, 5)])
def test_a_crop_smaller_than_a_convolution(write_config, capsys, crop, kernel):
    config = write_config("CineUnrolledCNN", data="beat")
    opts = ["MISC.GREEDY.CINE.READOUT_CROP", crop, "MODEL.UNROLLED.KERNEL_SIZE", f"({kernel},)"]
    words = [f"MISC.GREEDY.CINE.READOUT_CROP: found {crop}", f"{kernel} and more"]
    expect_error(capsys, config, *opts, words=words)
