"""The temporal convolution of training, as matrix products, against torch's convolution."""

import pytest
import torch
from meddlr.modeling import build_model

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.regularizers import spatiotemporal, temporal_convolution
from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalConv, SpatioTemporalResNet
from meddlr_greedy.modeling.regularizers.temporal_convolution import relu_and_convolution, relu_and_products
from meddlr_greedy.ops.devices import standing_for
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import _plan
from meddlr_greedy.planning.trace import traced
from projects.cine.support.measuring import make_batch
from tests.helpers.networks import small_config

NAMES = ("x", "weight", "bias")


@pytest.fixture(autouse=True, params=[1, 10**9], ids=["forward by products", "forward by torch"])
def narrow_layers_are_wide_enough(request, monkeypatch):
    monkeypatch.setattr(spatiotemporal, "_FEWEST_CHANNELS_ON_CPU", 1)
    monkeypatch.setattr(temporal_convolution, "_FEWEST_CHANNELS_OF_PRODUCTS", request.param)


def operands(batch, frames, pixels, channels, out_channels, k, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = ((batch, frames, pixels, channels), (out_channels, channels, k, 1), (out_channels,))
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def gradients(convolve, tensors, grad):
    x, *weights = tensors
    out = convolve(x * 1, *weights)  # a copy, which is overwritten
    return out, torch.autograd.grad(out, tensors, grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize(
    ("batch", "frames", "pixels", "channels", "out_channels"),
    [(1, 12, 15, 7, 4), (3, 5, 21, 4, 6), (2, 4, 8, 1, 1), (2, 3, 9, 3, 2)],  # of 3 frames, 7 taps see some thrice
)
def test_image_and_gradients_are_those_of_a_convolution(batch, frames, pixels, channels, out_channels, k, dtype):
    tensors = operands(batch, frames, pixels, channels, out_channels, k, dtype)
    grad = torch.randn(batch, frames, pixels, out_channels, dtype=dtype)
    found, expected = (gradients(convolve, tensors, grad) for convolve in (relu_and_products, relu_and_convolution))
    of_rounding = 1e-12 if dtype == torch.float64 else 3e-5
    assert found[0].is_contiguous()
    for name, a, b in zip(("out", *NAMES), (found[0], *found[1]), (expected[0], *expected[1])):
        assert a.shape == b.shape and b.norm() > 0
        assert (a - b).norm() <= of_rounding * b.norm(), name


def test_kernels_longer_than_the_cycle_see_frames_again():
    x, weight, bias = operands(1, 2, 3, 2, 2, 9)  # further than one cycle, where torch's convolution is not defined
    at = torch.arange(2)
    expected = bias + sum(x.relu()[:, (at + i - 4) % 2] @ weight[:, :, i, 0].T for i in range(9))
    torch.testing.assert_close(relu_and_products(x * 1, weight, bias), expected)


@pytest.mark.parametrize("k", [1, 3])
def test_derivatives_against_finite_differences(k):
    tensors = operands(2, 3, 2, 2, 2, k)

    def convolve(x, weight, bias):
        return relu_and_products(x * 1, weight, bias)

    assert torch.autograd.gradcheck(convolve, tensors)
    assert torch.autograd.gradgradcheck(convolve, tensors)


@pytest.mark.parametrize("wanted", [[0], [1], [2], [0, 2]])
@pytest.mark.parametrize("again", [False, True])
def test_gradients_of_some(wanted, again):
    tensors = operands(1, 4, 5, 3, 2, 3)
    for i, tensor in enumerate(tensors):
        tensor.requires_grad_(i in wanted)
    leaves = [tensors[i] for i in wanted]
    found, expected = (
        torch.autograd.grad(f(tensors[0] * 1, *tensors[1:]).square().sum(), leaves, create_graph=again)
        for f in (relu_and_products, relu_and_convolution)
    )
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (1, 3, 2, 0)])
def test_any_order_of_memory(order):
    """Of the input; the gradient of a sum is a single number."""
    x, *weights = operands(2, 3, 5, 3, 2, 3)
    back = [order.index(axis) for axis in range(4)]
    found, expected = (
        torch.autograd.grad(f((x * 1).permute(order).contiguous().permute(back), *weights).sum(), [x, *weights])
        for f in (relu_and_products, relu_and_convolution)
    )
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


def test_not_a_number_stays_in_its_pixel():
    x, weight, bias = (tensor.detach() for tensor in operands(1, 4, 9, 3, 2, 3))
    x[0, 1, 4] = float("nan")
    reached = relu_and_products(x, weight, bias).isnan().any(dim=-1)[0]
    assert reached[:3, 4].all() and reached.sum() == 3


def test_backward_keeps_one_tensor_and_no_padding():
    x, weight, bias = operands(1, 6, 40, 5, 3, 3)
    x = x * 1
    with HeldForBackward(exclude=(weight, bias)) as held:
        out = relu_and_products(x, weight, bias)
    assert held.peak_bytes == x.numel() * x.itemsize
    out.sum().backward()


# ---- which of the two a layer takes


@pytest.fixture
def taken(monkeypatch):
    """The names of what convolved, in their order."""
    names = []
    for function in (relu_and_products, relu_and_convolution):

        def told(*tensors, function=function):
            names.append(function.__name__)
            return function(*tensors)

        monkeypatch.setattr(spatiotemporal, function.__name__, told)
    return names


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_mode_decides_and_no_graph(training, grad, taken):
    conv = SpatioTemporalConv(2, 3).train(training)
    with torch.set_grad_enabled(grad):
        conv(torch.randn(1, 2, 4, 5, 6))
    assert taken == ["relu_and_products" if training else "relu_and_convolution"]


