"""The planner against measurements of the real trainer: the allocations that torch.profiler records."""

import gc
import itertools
import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from meddlr.utils.events import EventStorage

from meddlr_greedy import plan
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.engine.step import StepOnBatch
from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.modeling.greedy import wrapper
from meddlr_greedy.planning import search
from meddlr_greedy.planning.around import around_call
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.plan import _fastest, _seconds, compare_methods
from meddlr_greedy.planning.search import (
    FEATURES,
    IMAGE,
    STEPS,
    Method,
    alternatives,
    growth_of,
    image_of,
    largest,
    with_method,
    with_value,
)
from meddlr_greedy.planning.step_memory import plan_step
from meddlr_greedy.planning.trace import traced
from meddlr_greedy.planning.work import Work, seconds_of, time_operations
from projects.cine.support.measuring import peak_bytes
from tests.helpers.errors import without_progress
from tests.helpers.scans import write_dataset

SHAPES = {
    "flatmem": {"num_slices": 2, "height": 48, "width": 40, "num_coils": 4},
    "beatmem": {"num_slices": 2, "height": 32, "width": 24, "num_coils": 4, "num_frames": 6},
}
CASES = [
    ("flatmem", "GeneralizedUnrolledCNN", None),
    ("flatmem", "GeneralizedUnrolledCNN", 2),
    ("flatmem", "CGUnrolledCNN", None),
    ("flatmem", "CGUnrolledCNN", 4),
    ("beatmem", "CineUnrolledCNN", None),
    ("beatmem", "CineUnrolledCNN", 2),
    ("beatmem", "CGCineUnrolledCNN", None),
    ("beatmem", "CGCineUnrolledCNN", 4),
]


@pytest.fixture(scope="session", autouse=True)
def larger_datasets(datasets):
    """Two data sets whose tensors are large enough to be most of the memory."""
    from meddlr_greedy.data.catalog import register_datasets

    for name, shape in SHAPES.items():
        write_dataset(datasets, name, {"train": 2, "val": 1, "test": 1}, **shape)
    register_datasets(str(datasets))


@pytest.fixture
def plan_cfg(write_config):
    def make(data, arch, modules, *opts, device="cpu"):
        path = write_config(arch=arch, modules=modules, data=data)
        # Never converged, so that meddlr's conjugate gradients run to their last iteration, as planned.
        dc = ["MODEL.UNROLLED.DC.EPS", "0.0", "MODEL.UNROLLED.DC.MAX_ITER", "3"]
        cg = ["MODEL.UNROLLED.STEP_SIZES", "(0.1,)", *dc] if "CG" in arch else []
        opts = ["MODEL.UNROLLED.NUM_FEATURES", "16", "MODEL.DEVICE", device, *cg, *map(str, opts)]
        return load_config(str(path), opts)

    return make


def measured_peak(cfg):
    """Largest sum of what was allocated and not yet freed, while the real trainer runs two steps on a real batch."""

    def run():
        trainer = GreedyTrainer(cfg)
        batch = next(iter(trainer.data_loader))
        gc.collect()  # the examples that the batch was made of: the loader's own memory, by default in other processes
        trainer._data_loader_iter = itertools.repeat(batch)
        trainer.iter = 0
        with EventStorage(0) as trainer.storage:
            trainer.run_step()
            trainer.run_step()

    return peak_bytes(run, "cpu")


@pytest.mark.parametrize(("data", "arch", "modules"), CASES)
def test_peak_within_five_percent_of_the_trainer(plan_cfg, data, arch, modules):
    cfg = plan_cfg(data, arch, modules)
    planned, measured = plan_step(cfg, Example.from_data(cfg)).peak, measured_peak(cfg)
    assert planned == pytest.approx(measured, rel=0.05)
    assert planned > 2**21  # not of a trivial size


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("CHECKPOINT", True),
        ("CHECKPOINT", "block"),
        ("SAVED", "int8"),
        ("OVERLAP", 1),
        ("CLIP_NORM", 1),
        ("LR_FACTORS", [0.5, 2]),
        ("LOSS_WEIGHTS", [0.1, 0.7]),
        ("EMA", 0.9),
    ],
)
@pytest.mark.parametrize(("data", "arch"), [("flatmem", "GeneralizedUnrolledCNN"), ("beatmem", "CGCineUnrolledCNN")])
def test_peak_with_the_knobs(plan_cfg, data, arch, key, value):
    steps = 4 if key in ("CHECKPOINT", "OVERLAP") else 2  # for these, modules of more than one step
    cfg = plan_cfg(data, arch, 2, STEPS, steps, f"MISC.GREEDY.{key}", value)
    assert plan_step(cfg, Example.from_data(cfg)).peak == pytest.approx(measured_peak(cfg), rel=0.05)


