"""The scaling model, from given times."""

from dataclasses import replace

import pytest

from projects.cine.scaling.figure import DEVICES, MODULES
from projects.cine.scaling.model import (
    DATA_PARALLEL,
    GREEDY,
    backprop_throughput,
    data_parallel_throughput,
    greedy_throughput,
    predict,
)
from tests.helpers.scaling import MEASURED, predictions_by_way

#: Nothing but forward and backward.
PURE = replace(
    MEASURED, loss_s=0, backward_s=0.1, through_s=0.1, update_s=0, prepare_first_s=0, prepare_later_s=0, latency_s=0,
    transfer_s=0,
)  # fmt: skip


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
    ways = predictions_by_way(PURE, modules, 1)
    for prediction in ways.values():
        assert prediction.examples_per_s == pytest.approx(1 / (0.15 * modules))
        assert prediction.speedup == pytest.approx(1) and prediction.stages == 1
    assert predictions_by_way(MEASURED, modules, 1)["GPipe, m = 1"].speedup == pytest.approx(1)
    assert ways[GREEDY].held_mb == pytest.approx(80)
    assert ways[DATA_PARALLEL].held_mb == ways["1F1B, m = 8"].held_mb == pytest.approx(80 * modules)


@pytest.mark.parametrize("modules", MODULES)
@pytest.mark.parametrize("measured", [MEASURED, PURE])
def test_more_devices_are_never_slower_nor_more_than_so_many_times_as_fast(measured, modules):
    before = predictions_by_way(measured, modules, 1)
    single = before[GREEDY].examples_per_s
    for devices in DEVICES[1:]:
        now = predictions_by_way(measured, modules, devices)
        for way in (GREEDY, DATA_PARALLEL, "1F1B, m = 8", "1F1B, m = 4p"):
            assert now[way].examples_per_s > before[way].examples_per_s, way
        assert now[GREEDY].examples_per_s <= devices * single * 1.03  # later stages prepare less
        assert now["1F1B, m = 1"].examples_per_s <= now["1F1B, m = 8"].examples_per_s <= now[GREEDY].examples_per_s
        before = now


def test_pure_greedy_is_linear_and_backprop_pays_for_its_bubbles():
    for modules in MODULES:
        for devices in DEVICES:
            ways, stages = predictions_by_way(PURE, modules, devices), min(modules, devices)
            if stages == devices:
                assert ways[GREEDY].efficiency == pytest.approx(1)
                assert ways["GPipe, m = 8"].efficiency == pytest.approx(8 / (8 + stages - 1))
                assert ways["1F1B, m = 4p"].efficiency == pytest.approx(4 * stages / (5 * stages - 1))
            assert ways["GPipe, m = 8"].examples_per_s == ways["1F1B, m = 8"].examples_per_s


def test_memory_of_the_fullest_device():
    ways = predictions_by_way(MEASURED, 16, 4)
    in_flight_mb = 2 * 2 * MEASURED.message_bytes / 1e6  # two neighbors, two batches each
    assert ways[GREEDY].held_mb == pytest.approx(80 + in_flight_mb)
    assert ways["1F1B, m = 1"].held_mb == pytest.approx(4 * 80)
    assert ways["1F1B, m = 8"].held_mb == pytest.approx(4 * 4 * 80)
    assert ways["GPipe, m = 8"].held_mb == pytest.approx(8 * 4 * 80)
    assert ways[DATA_PARALLEL].held_mb == pytest.approx(16 * 80)


def test_replicas_and_updates():
    ways = predictions_by_way(MEASURED, 4, 16)
    assert ways[GREEDY].stages == 4 and ways[GREEDY].examples_per_update == 4
    assert ways["1F1B, m = 8"].examples_per_update == 32 and ways[DATA_PARALLEL].examples_per_update == 16
    with pytest.raises(ValueError, match="6 devices"):
        predict(MEASURED, 4, 6)


def test_a_slow_link_is_the_bottleneck():
    slow = replace(MEASURED, transfer_s=1.0)
    assert predictions_by_way(slow, 4, 4)[GREEDY].examples_per_s == pytest.approx(1)
    assert (
        predictions_by_way(slow, 4, 1)[GREEDY].examples_per_s
        == predictions_by_way(MEASURED, 4, 1)[GREEDY].examples_per_s
    )
