"""Which of the acquired lines are held out for the loss."""

import numpy as np
import pytest

from meddlr_greedy.data.kt_mask import central_lines
from meddlr_greedy.data.loss_lines import draw_loss_lines
from meddlr_greedy.data.masks import GoldenStepKtMaskFunc, VariableDensityKtMaskFunc
from meddlr_greedy.errors import UserError
from tests.helpers.masks import sampled_by


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.9])
@pytest.mark.parametrize(
    ("sampled", "kept"),
    [
        (sampled_by(VariableDensityKtMaskFunc(3, 2)), 2),
        (sampled_by(VariableDensityKtMaskFunc(2, 7)), 4),
        (sampled_by(GoldenStepKtMaskFunc(4, 0)), 1),
        (np.eye(24, 5, dtype=bool), 0),
    ],
    ids=["two central lines", "more than four", "the line of zero frequency", "no central line"],
)
def test_loss_lines_are_acquired_ones_beside_the_center(sampled, kept, fraction):
    center = central_lines(len(sampled), kept)
    others = sampled.copy()
    others[center] = False
    expected = max(1, int(round(fraction * others.sum())))
    drawn = np.zeros(sampled.shape)
    for seed in range(300):
        loss_lines = draw_loss_lines(sampled, fraction, np.random.RandomState(seed), "a scan")
        assert loss_lines.sum() == expected and not (loss_lines & ~others).any()
        drawn += loss_lines
    # Every line as often as any other: within five standard deviations.
    probability = expected / others.sum()
    deviation = np.abs(drawn[others] / 300 - probability)
    assert deviation.max() < 5 * np.sqrt(probability * (1 - probability) / 300) + 1e-12


def test_no_line_left():
    center_alone = np.zeros((12, 3), bool)
    center_alone[central_lines(12, 4)] = True
    with pytest.raises(
        UserError, match="LOSS_LINES: found 0.4, but of the 12 acquired lines of scan 7 .* for the loss"
    ):
        draw_loss_lines(center_alone, 0.4, np.random.RandomState(0), "scan 7")
    one = np.zeros((12, 3), bool)
    one[0, 0] = True
    with pytest.raises(UserError, match="for the network"):
        draw_loss_lines(one, 0.4, np.random.RandomState(0), "scan 7")
