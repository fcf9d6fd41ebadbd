"""What a graphed step does beside the GPU's part: a recorder of the CPU stands for CUDA's."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from meddlr_greedy.engine import graphed_step
from meddlr_greedy.engine.build import build_network_to_train, build_optimizer
from meddlr_greedy.engine.graphed_step import GraphedStep, Recorder
from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.errors import UserError
from meddlr_greedy.ops import devices
from projects.cine.support.measuring import make_batch, make_cfg


class OfCpu(Recorder):
    """Does each time what was recorded, on the tensors of the first time."""

    def __init__(self):
        self.recorded = 0

    def trial(self):
        return nullcontext()

    def random_state(self):
        return [torch.get_rng_state()]

    def record(self, run):
        self.recorded += 1
        assert all(p.grad is None for p in self.model.parameters())
        run()
        gradients = [p.grad for p in self.model.parameters()]

        def replay():
            for p in self.model.parameters():
                p.grad = None
            run()
            for p, gradient in zip(self.model.parameters(), gradients):
                gradient.copy_(p.grad)
                p.grad = None

        return replay


def graphed(cfg):
    recorder = OfCpu()
    step = GraphedStep.from_config(cfg, recorder=recorder)
    recorder.model = step.model
    return step


def batches(heights=(12, 12, 14, 12)):
    found = [make_batch("cpu", (height, 10, 4), num_coils=2) for height in heights]
    return [{**batch, "target": batch["target"] * (i + 1), "metadata": [{}]} for i, batch in enumerate(found)]


@pytest.mark.parametrize("modules", [0, 1, 3])
def test_trains_as_a_plain_step_and_records_each_form_once(modules):
    cfg = make_cfg("cpu", "CineUnrolledCNN", 3, 4, modules)
    steps = []
    for make in (TrainingStep.from_config, graphed):
        torch.manual_seed(0)
        steps.append(make(cfg))
    for i, batch in enumerate(batches()):
        plain, of_graph = (step(batch, i) for step in steps)
        assert plain == of_graph
    assert all(map(torch.equal, *(step.model.parameters() for step in steps)))
    assert steps[1]._recorder.recorded == 2


@pytest.mark.parametrize("other", [{"constant_along_readout": True}, {"constant_along_readout": False}])
def test_what_a_batch_says_of_itself_is_part_of_its_form(other):
    step = graphed(make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2))
    (batch,) = batches((12,))
    for inputs in (batch, {**batch, **other}, {**batch, "mask": batch["mask"][:, :1].expand_as(batch["mask"])}):
        step(inputs)
    assert step._recorder.recorded == 3


class Counting(nn.Module):
    """A regularizer with a buffer that each forward changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("forwards", torch.zeros(()))
        self.conv = nn.Conv3d(2, 2, 1)

    def forward(self, x):
        self.forwards += 1
        return self.conv(x)


def test_buffers_are_those_of_one_forward_for_each_batch():
    step = graphed(make_cfg("cpu", "CineUnrolledCNN", 1, 4, 1))
    step.model.unrolled.network.resnets[0] = Counting()
    for i, batch in enumerate(batches((12, 12, 14))):
        step(batch, i)
    of_recording = step._recorder.recorded  # which, on a GPU, runs nothing
    assert step.model.unrolled.network.resnets[0].forwards == 3 + of_recording


def test_observed_modules_run_plainly():
    step = graphed(make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2))
    (batch,) = batches((12,))
    marks = []
    with step.observe(lambda k, begins: marks.append((k, begins))):
        step(batch)
    assert marks == [(0, True), (0, False), (1, True), (1, False)] and step._recorder.recorded == 0


def test_no_more_graphs_than_there_is_room_for(caplog, monkeypatch):
    monkeypatch.setattr(graphed_step, "_MOST_GRAPHS", 1)
    step = graphed(make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2))
    for i, batch in enumerate(batches((12, 14, 16, 12))):
        step(batch, i)
    assert step._recorder.recorded == 1 and caplog.text.count("batches of more than 1 forms") == 1


def test_iterations_that_draw_run_plainly(monkeypatch):
    step = graphed(make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2))
    monkeypatch.setattr(step.model.model, "vis_period", 2)
    plain = []
    monkeypatch.setattr(TrainingStep, "gradients", lambda *args: plain.append(args[2]) or {})
    monkeypatch.setattr(step, "read", lambda scalars: {})
    step._recorder.record = lambda run: lambda: None
    (batch,) = batches((12,))
    for i in range(4):
        step(batch, i)
    assert plain == [0, 0, 2]  # in iteration 1 it is tried, as if in the first one


def test_constants_live_as_long_as_their_graph(monkeypatch):
    step = graphed(make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2))
    constant = devices.kept_constant(torch.ones, 3, device=torch.device("cpu"))
    step(batches((12,))[0])
    (graph,) = step._graphs.values()
    assert any(kept is constant for kept in graph.constants)


def test_values_that_cannot_be_told_from_others_are_refused():
    step = graphed(make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2))
    with pytest.raises(UserError, match="'weights' of a batch is a list"):
        step({**batches((12,))[0], "weights": [1.0]})


def test_inverses_are_refused():
    cfg = make_cfg("cpu", "InvertibleCineUnrolledCNN", 2, 4, 1).clone().defrost()
    cfg.MISC.GREEDY.TRAINING, cfg.MODEL.UNROLLED.STEP_SIZES = "invertible", (-0.5,)
    with pytest.raises(UserError, match="RUN.CUDA_GRAPHS: found True, but MISC.GREEDY.TRAINING is 'invertible'"):
        graphed(cfg.freeze())


def test_random_layers_are_refused():
    cfg = make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2).clone().defrost()
    cfg.MODEL.UNROLLED.DROPOUT = 0.5
    step = graphed(cfg.freeze())
    with pytest.raises(UserError, match=r"RUN.CUDA_GRAPHS: .* draws random numbers.*DROPOUT 0"):
        step(batches((12,))[0])


def test_what_cannot_be_recorded_is_told_in_one_line():
    step = graphed(make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2))

    def fails(run):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    step._recorder.record = fails
    with pytest.raises(UserError, match=r"RUN.CUDA_GRAPHS: this step cannot be recorded \(operation not .*\)") as error:
        step(batches((12,))[0])
    assert "\n" not in str(error.value)


def test_a_cpu_and_accumulation_are_refused():
    cfg = make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2)
    with pytest.raises(UserError, match="RUN.CUDA_GRAPHS: found True, but MODEL.DEVICE is 'cpu'"):
        GraphedStep.from_config(cfg)
    cfg = cfg.clone().defrost()
    cfg.SOLVER.GRAD_ACCUM_ITERS = 2
    model = build_network_to_train(cfg)
    with pytest.raises(UserError, match="GRAD_ACCUM_ITERS is 2; allowed is False, or SOLVER.GRAD_ACCUM_ITERS 1"):
        GraphedStep(model, build_optimizer(cfg, model), None, recorder=OfCpu())


def test_wrappers_are_refused():
    cfg = make_cfg("cpu", "GeneralizedUnrolledCNN", 2, 4, 2).clone().defrost()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.N2R.META_ARCHITECTURE = "N2RModel", "GreedyUnrolled"
    with pytest.raises(UserError, match="RUN.CUDA_GRAPHS: found True, but N2RModel"):
        GraphedStep.from_config(cfg, recorder=OfCpu())
