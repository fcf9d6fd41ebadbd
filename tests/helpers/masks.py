"""The k-t masks, drawn."""

import torch

from meddlr_greedy.data.masks import (
    GaussianKtMaskFunc,
    GoldenStepKtMaskFunc,
    UniformKtMaskFunc,
    VariableDensityKtMaskFunc,
)

KT_MASKS = [VariableDensityKtMaskFunc, GoldenStepKtMaskFunc, GaussianKtMaskFunc, UniformKtMaskFunc]


def draw(mask_func, num_lines, num_frames, seed, **kwargs):
    """The sampled lines, (W, T), of a mask that must not vary along the readout."""
    mask = mask_func((1, 3, num_lines, num_frames, 1), seed, **kwargs)
    assert mask.shape == (1, 3, num_lines, num_frames, 1)
    assert mask.dtype == torch.float32
    assert torch.equal(mask, mask[:, :1].expand_as(mask))
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    return mask[0, 0, :, :, 0].numpy()


def sampled_by(mask_func, num_lines=24, num_frames=5):
    """Whether a line is sampled, (W, T), bool."""
    return mask_func((1, 1, num_lines, num_frames, 1), seed=3)[0, 0, ..., 0].numpy() > 0
