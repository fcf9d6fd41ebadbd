"""One call for all parameters with equal options: the bits and checkpoints of one call for each."""

import copy

import pytest
import torch
from meddlr.solver import build_optimizer as build_stock_optimizer
from torch import nn

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.engine import build, update_sets
from meddlr_greedy.engine.build import build_optimizer
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from meddlr_greedy.engine.update_sets import update_in_sets
from tests.helpers.networks import small_config
from tests.helpers.runs import assert_equal, assert_same_training
from tests.helpers.runs import train as train_run

SOLVERS = {
    "Adam": ("Adam", {}),
    "Adam, decayed": ("Adam", {"WEIGHT_DECAY": 0.1, "WEIGHT_DECAY_BIAS": 0.02, "BIAS_LR_FACTOR": 3.0}),
    "SGD": ("SGD", {"MOMENTUM": 0.0}),
    "SGD, momentum, decayed": ("SGD", {"MOMENTUM": 0.9, "WEIGHT_DECAY": 0.1, "BIAS_LR_FACTOR": 2.0}),
    "SophiaG": ("SophiaG", {"WEIGHT_DECAY": 0.1}),
}


def config(solver, **solver_keys):
    cfg = small_config("CineUnrolledCNN")
    cfg.MISC.GREEDY = GreedyConfig.from_cfg(cfg).as_node()
    cfg.SOLVER.OPTIMIZER, keys = SOLVERS[solver]
    for key, value in {"BASE_LR": 0.01, **keys, **solver_keys}.items():
        cfg.SOLVER[key] = value
    return cfg


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1), nn.Linear(5, 3, bias=False), nn.Linear(7, 2)]
    model = nn.Sequential(*layers)
    model.register_parameter("phase", nn.Parameter(torch.randn(4, dtype=torch.complex64)))
    model.register_parameter("empty", nn.Parameter(torch.zeros(0)))
    return model


def train(model, optimizer, iterations, scheduler=None, begin=0):
    """Updates with made-up gradients, of which a parameter now and then has none."""
    for i in range(begin, begin + iterations):
        generator = torch.Generator().manual_seed(i)
        optimizer.zero_grad()
        for k, p in enumerate(model.parameters()):
            gradient = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            p.grad = None if (i + k) % 4 == 0 else gradient
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return model.state_dict()


@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("solver", SOLVERS)
def test_bits_and_state_are_those_of_a_call_for_each_parameter(solver, accumulated, schedule):
    cfg, models = config(solver, GRAD_ACCUM_ITERS=accumulated), (network(), network())
    optimizers = [make(cfg, model) for make, model in zip((build_stock_optimizer, build_optimizer), models)]
    schedules = [None, None]
    for j, optimizer in enumerate(optimizers):
        for i, group in enumerate(optimizer.param_groups):
            group["lr"] *= 1 + i % 3  # as MISC.GREEDY.LR_FACTORS
        if schedule:
            schedules[j] = torch.optim.lr_scheduler.ExponentialLR(getattr(optimizer, "optimizer", optimizer), 0.8)
    start = network().state_dict()
    states = [train(model, *parts) for model, *parts in zip(models, optimizers, (6, 6), schedules)]
    assert_equal(*states)
    assert not torch.equal(states[0]["0.weight"], start["0.weight"])
    assert_equal(*(getattr(optimizer, "optimizer", optimizer).state_dict() for optimizer in optimizers))


@pytest.mark.parametrize("solver", SOLVERS)
def test_clipped_once(solver):
    """As a hook before the update does it: twice would be other bits."""
    cfg, models = config(solver), (network(), network())
    cfg.MISC.GREEDY.CLIP_NORM = 0.5
    ours = build_optimizer(cfg, models[1])
    stock = build_stock_optimizer(cfg, models[0])

    def clip(*_):
        calls.append(nn.utils.clip_grad_norm_([p for p in models[0].parameters() if p.requires_grad], 0.5))

    calls = []
    stock.register_step_pre_hook(clip)
    assert_equal(train(models[0], stock, 3), train(models[1], ours, 3))
    assert len(calls) == 3 and min(calls) > 0.5


