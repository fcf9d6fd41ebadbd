"""The convolution whose input backward makes again, against the same that keeps it."""

import pytest
import torch
import torch.nn.functional as F
from meddlr.modeling import build_model

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.regularizers import spatiotemporal
from meddlr_greedy.modeling.regularizers.padding import Padding
from meddlr_greedy.modeling.regularizers.recomputed_input import Origin, convolution_of_relu, frames_of
from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalResNet
from meddlr_greedy.modeling.regularizers.temporal_convolution import relu_and_products
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import _plan
from projects.cine.support.measuring import make_batch
from tests.helpers.networks import shapes_given_to, small_config


@pytest.fixture(autouse=True)
def narrow_layers_take_products(monkeypatch):
    monkeypatch.setattr(spatiotemporal, "_FEWEST_CHANNELS_ON_CPU", 1)


def operands(size=(3, 4)):
    """What is convolved along time, and the weights of both convolutions."""
    torch.manual_seed(0)
    shapes = ((1, 3, size[0] * size[1], 2), (2, 2, 3, 1), (2,), (3, 2, 3, 3), (3,))
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


def recomputing(pad, size=(3, 4), by_products=False):
    def convolve(x, along_time, bias_along_time, weight, bias):
        x = x * 1  # a copy, which is overwritten
        image = relu_and_products(x, along_time, bias_along_time).unflatten(2, size).permute(0, 4, 1, 2, 3)
        origin = Origin(x, along_time, bias_along_time)
        return convolution_of_relu(image, origin, weight, bias, pad, by_products)

    return convolve


def keeping(pad, size=(3, 4)):
    def convolve(x, along_time, bias_along_time, weight, bias):
        image = relu_and_products(x * 1, along_time, bias_along_time).unflatten(2, size).permute(0, 4, 1, 2, 3)
        return F.conv2d(frames_of(F.relu(pad(image))), weight, bias, padding=pad.zeros)

    return convolve


@pytest.mark.parametrize("padding", ["zeros", "circular", "phase_encode"])
@pytest.mark.parametrize("by_products", [False, True])
def test_derivatives_against_finite_differences(padding, by_products):
    pad = Padding(3, padding)
    assert torch.autograd.gradcheck(recomputing(pad, by_products=by_products), operands())
    assert torch.autograd.gradgradcheck(recomputing(pad, by_products=by_products), operands())


@pytest.mark.parametrize("wanted", [[0], [1, 3], [3], [4], [0, 4]])
@pytest.mark.parametrize("again", [False, True])
def test_gradients_of_some(wanted, again):
    tensors = operands()
    for i, tensor in enumerate(tensors):
        tensor.requires_grad_(i in wanted)
    leaves = [tensors[i] for i in wanted]
    found, expected = (
        torch.autograd.grad(f(Padding(3))(*tensors).square().sum(), leaves, create_graph=again)
        for f in (recomputing, keeping)
    )
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)
        assert again or torch.equal(a, b)


# ---- in a network


@pytest.fixture
def taken(monkeypatch):
    """One element for each convolution that keeps no input."""
    return shapes_given_to(monkeypatch, spatiotemporal, "convolution_of_relu")


def config(dropout=0.0, kernel_size=3, features=16, **greedy):
    cfg = small_config("CineUnrolledCNN", **greedy)
    unrolled = cfg.MODEL.UNROLLED
    unrolled.DROPOUT, unrolled.KERNEL_SIZE, unrolled.NUM_FEATURES = dropout, (kernel_size,), features
    unrolled.NUM_RESBLOCKS, unrolled.NUM_UNROLLED_STEPS = 2, 2
    return cfg


@pytest.mark.parametrize(
    ("case", "recomputes"),
    [
        ({}, True),
        ({"kernel_size": 5, "features": 64}, True),
        ({"PADDING": "circular"}, True),
        ({"PADDING": "phase_encode", "OVERLAP": 1}, True),
        ({"NUM_MODULES": 1, "CHECKPOINT": True}, True),
        ({"NUM_MODULES": 1, "CHECKPOINT": "block"}, True),
        ({"TILE": [9, 8]}, True),
        ({"TILE": [9, 8], "PADDING": "circular"}, True),
        ({"features": 8}, False),  # more channels in between
        ({"dropout": 0.2}, False),
        ({"dropout": 0.2, "TILE": [9, 8]}, False),
        ({"SAVED": "int8"}, False),
        ({"AMP": "bf16"}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("products", [False, True])
def test_networks_train_with_the_same_bits(case, recomputes, products, taken, monkeypatch):
    monkeypatch.setattr(spatiotemporal, "_FEWEST_CHANNELS_IN_SPACE", 1 if products else 10**9)
    monkeypatch.setattr(spatiotemporal, "_FEWEST_NUMBERS_OF_A_FRAME", 1)
    batch, found = make_batch("cpu", (19, 17, 5), num_coils=3), []
    for exact in (None, lambda: False):
        if exact:
            assert bool(taken) == recomputes
            taken.clear()
            monkeypatch.setattr(spatiotemporal, "is_kept_exactly", exact)
        torch.manual_seed(0)
        model = build_model(config(**case)).train()
        with torch.no_grad():
            torch.manual_seed(1)
            without_graph = model(batch)["pred"]
        torch.manual_seed(1)
        pred = model(batch)["pred"]
        assert torch.equal(pred, without_graph)
        complex_l1(pred, batch["target"]).backward()
        found.append([pred.detach(), *(p.grad for p in model.parameters())])
    assert not taken
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_evaluation_keeps_what_it_convolves(dropout, taken):
    network = SpatioTemporalResNet(2, 16, dropout=dropout).eval()
    network(torch.randn(1, 2, 4, 6, 5)).sum().backward()
    assert not taken


def test_one_image_less_is_held(monkeypatch):
    network, x = SpatioTemporalResNet(2, 16), torch.randn(2, 2, 4, 6, 5)
    held = []
    for exact in (True, False):
        monkeypatch.setattr(spatiotemporal, "is_kept_exactly", lambda exact=exact: exact)
        with HeldForBackward(exclude=network.parameters()) as holding:
            network(x)
        held.append(holding.peak_bytes)
    assert held[1] - held[0] == 16 * 2 * 4 * 6 * 5 * 4


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_plan_does_what_its_device_does(device, taken, monkeypatch):
    monkeypatch.setattr(spatiotemporal, "_FEWEST_CHANNELS_ON_GPU", 1)
    monkeypatch.setattr(spatiotemporal, "_FEWEST_NUMBERS_ON_GPU", 1)
    cfg = config()
    cfg.MODEL.DEVICE, cfg.SOLVER.TRAIN_BATCH_SIZE = device, 1
    cfg.MISC.GREEDY = GreedyConfig.from_cfg(cfg).as_node()
    _plan(cfg, Example.from_shape(cfg, (8, 7, 3, 2)))
    assert bool(taken) == (device == "cpu")
