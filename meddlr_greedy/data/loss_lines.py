"""Training without targets: which of the acquired lines are held out for the loss (SSDU).

Yaman et al., "Self-supervised learning of physics-guided reconstruction neural networks without fully sampled reference
data", MRM 2020: the acquired samples are split, anew in every epoch, into those that the network gets, for data
consistency, and those that its image is compared with.
"""

import numpy as np

from meddlr_greedy.data.kt_mask import central_lines
from meddlr_greedy.errors import UserError

__all__ = ["draw_loss_lines"]

# SSDU leaves the central 4 x 4 samples to data consistency.
_KEPT_CENTRAL_LINES = 4


def draw_loss_lines(sampled: np.ndarray, fraction: float, rng: np.random.RandomState, where: str) -> np.ndarray:
    """Draws the lines for the loss, uniformly among the acquired ones of all frames; the others are the network's.

    The central lines that every frame has acquired, up to four of them, stay with the network. As the acquired lines
    are denser towards the center, so are those for the loss.

    Args:
        sampled: Whether a line is acquired, (W, T), bool: W phase encodes, T frames.
        fraction: The part of the acquired lines, the central ones apart, that is drawn: above 0, below 1. At least one.
        rng: The generator.
        where: Whose lines they are, for the message of an error.

    Returns:
        Whether a line is for the loss, (W, T), bool; a part of ``sampled``.

    Raises:
        UserError: where no line is left for the loss, or none for the network.
    """
    num_lines = len(sampled)
    blocks = (central_lines(num_lines, count) for count in range(min(_KEPT_CENTRAL_LINES, num_lines), -1, -1))
    candidates = sampled.copy()
    candidates[next(block for block in blocks if sampled[block].all())] = False
    lines = np.flatnonzero(candidates)
    count = max(1, int(round(fraction * len(lines))))
    if not len(lines) or count == sampled.sum():
        raise UserError(
            f"MISC.GREEDY.CINE.LOSS_LINES: found {fraction:g}, but of the {int(sampled.sum())} acquired lines of"
            f" {where} no line is left for the {'network' if len(lines) else 'loss'}; 0 (training with targets) is"
            " allowed"
        )
    loss_lines = np.zeros_like(candidates)
    loss_lines.flat[rng.choice(lines, count, replace=False)] = True
    return loss_lines
