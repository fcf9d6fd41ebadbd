"""Cardiac phases put together by the time since the trigger."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ismrmrd.hdf5 import acquisition_header_dtype

from meddlr_greedy import prepare
from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.formats.ismrmrd_phases import binned_phases
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from tests.helpers.errors import expect_prepare_error
from tests.helpers.heart import COILS, EXACT, HEIGHT, PHASES, WIDTH, prepared, psnr, read, target_and_support
from tests.helpers.mrd_lines import Line, header, oversampled, space, write_lines

TICK = 2.5
STEP = 4  # ticks from line to line
REGULAR = (320, 352, 336, 328, 344, 320, 340)


def real_time(kspace, beats, end=300, skipped=None):
    """Lines of k-space (T, C, 2H, W), one after the other and again, over beats of these lengths in ticks.

    A beat far from the others shows no heart. The last beat, of 336 ticks, is cut off after ``end`` of them. A line of
    a frame may be ``skipped``.
    """
    lines, trigger, clock = [], 1000, 1003
    for length, shown in (*zip(beats, beats), (336, end)):
        while clock < trigger + shown:
            since, number = clock - trigger, (clock // STEP) % WIDTH
            frame = since * PHASES // length
            data = kspace[frame, :, :, number] if 270 < length < 400 else np.full((COILS, 2 * HEIGHT), 1e3)
            if (number, frame) != skipped:
                lines.append(Line(data, number, clock=clock, since_trigger=since, repetition=len(lines) // WIDTH))
            clock += STEP
        trigger += length
    return lines


@pytest.mark.parametrize(
    "beats", [REGULAR, (320, 150, 352, 336, 600, 328, 344, 320, 340)], ids=["regular", "arrhythmic"]
)
def test_phases_come_back(heart, tmp_path, beats, capsys):
    lines = real_time(oversampled(heart.coil_images[0]), beats)
    source = write_lines(tmp_path / "a.h5", header(space(HEIGHT, WIDTH)), lines)
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), source, options={"phases": PHASES}, progress=True)
    target, support = target_and_support(path)
    assert target.shape == (1, PHASES, HEIGHT, WIDTH)
    assert psnr(target, heart.image[:1], support) > 50
    mean = np.mean(REGULAR) * TICK
    assert read(path)[1]["frame_time_ms"] == pytest.approx(mean / PHASES)
    said = capsys.readouterr().out
    assert f"{source}: {PHASES} cardiac phases of 7 heartbeats, {mean:.0f} ms in the mean" in said
    rejected = sum(bool((line.data == 1e3).all()) for line in lines)
    assert (f"; left out: 2 of other length, with {rejected} lines" in said) == (beats != REGULAR)


def test_lines_of_one_phase_are_averaged(heart, tmp_path):
    """A sign that alternates from beat to beat cancels what is added to the lines."""
    kspace = oversampled(heart.coil_images[0])
    lines = []
    for beat in range(8):
        for i in range(PHASES * WIDTH):
            phase, number = divmod(i, WIDTH)
            data = kspace[phase, :, :, number] + (-1) ** beat * 0.1
            since = 2 * i
            lines.append(Line(data, number, clock=10_000 + 2 * PHASES * WIDTH * beat + since, since_trigger=since))
    source = write_lines(tmp_path / "a.h5", header(space(HEIGHT, WIDTH)), lines)
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), source, options={"phases": PHASES})
    target, support = target_and_support(path)
    assert psnr(target, heart.image[:1], support) > 50


def test_missing_lines_are_refused_or_filled(heart, tmp_path, capsys):
    kspace = oversampled(heart.coil_images[0])
    lines = real_time(kspace, REGULAR, skipped=(7, 1))
    source = write_lines(tmp_path / "a.h5", header(space(HEIGHT, WIDTH)), lines)
    options = {"phases": PHASES}
    with pytest.raises(UserError, match="slice 0: phase 1 lacks lines 7; allowed .* or --missing fill"):
        prepared(tmp_path / "out", IsmrmrdReader(), source, options=options)
    fill = replace(EXACT, missing="fill")
    (path,) = prepared(tmp_path / "out", IsmrmrdReader(), source, options=options, preparation=fill)
    array = read(path)[0]["kspace"]
    np.testing.assert_array_equal(array[:, :, 7, 1], array[:, :, 7, 0])


def heads_of(triggers, step=STEP, end=300, first=0, clock=True, pause_after=()):
    """Headers of lines acquired without pause between triggers; without lines after some of the beats' triggers."""
    heads = []
    for number, (trigger, following) in enumerate(zip(triggers, [*triggers[1:], triggers[-1] + end])):
        if number in pause_after:
            following = trigger + 100
        for since in range(first if number == 0 else 0, following - trigger, step):
            heads.append((trigger + since if clock else 0, since))
    array = np.zeros(len(heads), acquisition_header_dtype)
    array["acquisition_time_stamp"], array["physiology_time_stamp"][:, 0] = np.array(heads).T
    return array