def old_checkpoint(cfg, model, folder):
    """A checkpoint as all versions before wrote it: of meddlr's optimizer, which updates group by group."""
    optimizer = build_stock_optimizer(cfg, model)
    train(model, optimizer, 3)
    GreedyCheckpointer(model, str(folder), optimizer=optimizer).save("model_old", iteration=2)
    return optimizer


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_old_checkpoint_continues_with_the_same_bits(solver, tmp_path):
    cfg, old = config(solver), network()
    optimizer = old_checkpoint(cfg, old, tmp_path)
    model = network()
    ours = build_optimizer(cfg, model)
    checkpointer = GreedyCheckpointer(model, str(tmp_path), optimizer=ours)
    checkpointer.load(checkpointer.get_checkpoint_file())
    assert_equal(train(old, optimizer, 4, begin=3), train(model, ours, 4, begin=3))
    assert_equal(optimizer.state_dict(), ours.state_dict())
    checkpointer.save("model_new", iteration=6)  # and the old version reads it
    again = network()
    stock = build_stock_optimizer(cfg, again)
    reader = GreedyCheckpointer(again, str(tmp_path), optimizer=stock)
    reader.load(reader.get_checkpoint_file())
    assert_equal(train(old, optimizer, 2, begin=7), train(again, stock, 2, begin=7))


class Recorded(torch.optim.Adam):
    """Keeps what groups it was called with."""

    def step(self, closure=None):
        self.seen = [{**group, "params": list(group["params"])} for group in self.param_groups]


def test_parameters_with_equal_options_come_together():
    model = network()
    parameters = list(model.parameters())
    optimizer = Recorded([{"params": [p], "lr": 0.1 if p.ndim > 1 else 0.2} for p in parameters])
    update_in_sets(optimizer)
    groups = optimizer.param_groups
    optimizer.step()
    assert [(group["lr"], len(group["params"]), group["foreach"]) for group in optimizer.seen] == [
        (0.2, 1, None),  # complex
        (0.2, sum(p.ndim <= 1 for p in parameters) - 1, True),
        (0.1, sum(p.ndim > 1 for p in parameters), True),
    ]
    assert not any(group["fused"] for group in optimizer.seen)
    assert optimizer.param_groups is groups and len(groups) == len(parameters)
    assert all(group["foreach"] is None and group["fused"] is None for group in groups)


@pytest.mark.parametrize("change", ["option", "group", "parameter", "name", "loaded"])
def test_sets_are_formed_anew_when_they_no_longer_hold(change):
    a, b, c = parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    optimizer = Recorded([{"params": [p], "lr": 0.1} for p in parameters[:2]])
    update_in_sets(optimizer)
    optimizer.step()
    assert [len(group["params"]) for group in optimizer.seen] == [2]
    if change == "option":
        optimizer.param_groups[1]["lr"], expected = 0.2, [(0.1, [a]), (0.2, [b])]
    elif change == "group":
        optimizer.add_param_group({"params": [c], "lr": 0.1})
        expected = [(0.1, parameters)]
    elif change == "parameter":
        optimizer.param_groups[1]["params"][0], expected = c, [(0.1, [a, c])]
    elif change == "name":
        optimizer.param_groups[1]["initial_lr"], expected = 0.1, [(0.1, [a]), (0.1, [b])]
    else:
        state = optimizer.state_dict()
        state["param_groups"][1]["lr"] = 0.3
        optimizer.load_state_dict(state)
        expected = [(0.1, [a]), (0.3, [b])]
    optimizer.step()
    assert [group["lr"] for group in optimizer.seen] == [lr for lr, _ in expected]
    assert [list(map(id, group["params"])) for group in optimizer.seen] == [list(map(id, ps)) for _, ps in expected]