@pytest.mark.parametrize(("channels", "takes"), [(13, True), (12, False)])
def test_a_cpu_takes_products_but_of_narrow_layers(channels, takes, monkeypatch):
    monkeypatch.setattr(spatiotemporal, "_FEWEST_CHANNELS_ON_CPU", 13)
    assert SpatioTemporalConv(2, 3).takes_products(torch.empty(1, 2, 4, channels)) == takes


@pytest.mark.parametrize("channels", [1, 2])
def test_the_forward_of_few_channels_is_that_of_torch(channels, monkeypatch):
    monkeypatch.setattr(temporal_convolution, "_FEWEST_CHANNELS_OF_PRODUCTS", 2)
    x, weight, bias = operands(1, 4, 9, channels, 3, 3)
    with traced() as trace, torch.no_grad():
        relu_and_products(*(torch.empty(t.shape) for t in (x, weight, bias)))
    kinds = [operation.function.overloadpacket for _, operation in trace.work.operations()]
    assert (torch.ops.aten.convolution in kinds) == (channels < 2)
    assert (torch.ops.aten.addmm_ in kinds) == (channels == 2)


@pytest.mark.parametrize(
    ("channels", "pixels", "takes"), [(64, 16, True), (63, 64, False), (64, 15, False), (128, 8, True)]
)
def test_a_gpu_takes_products_of_wide_and_large_layers(channels, pixels, takes, monkeypatch):
    monkeypatch.setattr(spatiotemporal, "_FEWEST_NUMBERS_ON_GPU", 2 * 64 * 16)
    conv, x = SpatioTemporalConv(2, 3), torch.empty(1, 2, pixels, channels)
    with standing_for(torch.device("cuda")):
        assert conv.takes_products(x) == takes
        assert not conv.eval().takes_products(x)
    assert conv.train().takes_products(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(3, 2, 4, 9, 7), (1, 2, 5, 8, 8)])
def test_both_modes_give_the_same_image_and_gradients(shape, kernel_size, dtype):
    torch.manual_seed(0)
    network = SpatioTemporalResNet(2, 6, kernel_size=kernel_size).to(dtype)
    x = torch.randn(shape, dtype=dtype)
    results = []
    for training in (True, False):
        out = network.train(training)(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(network.parameters()))])
    for found, expected in zip(*results):
        assert (found - expected).norm() <= (1e-12 if dtype == torch.float64 else 3e-5) * expected.norm()


def test_bfloat16_convolves(taken):
    conv = SpatioTemporalConv(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        conv(torch.randn(1, 2, 4, 5, 6))
    assert taken == ["relu_and_convolution"]


@pytest.mark.parametrize(("device", "name"), [("cuda", "relu_and_convolution"), ("cpu", "relu_and_products")])
def test_a_plan_does_what_its_device_does(device, name, taken):
    cfg = small_config("CineUnrolledCNN")
    cfg.MODEL.DEVICE, cfg.SOLVER.TRAIN_BATCH_SIZE = device, 1
    cfg.MISC.GREEDY = GreedyConfig.from_cfg(cfg).as_node()
    _plan(cfg, Example.from_shape(cfg, (8, 7, 3, 2)))
    assert name in taken and (device == "cpu" or set(taken) == {name})  # in evaluation, both convolve


def test_operations_of_a_plan_are_those_of_the_convolution():
    counted = []
    for convolve in (relu_and_products, relu_and_convolution):
        with traced() as trace:
            x, weight, bias = (torch.empty(s, requires_grad=True) for s in ((2, 6, 40, 30), (20, 30, 3, 1), (20,)))
            trace.reset_work()
            convolve(x * 1, weight, bias).sum().backward()
        counted.append(trace.operations)
    products = 3 * 2 * (2 * 6 * 40) * 20 * 30 * 3
    assert all(products < operations < 1.1 * products for operations in counted)


@pytest.mark.parametrize(
    "greedy",
    [{"NUM_MODULES": 1, "CHECKPOINT": True}, {"NUM_MODULES": 2, "OVERLAP": 1}, {"NUM_MODULES": 2, "TILE": [9, 8]}],
    ids=str,
)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_networks_train_as_with_convolutions(greedy, dropout, monkeypatch):
    batch, found = make_batch("cpu", (19, 17, 5), num_coils=3), []
    batch = {k: v.to(torch.complex128 if v.is_complex() else torch.float64) for k, v in batch.items()}
    for convolve in (relu_and_products, relu_and_convolution):
        monkeypatch.setattr(spatiotemporal, "relu_and_products", convolve)
        torch.manual_seed(0)
        cfg = small_config("CineUnrolledCNN", **greedy)
        cfg.MODEL.UNROLLED.DROPOUT = dropout
        model = build_model(cfg).double().train()
        complex_l1(model(batch)["pred"], batch["target"]).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in found[1].items():
        assert (found[0][name] - expected).norm() <= 1e-12 * expected.norm(), name


def test_what_is_wanted_is_not_overwritten():
    x = torch.randn(1, 3, 2, 4, requires_grad=True)
    with pytest.raises(AssertionError, match="wanted"):
        relu_and_products(x, torch.randn(5, 4, 3, 1), torch.randn(5))
