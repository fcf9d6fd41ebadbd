"""The scaling model and the pipeline's schedules, from given times."""

import json
from argparse import Namespace
from dataclasses import asdict, replace

import pytest
from meddlr.modeling import build_model

from meddlr_greedy.jobs.local import LocalJob
from projects.cine.benchmarks.timed_runs import NETWORK
from projects.cine.scaling import __main__ as scaling
from projects.cine.scaling.figure import DEVICES, MODULES
from projects.cine.scaling.measure import measure_modules
from projects.cine.scaling.model import (
    DATA_PARALLEL,
    GREEDY,
    Measured,
    backprop_throughput,
    data_parallel_throughput,
    greedy_throughput,
    predict,
)
from projects.cine.scaling.timeline import BACKWARD, FORWARD, UPDATE, greedy_schedule, one_forward_one_backward
from projects.cine.scaling.timeline import main as pipeline_main
from projects.cine.support.measuring import make_batch, make_cfg

MEASURED = Measured(
    forward_s=0.05,
    loss_s=0.001,
    backward_s=0.1,
    through_s=0.11,
    update_s=0.002,
    prepare_first_s=0.004,
    prepare_later_s=0.001,
    latency_s=0.0002,
    transfer_s=0.002,
    message_bytes=2_000_000,
    image_bytes=500_000,
    gradient_bytes=100_000,
    activation_bytes=80 * 10**6,
)
#: Nothing but forward and backward.
PURE = replace(
    MEASURED, loss_s=0, backward_s=0.1, through_s=0.1, update_s=0, prepare_first_s=0, prepare_later_s=0, latency_s=0,
    transfer_s=0,
)  # fmt: skip


def of_way(measured, modules, devices):
    return {p.way: p for p in predict(measured, modules, devices)}


def makespan(tasks):
    return max(task.end for task in tasks)


# ---- the formulas


def test_greedy_pipeline_is_as_fast_as_its_slowest_part():
    assert greedy_throughput([0.2, 0.5, 0.1], 0.01) == pytest.approx(2)
    assert greedy_throughput([0.2, 0.1], 0.4) == pytest.approx(2.5)
    assert greedy_throughput([0.25], 0.0) == pytest.approx(4)


@pytest.mark.parametrize("num_stages", [1, 2, 4, 16])
@pytest.mark.parametrize("micro_batches", [1, 3, 8, 64])
def test_bubbles_of_backprop_pipelines(num_stages, micro_batches):
    throughput = backprop_throughput([1.0] * num_stages, [2.0] * num_stages, micro_batches)
    efficiency = throughput / (num_stages * backprop_throughput([num_stages], [2 * num_stages], 1))
    assert efficiency == pytest.approx(micro_batches / (micro_batches + num_stages - 1))


def test_transfers_and_updates_delay_backprop_pipelines():
    args = ([1.0, 1.0], [2.0, 2.0], 4)
    assert 4 / backprop_throughput(*args) == pytest.approx(15)
    assert 4 / backprop_throughput(*args, update_s=0.5) == pytest.approx(15.5)
    assert 4 / backprop_throughput(*args, transfer_s=0.2, gradient_transfer_s=0.1) == pytest.approx(15.3)
    assert 4 / backprop_throughput(*args, transfer_s=5.0) == pytest.approx(6 + 3 * 5 + 5)


def test_all_reduce_hides_behind_backward():
    assert data_parallel_throughput(1, 2, 0.5, 8, 1.9) == pytest.approx(8 / 3.5)
    assert data_parallel_throughput(1, 2, 0.5, 8, 4) == pytest.approx(8 / 5.5)
    assert MEASURED.all_reduce_s(1000, 1) == 0
    # Each process of a ring sends 2 (R - 1) / R of the bytes.
    without_latency = replace(MEASURED, latency_s=0)
    assert without_latency.all_reduce_s(1e9, 4) == pytest.approx(1.5 * 1e9 / without_latency.bytes_per_s)


# ---- the predictions


@pytest.mark.parametrize("modules", MODULES)
def test_one_device_equals_single(modules):
    ways = of_way(PURE, modules, 1)
    for prediction in ways.values():
        assert prediction.examples_per_s == pytest.approx(1 / (0.15 * modules))
        assert prediction.speedup == pytest.approx(1) and prediction.stages == 1
    assert of_way(MEASURED, modules, 1)["GPipe, m = 1"].speedup == pytest.approx(1)
    assert ways[GREEDY].held_mb == pytest.approx(80)
    assert ways[DATA_PARALLEL].held_mb == ways["1F1B, m = 8"].held_mb == pytest.approx(80 * modules)


@pytest.mark.parametrize("modules", MODULES)
@pytest.mark.parametrize("measured", [MEASURED, PURE])
def test_more_devices_are_never_slower_nor_more_than_so_many_times_as_fast(measured, modules):
    before = of_way(measured, modules, 1)
    single = before[GREEDY].examples_per_s
    for devices in DEVICES[1:]:
        now = of_way(measured, modules, devices)
        for way in (GREEDY, DATA_PARALLEL, "1F1B, m = 8", "1F1B, m = 4p"):
            assert now[way].examples_per_s > before[way].examples_per_s, way
        assert now[GREEDY].examples_per_s <= devices * single * 1.03  # later stages prepare less
        assert now["1F1B, m = 1"].examples_per_s <= now["1F1B, m = 8"].examples_per_s <= now[GREEDY].examples_per_s
        before = now