@pytest.mark.parametrize("clock", [True, False])
def test_a_beat_is_cut_into_equal_parts(clock):
    """Without a clock, the end of a beat is known up to a line."""
    triggers = np.cumsum([500, 300, 330, 360, 300])
    phases = binned_phases(Path("a"), heads_of(triggers, first=40, clock=clock), 5, TICK, 0.2)
    expected = []
    for length, first, end in ((300, 40, 300), (330, 0, 330), (360, 0, 360), (300, 0, 300), (322.5, 0, 300)):
        expected += [since * 5 / length for since in range(first, end, STEP)]
    if clock:
        assert phases.numbers.tolist() == np.floor(expected).tolist()
        assert phases.frame_time_ms == 322.5 * TICK / 5
    else:
        assert (np.abs(phases.numbers + 0.5 - expected) < 0.5 + 5 * STEP / 300).all()
        assert phases.frame_time_ms == pytest.approx(322.5 * TICK / 5, rel=0.01)


def test_acquisitions_may_lie_in_any_order():
    heads = heads_of(np.cumsum([500, 300, 330, 360]))
    order = np.random.default_rng(0).permutation(len(heads))
    expected = binned_phases(Path("a"), heads, 7, TICK, 0.2).numbers
    np.testing.assert_array_equal(binned_phases(Path("a"), heads[order], 7, TICK, 0.2).numbers, expected[order])


def test_a_pause_does_not_make_a_long_beat():
    """Its length is not known, so that of the others stands for it; lines later than that are left out."""
    triggers = [1000, 1300, 5000, 5300, 5600]
    heads = heads_of(triggers, pause_after=(1,), end=380)
    phases = binned_phases(Path("a"), heads, 3, TICK, 0.2)
    assert phases.frame_time_ms == 300 * TICK / 3
    expected = [min(3 * since // 300, 3) for since in heads["physiology_time_stamp"][:, 0].tolist()]
    assert phases.numbers.tolist() == [-1 if number == 3 else number for number in expected]
    (note,) = phases.notes
    assert note == (
        "a: 3 cardiac phases of 3 heartbeats, 750 ms in the mean; left out: 20 lines later than that, of beats whose "
        "end is not known"
    )


def test_a_clock_of_other_ticks_is_not_used():
    heads = heads_of([1000, 1300, 1630, 1960])
    expected = binned_phases(Path("a"), heads_of([1000, 1300, 1630, 1960], clock=False), 4, TICK, 0.2)
    heads["acquisition_time_stamp"] = np.round(heads["acquisition_time_stamp"] * TICK)
    found = binned_phases(Path("a"), heads, 4, TICK, 0.2)
    np.testing.assert_array_equal(found.numbers, expected.numbers)


WRONG = [
    ({}, lambda since: 0 * since, "found 0 alone, allowed times since a trigger for --phases"),
    ({}, lambda since: 7 + np.arange(len(since)), "found no whole heartbeat, allowed one or more"),
    ({"tick": 25.0}, lambda since: since, "found heartbeats of 8425 ms at ticks of 25 ms, allowed 200 to 3000 ms"),
    ({"rr_tolerance": 0.0001}, lambda since: since, "found no heartbeat within 0.0001 of the median one"),
]


@pytest.mark.parametrize("options,change,message", WRONG)
def test_stamps_that_tell_no_heartbeat_are_refused(tmp_path, options, change, message):
    lines = real_time(np.ones((PHASES, COILS, 2 * HEIGHT, WIDTH)), (320, 350))
    since = change(np.array([line.since_trigger for line in lines]))
    lines = [replace(line, since_trigger=int(number), clock=0) for line, number in zip(lines, since)]
    source = write_lines(tmp_path / "a.h5", header(space(HEIGHT, WIDTH)), lines)
    with pytest.raises(UserError) as error:
        IsmrmrdReader().open_scan(source, phases=4, **options)
    assert str(error.value).startswith(f"{source}: ") and message in str(error.value)


@pytest.mark.parametrize(
    "options,message",
    [
        ("--phases 1", "--phases: found 1, allowed at least 2"),
        ("--tick 1", "--tick: found 1.0, allowed only with --phases"),
        ("--rr-tolerance 0.1", "--rr-tolerance: found 0.1, allowed only with --phases"),
        ("--phases 4 --tick 0", "--tick: found 0.0, allowed above 0"),
        ("--phases 4 --rr-tolerance 1", "--rr-tolerance: found 1.0, allowed above 0, below 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, capsys, options, message):
    (tmp_path / "in").mkdir()
    expect_prepare_error(f"ismrmrd {{dir}} {options}", message, tmp_path / "in", tmp_path, capsys)


def test_scans_prepared_without_these_options_stay_known(heart, tmp_path):
    """What is stored of the options is what was stored before there were these."""
    kspace = oversampled(heart.coil_images[:1, :2])
    lines = [Line(kspace[0, t, :, :, line], line, phase=t) for t in range(2) for line in range(WIDTH)]
    source = write_lines(tmp_path / "a.h5", header(space(HEIGHT, WIDTH, phases=2)), lines)
    prepare.main(f"ismrmrd {source} --coils 4 --split 1 0 0 --output {tmp_path}/out".split())
    assert '"options": {"undersampled": false}' in read(tmp_path / "out" / "scans" / "a.h5")[1]["parameters"]