@pytest.mark.parametrize("modules", [1, 2])
@pytest.mark.parametrize(("data", "arch"), [("flatmem", "GeneralizedUnrolledCNN"), ("beatmem", "CineUnrolledCNN")])
def test_tiles_are_planned(plan_cfg, data, arch, modules):
    peaks = []
    for tile in ([0, 0], [12, 16]):
        cfg = plan_cfg(data, arch, modules, STEPS, 2, "MISC.GREEDY.TILE", tile)
        peaks.append(plan_step(cfg, Example.from_data(cfg)).peak)
        if any(tile):
            measured_peak(cfg)  # the reach of the regularizer is found once, which takes memory for a moment
        assert peaks[-1] == pytest.approx(measured_peak(cfg), rel=0.05)
    assert peaks[1] < 0.9 * peaks[0]


@pytest.mark.parametrize(("data", "arch"), [("flatmem", "GeneralizedUnrolledCNN"), ("beatmem", "CGCineUnrolledCNN")])
def test_parts_of_coil_images_are_planned(plan_cfg, monkeypatch, data, arch):
    """Parts of 40 kB, which no config can ask for; coil images are 0.1 and 0.3 MB."""
    monkeypatch.setattr(wrapper, "_bytes_of_coil_images", lambda config: 40_000 * config.DC_MEMORY or None)
    tile, peaks = ["MISC.GREEDY.TILE", [16, 16], "MODEL.UNROLLED.NUM_FEATURES", 2], []
    for megabytes in (0, 1):
        cfg = plan_cfg(data, arch, 4, *tile, "MISC.GREEDY.DC_MEMORY", megabytes)
        peaks.append(plan_step(cfg, Example.from_data(cfg)).peak)
        measured_peak(cfg)
        assert peaks[-1] == pytest.approx(measured_peak(cfg), rel=0.05)
    assert peaks[1] < 0.9 * peaks[0]


@pytest.mark.parametrize(
    ("data", "arch", "block"),
    [("flatmem", "GeneralizedUnrolledCNN", "PaddedResNet"), ("beatmem", "CineUnrolledCNN", "ResNet")],
)
def test_padding_is_planned(plan_cfg, data, arch, block):
    opts = ["MODEL.UNROLLED.BLOCK_ARCHITECTURE", block, "MODEL.UNROLLED.KERNEL_SIZE", [5]]
    peaks = []
    for padding in ("zeros", "circular"):
        cfg = plan_cfg(data, arch, 2, STEPS, 2, *opts, "MISC.GREEDY.PADDING", padding)
        peaks.append(plan_step(cfg, Example.from_data(cfg)).peak)
        assert peaks[-1] == pytest.approx(measured_peak(cfg), rel=0.05)
    # It costs the rim, four pixels along each axis, and no second copy.
    assert 1.01 * peaks[0] < peaks[1] < 1.35 * peaks[0]


def test_channels_that_are_a_multiple_are_planned(plan_cfg):
    """Of 16 features the inner convolutions have 36 channels, which become 48."""
    peaks = []
    for multiple in (1, 16):
        cfg = plan_cfg("beatmem", "CineUnrolledCNN", 2, STEPS, 2, "MISC.GREEDY.CHANNEL_MULTIPLE", multiple)
        peaks.append(plan_step(cfg, Example.from_data(cfg)).peak)
        assert peaks[-1] == pytest.approx(measured_peak(cfg), rel=0.05)
    assert 1.1 * peaks[0] < peaks[1] < 1.35 * peaks[0]


def cropped(example):
    return example._replace(evaluated=example.tensors)


