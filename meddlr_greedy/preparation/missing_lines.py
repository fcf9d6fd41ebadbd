"""Lines that a fully sampled slice lacks: told, refused, or taken from another cardiac phase."""

from dataclasses import replace
from typing import List, Sequence, Tuple, Union

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.raw_scan import RawSlice

__all__ = ["complete", "ranges"]

_HINT = "allowed every line of every phase; for data undersampled on purpose give --undersampled"
_MOST_MISSING = 0.25  # of all lines; where more is missing, it was not lost but never meant to be sampled


def complete(raw: RawSlice, missing: str, where: str) -> Tuple[RawSlice, List[str]]:
    """A slice that should be fully sampled, with every line there is in any cardiac phase in all of them.

    Lines at the edge of k-space that no phase has are partial Fourier or zero padding: they stay zero. A static scan is
    a series of one phase.

    Args:
        raw: The slice.
        missing: "refuse", or "fill": a missing line, or a whole missing phase, is taken from the nearest phase that
            has it, around the cardiac cycle (of two the earlier).
        where: The file and slice, for messages.

    Returns:
        The slice, and what there is to tell about it.

    Raises:
        UserError: where something is missing and ``missing`` is "refuse", or it looks undersampled.
    """
    lines = raw.sampled.any(axis=0)  # (W, T)
    # The end of a line may be missing (asymmetric echo, corners of k-space), but nothing in between.
    begins = np.diff(raw.sampled, axis=0, prepend=False) & raw.sampled
    if (begins.sum(axis=0) > 1).any():
        raise UserError(f"{where}: found lines with holes along the readout, {_HINT}")
    acquired = np.flatnonzero(lines.any(axis=1))
    if not acquired.size:
        raise UserError(f"{where}: found nothing but zeros in k-space")
    expected = np.arange(acquired[0], acquired[-1] + 1)
    never = np.setdiff1d(expected, acquired)
    if never.size:
        lack = "in no cardiac phase" if lines.shape[1] > 1 else "missing"
        raise UserError(f"{where}: lines {ranges(never)} are {lack}, {_HINT}")
    absent = ~lines[expected]
    if not absent.any():
        partial = len(expected) < len(lines)
        return raw, [f"{where}: lines {ranges(expected)} of {len(lines)} sampled"] if partial else []
    found = "; ".join(
        f"phase {phase} is missing"
        if absent[:, phase].all()
        else f"phase {phase} lacks lines {ranges(expected[absent[:, phase]])}"
        for phase in np.flatnonzero(absent.any(axis=0))
    )
    if absent.mean() > _MOST_MISSING:
        raise UserError(f"{where}: {absent.mean():.0%} of the lines are missing, {_HINT}")
    if missing != "fill":
        raise UserError(f"{where}: {found}; {_HINT}, or --missing fill to take them from the nearest phase")

    kspace, sampled, num_phases = raw.kspace.copy(), raw.sampled.copy(), lines.shape[1]
    for line, phase in zip(*np.nonzero(absent)):
        having = np.flatnonzero(~absent[line])
        behind = (phase - having) % num_phases
        nearest = having[np.lexsort((behind, np.minimum(behind, num_phases - behind)))[0]]
        for array, source in ((kspace, raw.kspace), (sampled, raw.sampled)):
            array[:, expected[line], phase] = source[:, expected[line], nearest]
    filled = replace(raw, kspace=kspace, sampled=sampled)
    return filled, [f"{where}: {found}; filled from the nearest phase"]


def ranges(numbers: Union[Sequence[int], np.ndarray]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
