"""How far the frames together cover k-space."""

import numpy as np
import pytest
import torch

from meddlr_greedy.data.coverage import time_average_coverage
from meddlr_greedy.data.kt_mask import partial_echo
from meddlr_greedy.data.masks import GaussianKtMaskFunc, GoldenStepKtMaskFunc


def test_golden_step_covers_the_calibration_region_better_than_independent_frames():
    def covered(kind):
        masks = [kind(12, 2)((1, 1, 144, 20, 1), seed) for seed in range(40)]
        return np.median([time_average_coverage(mask).central for mask in masks])

    assert covered(GoldenStepKtMaskFunc) > 1.3 * covered(GaussianKtMaskFunc)
    assert covered(GoldenStepKtMaskFunc) >= 20, "20 central lines, for ESPIRiT"


@pytest.mark.parametrize("num_lines", [8, 9])
def test_time_average_coverage(num_lines):
    lines = torch.zeros(num_lines, 3)
    lines[[2, 3, 4, 7], [0, 1, 2, 1]] = 1
    mask = lines.reshape(1, 1, num_lines, 3, 1).expand(1, 5, num_lines, 3, 1)
    coverage = time_average_coverage(mask)
    assert coverage == (num_lines, 4, 2 if num_lines == 8 else 1)
    assert f"4 of {num_lines} lines" in str(coverage)
    assert time_average_coverage(torch.ones_like(mask)).central == num_lines
    assert time_average_coverage(torch.zeros_like(mask)) == (num_lines, 0, 0)
    assert time_average_coverage(partial_echo(mask, 0.25)) == coverage