@pytest.mark.parametrize(
    "arch", ["InvertibleCineUnrolledCNN", pytest.param("InvertibleCGCineUnrolledCNN", marks=pytest.mark.stress)]
)
def test_invertible_networks_and_their_alternatives(plan_cfg, arch):
    step_size = -0.4 if arch == "InvertibleCineUnrolledCNN" else 0.5
    opts = [STEPS, 2, "MODEL.UNROLLED.STEP_SIZES", (step_size,), "MISC.GREEDY.TRAINING", "invertible"]
    cfg = plan_cfg("beatmem", arch, 1, *opts)
    example = Example.from_data(cfg)
    own = plan_step(cfg, example).peak
    assert own == pytest.approx(measured_peak(cfg), rel=0.05)
    others = alternatives(cfg, 32)
    assert {method.modules for method in others if method.training == "invertible"} == {1}
    single = cfg.clone().defrost()
    single.MODEL.UNROLLED.NUM_UNROLLED_STEPS = 1
    assert {method.training for method in alternatives(single.freeze(), 12)} == {"greedy"}
    assert own == plan_step(others[Method(1, training="invertible")], example).peak
    assert own < plan_step(others[Method(1)], example).peak
    if arch == "InvertibleCineUnrolledCNN":  # those of the other take long
        assert all(plan_step(other, example).peak for other in others.values())


def test_methods_that_a_network_does_not_allow_have_no_row(plan_cfg):
    opts = [STEPS, 2, "MODEL.UNROLLED.STEP_SIZES", (-0.4,)]
    shape = (12, 10, 4, 2)

    def trainings(*others):
        cfg = plan_cfg("beatmem", "InvertibleCineUnrolledCNN", 1, *opts, *others)
        methods = {
            m: other for m, other in alternatives(cfg, 12).items() if m in (Method(1), Method(1, training="invertible"))
        }
        found = compare_methods(methods, Example.from_shape(cfg, shape), None)
        return [row["training"] for row in found["alternatives"]]

    assert trainings() == ["greedy", "invertible"]
    assert trainings("MISC.GREEDY.AMP", "bf16") == ["greedy"]


def test_alternatives_of_what_one_module_alone_allows(plan_cfg):
    opts = ["MODEL.UNROLLED.SHARE_WEIGHTS", True, "MISC.GREEDY.CLIP_NORM", 1, "MISC.GREEDY.LR_FACTORS", [2]]
    opts += ["MISC.GREEDY.LOSS_WEIGHTS", [2]]
    cfg = plan_cfg("beatmem", "CineUnrolledCNN", 1, *opts)
    assert all(plan_step(other, Example.from_data(cfg)).peak for other in alternatives(cfg, 32).values())


def test_readout_crop_and_partial_echo_are_planned(plan_cfg):
    crop = ["MISC.GREEDY.CINE.READOUT_CROP", 16, "MISC.GREEDY.CINE.READOUT_CROP_JITTER", 0]
    cfg = plan_cfg("beatmem", "CineUnrolledCNN", 2, STEPS, 2, *crop)
    example = Example.from_data(cfg)
    assert example.tensors["kspace"][0][0] == 16
    assert plan_step(cfg, example).peak == pytest.approx(measured_peak(cfg), rel=0.05)
    # Evaluation is not cropped.
    whole = plan_cfg("beatmem", "CineUnrolledCNN", 2, STEPS, 2)
    found, expected = plan_step(cfg, example).evaluation, plan_step(whole, Example.from_data(whole)).evaluation
    assert found == pytest.approx(expected, rel=0.1)  # beside a smaller training batch
    assert found > 1.5 * plan_step(cfg, cropped(example)).evaluation
    assert Example.from_shape(cfg, example.evaluated["kspace"][0]) == example
    # Data consistency has another form, with FFTs along both axes.
    echo = plan_cfg("beatmem", "CineUnrolledCNN", 2, STEPS, 2, "MISC.GREEDY.CINE.PARTIAL_ECHO", 0.3)
    example = Example.from_data(echo)
    assert not example.constant_along_readout
    assert plan_step(echo, example).peak == pytest.approx(measured_peak(echo), rel=0.05)


@pytest.mark.parametrize("data", SHAPES)
def test_an_example_of_a_shape_is_like_one_of_the_data(plan_cfg, data):
    arch = "CineUnrolledCNN" if data == "beatmem" else "GeneralizedUnrolledCNN"
    cfg = plan_cfg(data, arch, 2)
    found = Example.from_data(cfg)
    assert Example.from_shape(cfg, found.tensors["kspace"][0], 1) == found


