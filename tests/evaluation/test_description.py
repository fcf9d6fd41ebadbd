"""What is evaluated, in words: R of masks by its definition, and what decided them."""

import pytest
import torch
from meddlr.config import get_cfg

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.evaluation.description import (
    MaskReader,
    acceleration,
    label_of,
    network_in_words,
    sampling_in_words,
)


def lines(*sampled, height=6, width=8, frames=2):
    """A mask of cine (H, W, T, 1) with these lines in all frames."""
    mask = torch.zeros(height, width, frames, 1)
    mask[:, list(sampled)] = 1
    return mask


def test_acceleration():
    assert acceleration(lines(1, 2)) == 4
    unlike = lines(1, 2)
    unlike[:, 5, 0] = 1
    assert acceleration(unlike) == pytest.approx(16 / 5)
    partial = lines(1, 2)
    partial[:2] = 0
    assert acceleration(partial) == 4, "a partial echo does not count"
    echo = lines(*range(8))
    echo[:2] = 0
    assert acceleration(echo) == 1.5, "where it alone is missing, it counts"
    points = torch.zeros(6, 8, 1)
    points[::2, ::4] = 1
    assert acceleration(points) == 8


@pytest.mark.parametrize(
    "found, words",
    [
        ([8.0, 8.01], "undersampled, R = 8.0"),
        ([4.2, 3.9, 4.0], "undersampled, R = 3.9 to 4.2"),
        ([1.0, 1.0], "fully sampled"),
        ([1.0, 2.0], "undersampled, R = 1.0 to 2.0"),
        ([1.0, 1.02], "undersampled, R = 1.000 to 1.020"),
    ],
)
def test_sampling_in_words(found, words):
    assert sampling_in_words(found) == words


@pytest.mark.parametrize(
    "mask, num_own, words",
    [
        (lines(1, 2), 0, "K-space is undersampled, R = 4.0, by a (ACCELERATIONS 4 to 5.5, SEED 7)."),
        (lines(1, 2), 1, "SEED 7); 1 of 2 scans have masks of their own."),
        (lines(1, 2), 2, "K-space is undersampled, R = 4.0, by the masks of the scans."),
        (lines(1, 2)[:, :, 0], 0, "by a (ACCELERATIONS 4 to 5.5, seeded by the names of the scans)."),
    ],
)
def test_masks_of_an_evaluation(mask, num_own, words):
    cfg = get_cfg()
    cfg.SEED, cfg.AUG_TRAIN.UNDERSAMPLE.NAME, cfg.AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS = 7, "a", (4, 5.5)
    masks = MaskReader(cfg, num_own, 2)
    masks.process({"mask": torch.stack([mask, mask])}, {})
    assert str(masks).endswith(words)


@pytest.mark.parametrize(
    "modules, words, label",
    [
        (1, "CineUnrolledCNN trained by backpropagation", "backpropagation"),
        ("[1, 3]", "CineUnrolledCNN trained greedily in 2 modules", "greedy"),
        (None, "CineUnrolledCNN", "reconstruction"),
    ],
)
def test_network_in_words(write_config, modules, words, label):
    cfg = load_config(str(write_config("CineUnrolledCNN", modules=modules)))
    assert network_in_words(cfg) == words and label_of(cfg) == label