def test_pure_greedy_is_linear_and_backprop_pays_for_its_bubbles():
    for modules in MODULES:
        for devices in DEVICES:
            ways, stages = of_way(PURE, modules, devices), min(modules, devices)
            if stages == devices:
                assert ways[GREEDY].efficiency == pytest.approx(1)
                assert ways["GPipe, m = 8"].efficiency == pytest.approx(8 / (8 + stages - 1))
                assert ways["1F1B, m = 4p"].efficiency == pytest.approx(4 * stages / (5 * stages - 1))
            assert ways["GPipe, m = 8"].examples_per_s == ways["1F1B, m = 8"].examples_per_s


def test_memory_of_the_fullest_device():
    ways = of_way(MEASURED, 16, 4)
    in_flight_mb = 2 * 2 * MEASURED.message_bytes / 1e6  # two neighbors, two batches each
    assert ways[GREEDY].held_mb == pytest.approx(80 + in_flight_mb)
    assert ways["1F1B, m = 1"].held_mb == pytest.approx(4 * 80)
    assert ways["1F1B, m = 8"].held_mb == pytest.approx(4 * 4 * 80)
    assert ways["GPipe, m = 8"].held_mb == pytest.approx(8 * 4 * 80)
    assert ways[DATA_PARALLEL].held_mb == pytest.approx(16 * 80)


def test_replicas_and_updates():
    ways = of_way(MEASURED, 4, 16)
    assert ways[GREEDY].stages == 4 and ways[GREEDY].examples_per_update == 4
    assert ways["1F1B, m = 8"].examples_per_update == 32 and ways[DATA_PARALLEL].examples_per_update == 16
    with pytest.raises(ValueError, match="6 devices"):
        predict(MEASURED, 4, 6)


def test_a_slow_link_is_the_bottleneck():
    slow = replace(MEASURED, transfer_s=1.0)
    assert of_way(slow, 4, 4)[GREEDY].examples_per_s == pytest.approx(1)
    assert of_way(slow, 4, 1)[GREEDY].examples_per_s == of_way(MEASURED, 4, 1)[GREEDY].examples_per_s


# ---- the schedules that the figure shows

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


# ---- the commands


@pytest.fixture
def earlier(tmp_path):
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps({"measured": asdict(MEASURED), "versions": {"torch": "x"}}))
    return path


def test_predicts_and_checks(earlier, tmp_path, capsys, monkeypatch):
    rounds = iter([3.0, 9.0, 2.0])
    monkeypatch.setattr(scaling, "chain_throughput", lambda num, device, threads: next(rounds))
    monkeypatch.setattr(scaling, "_measure_in_processes", lambda args, argv, path: scaling._read(earlier))
    page = tmp_path / "page.md"
    page.write_text("<!-- scaling -->\n<!-- /scaling -->\n")
    out = tmp_path / "out"
    scaling.main(["--output", str(out), "--check", "3", "--readme", str(page)])
    result = json.loads((out / "scaling.json").read_text())
    assert {(p["modules"], p["devices"]) for p in result["predictions"]} == {(k, d) for k in MODULES for d in DEVICES}
    predicted = of_way(MEASURED, 4, 2)[GREEDY].examples_per_s
    assert result["check"]["ratio"] == pytest.approx(predicted / 3)
    assert [check["measured"] for check in result["check"]["rounds"]] == [3.0, 9.0, 2.0]
    assert "busy" in " ".join(result["assumptions"])
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "data parallel" in printed and "measured 3.000" in printed
    assert "|" in page.read_text()
    scaling.main(["--output", str(tmp_path / "again"), "--from", str(earlier)])
    again = json.loads((tmp_path / "again" / "scaling.json").read_text())
    assert again["predictions"] == result["predictions"] and "check" not in again
    pipeline_main(["--output", str(out), "--from", str(out / "scaling.json")])
    assert (out / "pipeline.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("main", [scaling.main, pipeline_main])
def test_a_file_without_times_is_refused(main, tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(SystemExit) as end:
        main(["--output", str(tmp_path / "out"), "--from", str(path)])
    assert end.value.code == 2 and "other.json" in capsys.readouterr().err


def test_parts_of_a_module_are_measured():
    cfg = make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2)
    model = build_model(cfg).train()
    before = [p.clone() for p in model.parameters()]
    means = measure_modules(model, make_batch("cpu", (16, 12, 4), 2), "cpu", seconds=0)
    measured = {name for name in asdict(MEASURED) if name.endswith("_s")} - {"latency_s", "transfer_s"}
    assert set(means) == measured and min(means.values()) > 0
    assert any((p != q).any() for p, q in zip(model.parameters(), before)), "nothing was updated"


def test_two_processes_measure(tmp_path):
    args, path = Namespace(threads=1, device="cpu", seconds=0.0), tmp_path / "scaling.json"
    job = LocalJob(2, scaling._measure_in_job, (args, path), tmp_path / "job.txt")
    assert job.wait() == [0, 0], job.text()[-3000:]
    measured = json.loads(path.read_text())["measured"]
    assert all(value > 0 for value in measured.values())
    height, width, num_frames = NETWORK["shape"]
    example = height * width * num_frames
    assert measured["image_bytes"] == 8 * example
    # Image, zero-filled image and target; the mask, one for all coils; maps without frames; mean and deviation.
    maps = 8 * height * width * NETWORK["num_coils"]
    assert measured["message_bytes"] == 3 * 8 * example + 4 * example + maps + 2 * 4
