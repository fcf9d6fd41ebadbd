"""Which cardiac phase an acquisition of an ISMRMRD file is of: as it was counted, or by the time since the trigger."""

from pathlib import Path
from typing import NamedTuple, Optional, Tuple

import numpy as np

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.formats.ismrmrd_header import Encoding

__all__ = ["Phases", "binned_phases", "counted_phases"]

_SAME_TRIGGER = 2  # ticks: both stamps of an acquisition are rounded
_PAUSE = 0.75  # of a beat: without lines for longer, a trigger may have gone unseen
_RR_MS = (200.0, 3000.0)  # 300 to 20 beats per minute


class Phases(NamedTuple):
    """Cardiac phases of acquisitions.

    Attributes:
        numbers: Of each acquisition, from 0; -1 where it is left out.
        num_phases: How many there are.
        frame_time_ms: From one to the next, where known.
        notes: What a user should know.
    """

    numbers: np.ndarray
    num_phases: int
    frame_time_ms: Optional[float] = None
    notes: Tuple[str, ...] = ()


def counted_phases(path: Path, encoding: Encoding, heads: np.ndarray, undersampled: bool) -> Phases:
    """Cardiac phases as the scanner counted them: ``idx.phase`` or, of a real-time series, ``idx.repetition``.

    Args:
        path: The file, for messages.
        encoding: Announces phases; those of a fully sampled scan should be there, also one missing at the end.
        heads: Of the acquisitions of the image.
        undersampled: Whether it was undersampled on purpose.

    Raises:
        UserError: There are several phases and several repetitions.
    """
    phases, repetitions = (int(heads["idx"][counter].max()) + 1 for counter in ("phase", "repetition"))
    announced = 0 if undersampled else encoding.announced_phases()
    if max(phases, announced) == 1:
        return Phases(heads["idx"]["repetition"].astype(int), repetitions)
    if repetitions > 1:
        raise UserError(
            f"{path}: found {phases} phases and {repetitions} repetitions, allowed more than one of one of them"
        )
    return Phases(heads["idx"]["phase"].astype(int), max(phases, announced))


def binned_phases(path: Path, heads: np.ndarray, num_phases: int, tick_ms: float, tolerance: float) -> Phases:
    """Cardiac phases by where in its heartbeat an acquisition was made, whatever its counters say.

    ``physiology_time_stamp[0]`` is the time since the last trigger. A beat is cut into ``num_phases`` parts of equal
    length, from its trigger to the next one. Left out are beats whose length is not near the median. Where the next
    trigger is not known, at the end and before a pause, a beat is taken to be as long as the mean of the others.

    Args:
        path: The file, for messages.
        heads: Of the acquisitions of the image.
        num_phases: How many phases there shall be.
        tick_ms: Unit of the time stamps.
        tolerance: How far a beat may be from the median one, as a fraction of it.

    Raises:
        UserError: The stamps do not tell a whole beat, or beats of a length that no heart has.
    """
    order = np.argsort(heads["acquisition_time_stamp"], kind="stable")
    clock = heads["acquisition_time_stamp"][order].astype(np.int64)
    since = heads["physiology_time_stamp"][order, 0].astype(np.int64)
    if not since.any():
        raise UserError(f"{path}: physiology_time_stamp[0]: found 0 alone, allowed times since a trigger for --phases")
    beats, lengths = _beats(clock, since)
    known = lengths[~np.isnan(lengths)]
    if not known.size:
        raise UserError(f"{path}: physiology_time_stamp[0]: found no whole heartbeat, allowed one or more for --phases")
    is_near = np.abs(lengths - np.median(known)) <= tolerance * np.median(known)
    if not is_near.any():
        raise UserError(f"{path}: found no heartbeat within {tolerance:g} of the median one, allowed one or more")
    mean = lengths[is_near].mean()
    if not _RR_MS[0] <= mean * tick_ms <= _RR_MS[1]:
        raise UserError(
            f"{path}: found heartbeats of {mean * tick_ms:.4g} ms at ticks of {tick_ms:g} ms, allowed {_RR_MS[0]:g} to "
            f"{_RR_MS[1]:g} ms (see --tick)"
        )
    length = np.where(np.isnan(lengths), mean, lengths)[beats]
    numbers = np.full(len(heads), -1)
    numbers[order] = np.minimum(num_phases * since / length, num_phases - 1).astype(int)
    is_arrhythmic = ~(is_near | np.isnan(lengths))[beats]
    is_late = np.isnan(lengths)[beats] & (since >= mean)
    numbers[order[is_arrhythmic | is_late]] = -1
    note = f"{path}: {num_phases} cardiac phases of {is_near.sum()} heartbeats, {mean * tick_ms:.0f} ms in the mean"
    if is_arrhythmic.any():
        rejected = np.unique(beats[is_arrhythmic]).size
        note += f"; left out: {rejected} of other length, with {is_arrhythmic.sum()} lines"
    if is_late.any():
        note += f"; left out: {is_late.sum()} lines later than that, of beats whose end is not known"
    return Phases(numbers, num_phases, float(mean * tick_ms / num_phases), (note,))


def _beats(clock: np.ndarray, since: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Heartbeats of acquisitions in order of time.

    Args:
        clock: Time stamps; of no use where they do not agree with the times since the trigger.
        since: Times since the trigger, in the same ticks.

    Returns:
        The beat of each acquisition, and the length of each beat in ticks, NaN where it is not known.
    """
    triggers = clock - since
    is_first = np.append(True, np.diff(since) < 0)
    if _has_one_trigger_a_beat(triggers, np.flatnonzero(is_first)) and np.ptp(clock) > 0:
        is_first[1:] = np.abs(np.diff(triggers)) > _SAME_TRIGGER
        firsts = np.flatnonzero(is_first)
        lengths = np.diff(triggers[firsts]).astype(float)
        pauses = np.diff(clock)[firsts[1:] - 1]
        if lengths.size:
            lengths[pauses > _PAUSE * np.median(lengths)] = np.nan
    else:  # the next trigger comes one line after the last of a beat
        firsts = np.flatnonzero(is_first)
        steps = np.diff(since)
        step = np.median(steps[steps > 0]) if (steps > 0).any() else 0
        lengths = since[firsts[1:] - 1] + step
    return np.cumsum(is_first) - 1, np.append(lengths, np.nan)


def _has_one_trigger_a_beat(triggers: np.ndarray, firsts: np.ndarray) -> bool:
    """Whether time stamps agree with the times since the trigger: within a beat they count from one moment."""
    spread = np.maximum.reduceat(triggers, firsts) - np.minimum.reduceat(triggers, firsts)
    return bool(np.median(spread) <= _SAME_TRIGGER)