def test_parts_of_a_step(plan_cfg):
    cfg = plan_cfg("beatmem", "CineUnrolledCNN", 2)
    example = Example.from_data(cfg)
    found = plan_step(cfg, example)
    step = StepOnBatch.from_config(cfg, batch=example.batch(2, torch.zeros))
    own = sum(x.nbytes for x in [*step.model.parameters(), *step.model.buffers()])
    assert found.parameters == own
    assert found.gradients == sum(p.nbytes for p in step.model.parameters())
    assert 2 * found.gradients <= found.optimizer <= 2.1 * found.gradients + 4096  # Adam: two averages and a counter
    assert found.batch == sum(x.nbytes for x in example.batch(2).values())
    averaged = plan_step(plan_cfg("beatmem", "CineUnrolledCNN", 2, "MISC.GREEDY.EMA", 0.9), example)
    assert found.averages == 0 and averaged.averages == found.gradients
    assert averaged[:4] == found[:4]
    assert averaged.peak - found.peak == averaged.evaluation - found.evaluation == averaged.averages
    assert len(found.activations) == 2
    assert max(found.activations) < found.peak
    four, one = (plan_step(with_method(cfg, Method(k)), example) for k in (4, 1))
    assert four.peak < found.peak < one.peak
    assert max(four.activations) < 0.35 * max(one.activations)
    again = plan_step(with_method(cfg, Method(1, checkpoint="step")), example)
    assert again.peak < one.peak
    assert 1.2 * one.operations < again.operations < 1.6 * one.operations


def test_alternatives(plan_cfg):
    found = alternatives(plan_cfg("flatmem", "GeneralizedUnrolledCNN", None), rows=48)
    ends = [Method(k, *other) for k in (1, 4) for other in (("block",), ("", "int8"), ("", "", 24))]
    whole = [Method(1), Method(1, "step"), Method(2), Method(2, "step"), Method(4)]
    assert set(found) == {*ends, *whole}
    for method, cfg in found.items():
        greedy = GreedyConfig.from_cfg(cfg)
        assert (greedy.NUM_MODULES, greedy.CHECKPOINT, greedy.SAVED, greedy.TILE[0], greedy.TRAINING) == method
    overlapping = plan_cfg("flatmem", "GeneralizedUnrolledCNN", 2, "MISC.GREEDY.OVERLAP", 2)
    assert {method.modules for method in alternatives(overlapping, rows=48)} == {1, 2}


@pytest.mark.parametrize(("modules", "expected"), [(None, 1), (1, 1), (2, 4), (4, 8), ([1, 3], 3)])
def test_more_steps_in_modules_of_the_same_size(plan_cfg, modules, expected):
    cfg = with_value(plan_cfg("flatmem", "GeneralizedUnrolledCNN", modules), STEPS, 8)
    assert cfg.MISC.GREEDY.NUM_MODULES == expected
    assert cfg.MODEL.META_ARCHITECTURE == ("GeneralizedUnrolledCNN" if modules is None else "GreedyUnrolled")


def test_steps_cost_backpropagation_more_than_greedy(plan_cfg):
    grown = {}
    for modules in (1, 4):
        cfg = plan_cfg("flatmem", "GeneralizedUnrolledCNN", modules)
        example = Example.from_data(cfg)
        grown[modules] = plan_step(with_value(cfg, STEPS, 8), example).peak / plan_step(cfg, example).peak
    assert grown[4] < 1.4 and 1.7 < grown[1] < 2


@pytest.mark.parametrize("key", [FEATURES, STEPS])
def test_the_largest_fits_and_one_more_does_not(plan_cfg, monkeypatch, key):
    monkeypatch.setitem(search._BOUNDS, key, 100)
    cfg = plan_cfg("flatmem", "GeneralizedUnrolledCNN", 1, STEPS, 2)
    example = Example.from_data(cfg)
    budget = int(1.6 * plan_step(cfg, example).peak)
    growth = growth_of(cfg, example, key)
    found = largest(growth, budget)
    assert found.value > cfg.get_recursive(key) and not found.is_bound
    assert plan_step(with_value(cfg, key, found.value), example).fits(budget)
    assert not plan_step(with_value(cfg, key, found.value + 1), example).fits(budget)
    assert largest(growth._replace(bound=3), 10**12).is_bound
    assert largest(growth._replace(bound=2), 1000).value == 0


