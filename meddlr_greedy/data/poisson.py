"""meddlr's Poisson disc masks, drawn safely.

For some seeds meddlr's compiled code writes beyond its arrays, mostly on small square planes: more points wait for
neighbors than the plane has. What comes of that is left to chance, a crash for one. For others its search for the
acceleration has no end. Here the same code runs with its arrays checked and its search counted, and such a mask is
drawn again with the next seed. All other masks are meddlr's, bit for bit.
"""

import functools
import types
from typing import Any, Callable, Optional, Sequence

import numba
import numpy as np
import torch
from meddlr.data.transforms import subsample
from meddlr.data.transforms.subsample import MaskFunc, PoissonDiskMaskFunc

from meddlr_greedy.errors import UserError

__all__ = ["CheckedPoissonMaskFunc", "checked_mask_func"]

# meddlr halves an interval of floats; after as many steps its ends have met, or never will.
_LONGEST_SEARCH = 64
_MOST_DRAWS = 8


class _EndlessSearchError(Exception):
    pass


class CheckedPoissonMaskFunc(PoissonDiskMaskFunc):
    """meddlr's mask function, see the top of this module.

    Attributes:
        num_redrawn: How many masks were drawn again.

    Raises:
        UserError: No seed gives a mask.
    """

    num_redrawn = 0

    def __call__(
        self, out_shape: Sequence[int], seed: Optional[int] = None, acceleration: Optional[float] = None
    ) -> torch.Tensor:
        """Draws a mask; see meddlr's."""
        acceleration = acceleration or self.choose_acceleration()
        for again in range(_MOST_DRAWS):
            try:
                return _draw(self, out_shape, None if seed is None else seed + again, acceleration)
            except (IndexError, _EndlessSearchError) as error:
                self.num_redrawn += 1
                reason = "writes beyond its arrays" if isinstance(error, IndexError) else "searches without end"
        raise UserError(
            f"AUG_TRAIN.UNDERSAMPLE: PoissonDiskMaskFunc gives no mask of acceleration {acceleration:g} for a plane of"
            f" {out_shape[1]} x {out_shape[2]} (of {_MOST_DRAWS} seeds; it {reason}); allowed is a smaller"
            f" CALIBRATION_SIZE (found {self.calib_size[0]}), other ACCELERATIONS, or the NAME RandomMaskFunc"
        )


def checked_mask_func(mask_func: MaskFunc) -> MaskFunc:
    """The mask function, or the checked one in the place of meddlr's Poisson disc masks."""
    if type(mask_func) is not PoissonDiskMaskFunc:
        return mask_func
    checked = CheckedPoissonMaskFunc.__new__(CheckedPoissonMaskFunc)
    checked.__dict__.update(vars(mask_func))
    return checked


def _draw(
    mask_func: PoissonDiskMaskFunc, out_shape: Sequence[int], seed: Optional[int], acceleration: float
) -> torch.Tensor:
    """meddlr's mask; its functions are run from their own code, in which the one that is checked is another."""
    num_steps = 0

    def step(*args: Any) -> Any:
        nonlocal num_steps
        num_steps += 1
        if num_steps > _LONGEST_SEARCH:
            raise _EndlessSearchError
        return _checked_step()(*args)

    poisson = _with(subsample.poisson, _poisson=step)
    with np.errstate(all="ignore"):  # it divides by zero where the calibration region is as large as the plane
        return _with(PoissonDiskMaskFunc.__call__, poisson=poisson)(mask_func, out_shape, seed, acceleration)


def _with(function: Any, **changed: Any) -> Callable[..., Any]:
    """A function with other values for some of the names in its module."""
    return types.FunctionType(
        function.__code__, {**function.__globals__, **changed}, function.__name__, function.__defaults__
    )


@functools.cache
def _checked_step() -> Any:
    """meddlr's compiled function, compiled with checks of its indices."""
    return numba.njit(boundscheck=True)(subsample._poisson.py_func)