def test_sets_hold_while_a_schedule_changes_all_options(monkeypatch):
    optimizer = Recorded([{"params": [p], "lr": 0.1} for p in network().parameters()])
    update_in_sets(optimizer)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    monkeypatch.setattr(update_sets._Sets, "__init__", None)  # none is made any more
    for lr in (0.05, 0.025):
        schedule.step()
        optimizer.step()
        assert {group["lr"] for group in optimizer.seen} == {lr}


def test_groups_come_back_where_an_update_fails():
    optimizer = build_optimizer(config("Adam"), network())
    groups = optimizer.param_groups

    def fail(*_):
        raise ZeroDivisionError

    optimizer.register_step_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert optimizer.param_groups is groups


def test_on_a_gpu_kernels_are_fused_and_find_the_counts_of_an_old_checkpoint(monkeypatch):
    """torch's fused kernels on the CPU stand for those on a GPU: equal but for rounding."""
    monkeypatch.setattr(update_sets, "_is_fusible", lambda p: p.is_floating_point())
    cfg, models = config("Adam, decayed"), (network(), network())
    stock, ours = build_stock_optimizer(cfg, models[0]), build_optimizer(cfg, models[1])
    train(models[0], stock, 3)
    models[1].load_state_dict(models[0].state_dict())
    ours.load_state_dict(copy.deepcopy(stock.state_dict()))
    a, b = train(models[0], stock, 4, begin=3), train(models[1], ours, 4, begin=3)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)
    assert not all(torch.equal(a[name], b[name]) for name in a)
    assert all(group["fused"] is None for group in ours.param_groups)


def test_counts_go_where_fused_kernels_look_whenever_a_checkpoint_is_loaded(monkeypatch):
    """The device "meta" stands for a GPU."""
    monkeypatch.setattr(update_sets, "_is_fusible", lambda p: p.is_floating_point())
    parameters = [nn.Parameter(torch.zeros(2, dtype=dtype, device="meta")) for dtype in (torch.float32, torch.cfloat)]
    optimizer = Recorded([{"params": [p], "lr": 0.1} for p in parameters])
    update_in_sets(optimizer)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"] = {i: {"step": torch.tensor(3.0)} for i in range(2)}
    optimizer.load_state_dict(state)
    optimizer.step()
    assert [optimizer.state[p]["step"].device.type for p in parameters] == ["meta", "cpu"]


@pytest.mark.parametrize(
    "opts",
    [
        ["SOLVER.WEIGHT_DECAY", "0.01", "SOLVER.BIAS_LR_FACTOR", "2.0", "SOLVER.GRAD_ACCUM_ITERS", "2"],
        ["SOLVER.OPTIMIZER", "SGD", "MISC.GREEDY.CLIP_NORM", "0.01", "MISC.GREEDY.LR_FACTORS", "[1, 3]"],
    ],
)
def test_a_training_gives_the_weights_of_the_update_before(write_config, tmp_path, monkeypatch, opts):
    """And continues from the checkpoint of a version that updated group by group."""
    opts = [*opts, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.CHECKPOINT_PERIOD", "3"]

    def config(name):
        return write_config(arch="CineUnrolledCNN", data="beat", out=tmp_path / name)

    with monkeypatch.context() as before:
        before.setattr(build, "update_in_sets", lambda optimizer: None)
        train_run(config("old"), *opts)
    train_run(config("new"), *opts)
    for name in ("model_0000002.pth", "model_final.pth"):
        assert_same_training(tmp_path / "old" / name, tmp_path / "new" / name)
    for path in (tmp_path / "old").glob("model_*.pth"):
        if path.name != "model_0000002.pth":
            path.unlink()
    (tmp_path / "old" / "last_checkpoint").write_text("model_0000002.pth")
    train_run(config("old"), "--resume", *opts)
    assert_same_training(tmp_path / "old" / "model_final.pth", tmp_path / "new" / "model_final.pth")
