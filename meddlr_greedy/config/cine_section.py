"""The section ``MISC.GREEDY.CINE`` of the schema."""

from dataclasses import dataclass

from meddlr_greedy.config.rules import is_count, is_finite_from_0, is_number, key

__all__ = ["CineConfig"]


@dataclass(frozen=True)
class CineConfig:
    """``MISC.GREEDY.CINE``: the data of cine (2D+t). For 2D data, any value but the default is refused."""

    PARTIAL_ECHO: float = key(
        0.0,
        "The part of every readout that is not sampled, at its beginning (asymmetric echo).",
        "a number from 0 to below 0.5",
        lambda value: is_number(value) and 0 <= value < 0.5,
    )
    READOUT_CROP: int = key(
        0,
        "Training only: points to keep along the readout, around a random center. 0 keeps all. Evaluation keeps all.",
        "a non-negative integer (0: no crop)",
        is_count,
    )
    READOUT_CROP_JITTER: float = key(
        32.0,
        "Standard deviation of the center of READOUT_CROP, in pixels.",
        "a non-negative number of pixels",
        is_finite_from_0,
    )
    FLIP_PROBABILITY: float = key(
        0.0,
        "Training only: probability of a flip, for each of readout, phase encode and time.",
        "a number from 0 to 1",
        lambda value: is_number(value) and 0 <= value <= 1,
    )
    LOSS_LINES: float = key(
        0.0,
        """Training without targets (SSDU): the part of the acquired lines, the central ones apart, that each example
        holds out for the loss. The loss is then in k-space (MODEL.RECON_LOSS.NAME). 0 trains with targets.""",
        "a number from 0 to below 1",
        lambda value: is_number(value) and 0 <= value < 1,
    )