def test_the_largest_image(plan_cfg):
    cfg = plan_cfg("beatmem", "CineUnrolledCNN", 2, STEPS, 2, "MISC.GREEDY.CINE.READOUT_CROP", 16)
    example = Example.from_shape(cfg, (32, 24, 6, 4))
    assert image_of(example, 3) == (48, 72)  # of the readout that training sees
    larger = example.resized(64, 96)
    assert larger == Example.from_shape(plan_cfg("beatmem", "CineUnrolledCNN", 2), (64, 96, 6, 4))
    budget = plan_step(cfg, larger).peak
    found = largest(growth_of(cfg, example, IMAGE)._replace(bound=8), budget)
    assert (found.value, found.memory.peak) == (4, budget)


@pytest.mark.parametrize("data", ["flatmem", "beatmem"])
def test_every_operation_of_a_step_can_be_timed(plan_cfg, data):
    arch = "GeneralizedUnrolledCNN" if data == "flatmem" else "CGCineUnrolledCNN"
    cfg = plan_cfg(data, arch, 2, STEPS, 2)
    example = Example.from_data(cfg)
    seconds = {}
    for method in (Method(1), Method(1, checkpoint="block"), Method(2, saved="int8"), Method(2, tile=12)):
        work = plan_step(with_method(cfg, method), example).work
        seconds[method] = seconds_of(work)
        assert seconds[method] == seconds_of(work) > 0  # timed once
    kinds = [plan_step(with_method(cfg, method), example).work.counts for method in (Method(1), Method(1, "block"))]
    assert sum(kinds[1].values()) > sum(kinds[0].values())  # forwards are run again


def test_time_is_a_sum_over_operations():
    with traced() as trace:
        image, filters = torch.empty(1, 3, 8, 8), torch.empty(5, 3, 3, 3)
        signal = torch.empty(4, 8, dtype=torch.complex64).conj()[1:, ::2]
        trace.reset_work()
        for _ in range(3):
            torch.nn.functional.conv2d(image, filters).relu_()
        signal.clone()
        image.flatten()  # a view
    names = Counter({kind[0].overloadpacket.__name__: n for kind, n in trace.work.counts.items()})
    assert names == {"convolution": 3, "relu_": 3, "clone": 1}
    once = {kind: seconds_of(one_of(trace.work, kind)) for kind in trace.work.counts}
    summed = sum(n * once[kind] for kind, n in trace.work.counts.items())
    assert seconds_of(trace.work) == pytest.approx(summed)
    # Three convolutions and ReLUs, the clone and the view.
    assert trace.work.calls == 8 and seconds_of(trace.work, around_call=2.0) == pytest.approx(summed + 8 * 2.0)


def test_operations_are_timed_in_turn_equally_often_but_long_ones_once(monkeypatch):
    def work_of(*names):
        found = Work()
        for name in names:
            found.add(name, name, (), {})  # the name stands for the function
        return found

    order = []
    seconds = {"short": iter([3e-3, 1e-3, *8 * [2e-3]]), "long": iter([0.5])}

    def run(operation, device):
        order.append(operation.function)
        return next(seconds[operation.function])

    known = {("known", torch.get_num_threads(), "cpu"): 1.0}
    monkeypatch.setattr("meddlr_greedy.planning.work._known", known)
    monkeypatch.setattr("meddlr_greedy.planning.work._seconds", run)
    works = [work_of("short", "long"), work_of("short", "known")]
    time_operations(works)
    assert order == ["short", "long", *9 * ["short"]]
    assert [seconds_of(work) for work in works] == [0.501, 1.001]


def test_what_is_around_an_operation_is_found_once():
    assert 0 < around_call() < 1e-2 and around_call() == around_call()


def test_what_is_around_an_operation_counts_on_a_cpu_with_its_number_of_threads(monkeypatch):
    monkeypatch.setattr("meddlr_greedy.planning.around._around_call", float)
    monkeypatch.setattr("meddlr_greedy.planning.plan.seconds_of", lambda work, device, around: around)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    memory = SimpleNamespace(work=Work())
    assert [_seconds(memory, device) for device in ("cpu", "cuda")] == [3.0, 0.0]


