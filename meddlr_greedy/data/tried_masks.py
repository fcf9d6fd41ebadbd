"""A few masks drawn before a run: whether they have the acceleration that the config asks for.

meddlr's masks sample their calibration region whatever the acceleration, so on small planes they can be far from it.
The k-t masks of this package refuse what cannot be (:mod:`meddlr_greedy.data.kt_mask`).
"""

import functools
import logging
import math
from typing import Dict, Hashable, Iterable, Tuple

from meddlr.data.transforms.subsample import (
    EquispacedMaskFunc1D,
    EquispacedMaskFunc2D,
    MaskFunc,
    RandomMaskFunc,
    RandomMaskFunc1D,
)

from meddlr_greedy.data.poisson import CheckedPoissonMaskFunc

__all__ = ["try_masks"]

_TRIED = (CheckedPoissonMaskFunc, RandomMaskFunc, RandomMaskFunc1D, EquispacedMaskFunc1D, EquispacedMaskFunc2D)
_SEEDS = (1, 2, 3)
_SEEDS_OF_LINES = range(1, 257)  # how many lines one of these masks has is random, and few of them are drawn
_MOST_DEVIATION = 0.1  # of the acceleration, before it is told of

# What decides the masks of a plane, besides type and acceleration.
_OPTIONS = ("calib_size", "center_fractions", "max_attempts", "crop_corner")

# Of masks that were tried what there is to tell: every validation asks again.
_known: Dict[Hashable, str] = {}


def try_masks(mask_func: MaskFunc, planes: Iterable[Tuple[int, int]]) -> None:
    """Draws a few masks of each plane (H, W), where they are meddlr's: what fails, fails before the run.

    An acceleration that is not the one asked for is told of in a warning, once in a process.

    Raises:
        UserError: A plane has no mask.
    """
    if type(mask_func) not in _TRIED:
        return
    accelerations = mask_func.accelerations
    accelerations = [accelerations] if isinstance(accelerations, (int, float)) else accelerations
    for plane in sorted(set(planes)):
        for acceleration in sorted({min(accelerations), max(accelerations)}):
            options = [repr(getattr(mask_func, name, None)) for name in _OPTIONS]
            kind = (type(mask_func), *options, plane, acceleration)
            if kind not in _known:
                is_poisson = isinstance(mask_func, CheckedPoissonMaskFunc)
                _known[kind] = (_tried_poisson if is_poisson else _tried)(mask_func, plane, acceleration)
            if _known[kind]:
                _warn_once(_known[kind])


@functools.cache
def _warn_once(line: str) -> None:
    logging.getLogger(__name__).warning(line)


def _tried_poisson(mask_func: CheckedPoissonMaskFunc, plane: Tuple[int, int], acceleration: float) -> str:
    """What there is to tell of the masks of a plane; empty where there is nothing."""
    calib_size = mask_func.calib_size
    mask_func = CheckedPoissonMaskFunc(acceleration, calib_size, None, mask_func.max_attempts, mask_func.crop_corner)
    masks = [mask_func((1, *plane, 1), seed, acceleration) for seed in _SEEDS]
    found = [mask.numel() / float(mask.sum()) for mask in masks]
    told = []
    if mask_func.num_redrawn:
        told.append("for some seeds meddlr's code fails, and the next seed is taken")
    farthest = max(found, key=lambda reached: abs(reached - acceleration))
    if abs(farthest - acceleration) > _MOST_DEVIATION * acceleration:
        told.append(f"the acceleration is {farthest:.1f}, since CALIBRATION_SIZE is {calib_size[0]}")
    where = f"Poisson disc masks of acceleration {acceleration:g} for planes of {plane[0]} x {plane[1]}"
    return f"{where}: {'; '.join(told)}" if told else ""


def _tried(mask_func: MaskFunc, plane: Tuple[int, int], acceleration: float) -> str:
    """As :func:`_tried_poisson`, for meddlr's other masks; of random ones the mean counts."""
    of_lines = isinstance(mask_func, RandomMaskFunc1D)
    shape = (1, 1 if of_lines else plane[0], plane[1], 1)
    whole = isinstance(mask_func, (EquispacedMaskFunc1D, EquispacedMaskFunc2D))  # they take integers alone
    drawn_at = int(round(acceleration)) if whole else acceleration
    masks = [mask_func(shape, seed, drawn_at) for seed in (_SEEDS_OF_LINES if of_lines else _SEEDS)]
    found = sum(mask.numel() for mask in masks) / max(1.0, sum(float(mask.sum()) for mask in masks))
    if abs(found - acceleration) <= _MOST_DEVIATION * acceleration:
        return ""
    where = f"{type(mask_func).__name__} of acceleration {acceleration:g} for planes of {plane[0]} x {plane[1]}"
    return f"{where}: the acceleration is {found:.1f}{_reason(mask_func, plane[1], acceleration)}"


def _reason(mask_func: MaskFunc, num_lines: int, acceleration: float) -> str:
    """The size of the center, and how many central lines would be possible, where masks are of whole lines."""
    fractions = getattr(mask_func, "center_fractions", None)
    told = f", with CENTER_FRACTIONS {fractions}" if fractions else f", with CALIBRATION_SIZE {mask_func.calib_size}"
    if isinstance(mask_func, RandomMaskFunc1D):
        most = math.floor(num_lines / acceleration)
        told += (
            f"; {acceleration:g} allows {most} of the {num_lines} lines in all, so give {most} central lines or fewer"
        )
    return told
