"""The schedules of the pipelines, and their figure."""

import json
from dataclasses import asdict

import pytest

from projects.cine.scaling.model import backprop_throughput
from projects.cine.scaling.timeline import (
    BACKWARD,
    FORWARD,
    UPDATE,
    greedy_schedule,
    main,
    one_forward_one_backward,
)
from tests.helpers.scaling import MEASURED

SECONDS = {FORWARD: 1.0, BACKWARD: 2.0, UPDATE: 0.25}


@pytest.mark.parametrize("num_stages", [1, 2, 5])
def test_greedy_schedule_has_no_bubbles(num_stages):
    num, transfer = 7, 0.5
    tasks = greedy_schedule(SECONDS, num_stages, num, transfer)
    assert makespan(tasks) == pytest.approx((num_stages - 1) * (1 + transfer) + num * 3.25)
    for stage in range(num_stages):
        own = sorted((task for task in tasks if task.stage == stage), key=lambda task: task.start)
        assert len(own) == 3 * num
        assert all(after.start == before.end for before, after in zip(own, own[1:]))


@pytest.mark.parametrize("num_stages", [1, 2, 4])
@pytest.mark.parametrize("micro_batches", [1, 2, 4, 8])
def test_backprop_schedule_takes_what_the_formula_says(num_stages, micro_batches):
    tasks = one_forward_one_backward(SECONDS, num_stages, micro_batches, micro_batches)
    throughput = backprop_throughput([1.0] * num_stages, [2.0] * num_stages, micro_batches, SECONDS[UPDATE])
    assert micro_batches / makespan(tasks) == pytest.approx(throughput)
    # At most as many micro-batches wait for their backward as the model counts.
    events = sorted((t.end, t.kind) for t in tasks if t.stage == 0 and t.kind != UPDATE)
    held = most = 0
    for _, kind in events:
        held += 1 if kind == FORWARD else -1
        most = max(most, held)
    assert held == 0 and most == min(micro_batches, num_stages)


def test_schedules_respect_their_order():
    transfer = 0.5
    tasks = one_forward_one_backward(SECONDS, 3, 8, 4, transfer)
    at = {(t.stage, t.kind, t.example): t for t in tasks}
    for (stage, kind, example), task in at.items():
        if kind == FORWARD and stage:
            assert task.start >= at[stage - 1, FORWARD, example].end + transfer
        if kind == BACKWARD:
            source = (stage + 1, BACKWARD) if stage < 2 else (stage, FORWARD)
            assert task.start >= at[(*source, example)].end + (transfer if stage < 2 else 0)
        if kind == FORWARD and example >= 4:
            assert task.start >= at[stage, UPDATE, 3].end


def makespan(tasks):
    return max(task.end for task in tasks)


@pytest.mark.parametrize("is_measured", [True, False])
def test_figure(tmp_path, is_measured):
    path = tmp_path / "scaling.json"
    path.write_text(json.dumps({"measured": asdict(MEASURED)}))
    main(["--output", str(tmp_path / "out"), *(["--from", str(path)] if is_measured else [])])
    assert (tmp_path / "out" / "pipeline.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_without_times_is_refused(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(SystemExit) as end:
        main(["--output", str(tmp_path / "out"), "--from", str(path)])
    assert end.value.code == 2 and "other.json" in capsys.readouterr().err