def one_of(work, kind):
    found = Work()
    found.add(kind, *dict(work.operations())[kind])
    return found


def test_the_fastest_is_the_least_of_what_takes_longest():
    def row(seconds, operations=1.0, **method):
        return {**Method(**method)._asdict(), "seconds": seconds, "operations": operations, "peak": method["modules"]}

    rows = [row(1.0, modules=4), row(1.015, modules=2), row(1.5, modules=1), row(0.5, modules=1, saved="int8")]
    assert _fastest(rows) == Method(2)._asdict()
    tiles = [row(1.0, modules=4), row(1.01, modules=4, tile=24)]
    tiles[1]["peak"] = 1
    assert _fastest(tiles) == Method(4, tile=24)._asdict()
    assert _fastest([row(None, 2.0, modules=1), row(None, 1.0, modules=8)]) == Method(8)._asdict()
    assert _fastest([]) is None


def test_a_trace_frees_what_is_freed_and_counts_operations():
    with traced(block=512) as trace:
        x = torch.ones(100)
        assert trace.alive == 512
        y = x + x
        del x
        assert (trace.alive, trace.peak) == (512, 1024)
        assert not bool((y > 0).any())
        assert bool((y > 0).all())
        before = trace.operations
        torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8), torch.ones(5, 3, 3, 3), padding=1)
        assert trace.operations - before == 2 * 5 * 64 * 27 + 3 * 64 + 5 * 27


def test_operations_of_matrix_products_and_ffts():
    with traced() as trace:
        a, b, row, batch = torch.empty(3, 5), torch.empty(5, 7), torch.empty(7), torch.empty(2, 3, 5)
        matrices, signals = torch.empty(2, 5, 7), torch.empty(3, 8, dtype=torch.complex64)
        for compute, expected in (
            (lambda: a @ b, 2 * 3 * 7 * 5),
            (lambda: torch.addmm(row, a, b), 2 * 3 * 7 * 5),
            (lambda: torch.bmm(batch, matrices), 2 * 2 * 3 * 7 * 5),
            (lambda: torch.fft.fft(signals), 5 * 24 * 3),
        ):
            before = trace.operations
            compute()
            assert trace.operations - before == expected


# ---- the command


def test_a_plan_takes_the_threads_of_the_training(write_config, monkeypatch):
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    config = write_config(arch="CineUnrolledCNN", modules=2, data="beatmem")
    found = []
    for threads in ("3", "0"):  # 0 is torch's choice
        taken.clear()
        plan.main(["--config-file", str(config), "--untimed", "MISC.GREEDY.RUN.THREADS", threads])
        found.append(list(taken))
    assert found[0] == [3, *found[1]]  # others are those of its loader


