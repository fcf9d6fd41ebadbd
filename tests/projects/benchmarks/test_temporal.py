"""The benchmark of the convolution along time, small."""

import pytest
import torch

from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalResNet
from projects.cine.benchmarks import temporal as benchmark
from projects.cine.benchmarks.options import Options
from projects.cine.benchmarks.parts import with_convolutions


def test_every_network_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "FEATURES", (8,))
    rows = benchmark.temporal(Options("cpu", 1, tmp_path, small=True))["rows"]
    assert [(row["features"], row["frames"]) for row in rows] == [(8, 12), (8, 20)]
    # What is not held: 2 frames beside those of the cycle.
    assert all(1 - 2 / row["frames"] < row["bytes held"] < 1 for row in rows)
    assert all(0 < row[f"error of {side}"] < 1e-4 for row in rows for side in ("gradient", "torch's"))


def test_the_rival_convolves_in_training_as_in_evaluation():
    torch.manual_seed(0)
    network = SpatioTemporalResNet(2, 4)
    x = torch.randn(1, 2, 5, 9, 8)
    expected = network.eval()(x)
    rival = with_convolutions(network.train(), benchmark._Convolving)
    assert torch.equal(rival(x), expected)


@pytest.mark.parametrize("training", [True, False])
def test_a_side_runs_in_its_mode(training, tmp_path):
    modes = []
    cfg = benchmark.make_cfg("cpu", "CineUnrolledCNN", 1, 2)
    model = benchmark.build_model(cfg)
    model.register_forward_pre_hook(lambda model, _: modes.append((model.training, torch.is_grad_enabled())))
    side = benchmark._side(cfg, model, benchmark.make_batch("cpu", (6, 5, 4), 2))
    (side.train if training else side.infer)()
    assert modes == [(training, training)]