def test_table_and_json(write_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(search, "_BOUNDS", {FEATURES: 6, STEPS: 5, IMAGE: 3})
    config = write_config(arch="CineUnrolledCNN", modules=2, data="beatmem")
    path = tmp_path / "plan.json"
    plan.main(["--config-file", str(config), "--memory", "8 MB", "--json", str(path), STEPS, "2"])
    text, planned = capsys.readouterr().out, json.loads(path.read_text())
    for words in ("peak of a training step", "activations of module 2", "CHECKPOINT", "fastest", "largest image"):
        assert words in text
    rows = planned["alternatives"]
    assert [row["fits"] for row in rows] == [max(row["peak"], row["evaluation"]) <= 8e6 for row in rows]
    assert [row["seconds"] is not None for row in rows] == [row["fits"] for row in rows]
    least = min(row["seconds"] for row in rows if row["fits"] and not row["saved"])
    (fastest,) = (row for row in rows if planned["fastest"].items() <= row.items())
    assert fastest["fits"] and fastest["seconds"] <= 1.02 * least
    assert [row["training"] for row in planned["largest"]] == [
        "backpropagation",
        "greedy",
        "greedy, tiles of 24 rows",
    ]
    plan.main(["--config-file", str(config), "--memory", "8 MB", "--json", str(path), STEPS, "2", "--untimed"])
    assert all(row["seconds"] is None for row in json.loads(path.read_text())["alternatives"])
    assert "number of operations" in capsys.readouterr().out


def test_without_data_and_memory(write_config, capsys):
    config = write_config(arch="CineUnrolledCNN", modules=2, data="beat")
    command = ["--config-file", str(config), "--shape", "16,12,4,3", "--maps", "1", STEPS, "2"]
    command += ["DATASETS.TRAIN", "('nowhere_train',)"]
    planned = plan.main([*command, "MODEL.DEVICE", "cuda"])
    assert "largest" not in planned and planned["device"] == "cuda"
    printed = capsys.readouterr().out
    assert "fits" not in printed
    # What is not seen on a GPU, with what is known of its size; the batch that is copied ahead is.
    assert "cuFFT" in printed and "cuDNN" in printed
    assert planned["work_area_of_ffts"] == planned["batch_size"] * 16 * 12 * 4 * 3 * 8
    on_host = plan.main(command)
    printed = capsys.readouterr().out
    assert "cuFFT" not in printed and "averages" not in printed and on_host["work_area_of_ffts"] == 0
    plan.main([*command, "MISC.GREEDY.EMA", "0.9"])
    assert "\naverages " in capsys.readouterr().out
    assert planned["config"]["copied_ahead"] == planned["config"]["batch"] and on_host["config"]["copied_ahead"] == 0
    assert planned["config"]["peak"] >= on_host["config"]["peak"] + on_host["config"]["batch"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--memory", "24"], ["--memory", "'24'", "GB"]),
        (["--memory", "0GB"], ["--memory", "'0GB'"]),
        (["--memory", "9" * 400 + "GB"], ["--memory", "found '999", "at most"]),
        (["--memory", "0." + "0" * 30 + "1GB"], ["--memory"]),
        (["--memory", "nanGB"], ["--memory", "'nanGB'"]),
        (["--memory=-5GB"], ["--memory", "'-5GB'"]),
        (["--memory", "infGB"], ["--memory", "'infGB'"]),
        (["--shape", "9" * 400 + ",2,3,4"], ["--shape", "six digits"]),
        (["--shape", "20,16,3", "--maps", "9" * 30], ["--shape", "maps"]),
        (["--shape", "16x12"], ["--shape", "'16x12'", "H,W,T,C"]),
        (["--shape", "16,12"], ["(16, 12)", "H,W,T,C"]),
        (["--shape", "16,0,4,3"], ["(16, 0, 4, 3)", "positive"]),
        (["--shape", "16,12,3"], ["(16, 12, 3)", "cine"]),
        (["--shape", "16,12,4,3", "--maps", "2"], ["MODEL.UNROLLED.NUM_EMAPS", "2 map sets"]),
        (["--maps", "2"], ["--maps", "--shape"]),
        (["DATASETS.TRAIN", "('nowhere_train',)"], ["nowhere_train"]),
        (["--shape", "16,12,4,3", "--json", "/nowhere/plan.json"], ["--json", "/nowhere/plan.json"]),
    ],
)
def test_mistakes(write_config, capsys, flags, words):
    config = write_config(arch="CineUnrolledCNN", modules=2, data="beat")
    with pytest.raises(SystemExit) as end:
        plan.main(["--config-file", str(config), *flags])
    error = without_progress(capsys.readouterr().err)
    assert end.value.code == 2
    assert error.startswith("error: ") and "\n" not in error
    for word in words:
        assert word in error, error


# ---- on a GPU


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("data", "arch", "modules"), CASES)
def test_peak_within_ten_percent_on_a_gpu(plan_cfg, data, arch, modules):
    shape = (256, 256, 12) if data == "flatmem" else (192, 128, 24, 12)
    cfg = plan_cfg(data, arch, modules, "MODEL.UNROLLED.NUM_FEATURES", 32, device="cuda")
    example = Example.from_shape(cfg, shape)
    step = StepOnBatch.from_config(cfg, batch=example.batch(cfg.SOLVER.TRAIN_BATCH_SIZE, torch.ones))
    step.run()
    torch.cuda.reset_peak_memory_stats()
    step.run()
    planned = plan_step(cfg, example)
    assert planned.peak - planned.copied_ahead == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)
