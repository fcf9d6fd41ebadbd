"""The convolution in the plane whose weight gets its gradient from products, against torch's convolution."""

import pytest
import torch
import torch.nn.functional as F
from meddlr.modeling import build_model

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.regularizers import spatial_convolution, spatiotemporal
from meddlr_greedy.modeling.regularizers.spatial_convolution import convolution
from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalConv
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import _plan
from meddlr_greedy.planning.trace import traced
from projects.cine.support.measuring import make_batch
from tests.helpers.networks import shapes_given_to, small_config

NAMES = ("x", "weight", "bias")


def operands(frames, channels, out_channels, size, kernel, dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(frames, *size, channels, dtype=dtype).permute(0, 3, 1, 2)
    weight, bias = torch.randn(out_channels, channels, *kernel, dtype=dtype), torch.randn(out_channels, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (x, weight, bias)]


@pytest.fixture(params=[1, 200, 2**18], ids="{} columns".format)
def block(request, monkeypatch):
    """How much is there at once: one line, a few, the whole frame."""
    monkeypatch.setattr(spatial_convolution, "_NUMBERS_OF_COLUMNS", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("kernel", "padding"),
    [((k, k), (k // 2, k // 2)) for k in (1, 3, 5)] + [((3, 3), (0, 0)), ((3, 3), (1, 0)), ((3, 5), (0, 2))],
)
@pytest.mark.parametrize(("frames", "channels", "out_channels", "size"), [(3, 4, 7, (11, 9)), (1, 3, 2, (6, 13))])
def test_image_and_gradients_are_those_of_torch(frames, channels, out_channels, size, kernel, padding, dtype):
    tensors = operands(frames, channels, out_channels, size, kernel, dtype)
    found, expected = convolution(*tensors, padding), F.conv2d(*tensors, padding=padding)
    assert torch.equal(found, expected)
    grad = torch.randn_like(expected)
    gradients = [torch.autograd.grad(out, tensors, grad) for out in (found, expected)]
    for name, a, b in zip(NAMES, *gradients):
        assert a.shape == b.shape and b.norm() > 0
        assert (a - b).norm() <= (1e-12 if dtype == torch.float64 else 3e-5) * b.norm(), name


@pytest.mark.parametrize("padding", [(1, 1), (0, 1)])
def test_derivatives_against_finite_differences(padding):
    tensors = operands(2, 2, 2, (3, 4), (3, 3))
    assert torch.autograd.gradcheck(lambda *t: convolution(*t, padding), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: convolution(*t, padding), tensors)


@pytest.mark.parametrize("wanted", [[0], [1], [2], [0, 2]])
@pytest.mark.parametrize("again", [False, True])
def test_gradients_of_some(wanted, again):
    tensors = operands(2, 3, 2, (5, 4), (3, 3))
    for i, tensor in enumerate(tensors):
        tensor.requires_grad_(i in wanted)
    leaves = [tensors[i] for i in wanted]
    found, expected = (
        torch.autograd.grad(out.square().sum(), leaves, create_graph=again)
        for out in (convolution(*tensors, (1, 1)), F.conv2d(*tensors, padding=1))
    )
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("size", "kernel", "padding"), [((5, 4), (3, 3), (1, 1)), ((9, 1), (3, 1), (0, 0))])
def test_any_order_of_memory(size, kernel, padding):
    """Of the image; the gradient of a sum is a single number."""
    tensors = operands(2, 3, 2, size, kernel)
    tensors[0] = tensors[0].detach().contiguous().requires_grad_()
    found, expected = (
        torch.autograd.grad(out.sum(), tensors)
        for out in (convolution(*tensors, padding), F.conv2d(*tensors, padding=padding))
    )
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


def test_under_autocast_the_gradient_is_of_float32():
    tensors = operands(2, 3, 2, (5, 4), (3, 3), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        outs = convolution(*tensors, (1, 1)), F.conv2d(*tensors, padding=1)
    assert torch.equal(*outs)
    found, expected = (torch.autograd.grad(out.float().sum(), tensors) for out in outs)
    for a, b in zip(found, expected):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 0.01 * b.norm()


def test_columns_of_few_lines_are_there_at_once(monkeypatch):
    """Beside the gradient, its copy in order, and one padded frame."""
    frames, channels, height, width = 6, 8, 40, 30
    peaks = {}
    for lines in (2, height):
        monkeypatch.setattr(spatial_convolution, "_NUMBERS_OF_COLUMNS", lines * width * 3 * channels)
        with traced() as trace:
            x = torch.empty(frames, height, width, channels).permute(0, 3, 1, 2)
            weight = torch.empty(8, channels, 3, 3, requires_grad=True)
            out = convolution(x, weight, None, (1, 1))
            grad, before = torch.empty_like(out), trace.alive
            trace.reset_peak()
            torch.autograd.grad(out, weight, grad)
            peaks[lines] = (trace.peak - before) / (4 * width * channels)  # in lines of one frame
    assert 3 * 4 < peaks[2] < 3 * 4 + (height + 2) * 32 / 30 + 4  # the gradient are 2.4 lines
    assert 3 * (height - 2) - 1 < peaks[height] - peaks[2] < 3 * (height - 2) + 1


@pytest.mark.parametrize(("wanted", "products"), [((0, 1, 2), 3), ((0,), 2), ((1,), 2), ((2,), 1)])
def test_operations_of_a_plan_are_those_of_the_convolution(wanted, products):
    """What no gradient is wanted of is not computed."""
    counted = []
    for convolve in (convolution, lambda x, weight, bias, padding: F.conv2d(x, weight, bias, padding=padding)):
        with traced() as trace:
            shapes = (6, 16, 30, 20), (24, 16, 3, 3), (24,)
            tensors = [torch.empty(shape, requires_grad=i in wanted) for i, shape in enumerate(shapes)]
            trace.reset_work()
            convolve(*tensors, (1, 1)).sum().backward()
        counted.append(trace.operations)
    expected = products * 2 * (6 * 30 * 20) * 24 * 16 * 9
    assert all(expected < operations < 1.1 * expected for operations in counted)


# ---- which of the two a layer takes


@pytest.fixture
def taken(monkeypatch):
    """One element for each convolution that took products."""
    return shapes_given_to(monkeypatch, spatiotemporal, "convolution")


@pytest.mark.parametrize(
    ("changes", "products"),
    [
        ({}, True),
        ({"training": False}, False),
        ({"channels": 15, "size": (68, 68)}, False),
        ({"out_channels": 1}, False),
        ({"size": (62, 66)}, False),
        ({"dtype": torch.float64}, True),
        ({"dtype": torch.bfloat16}, False),
    ],
    ids=str,
)
def test_wide_layers_on_large_images_take_products_in_training(changes, products, taken):
    case = {"training": True, "channels": 16, "out_channels": 16, "size": (66, 66), "dtype": torch.float32, **changes}
    conv = SpatioTemporalConv(case["channels"], case["out_channels"]).to(case["dtype"]).train(case["training"])
    conv(torch.randn(1, case["channels"], 2, *case["size"], dtype=case["dtype"]))
    assert bool(taken) == products


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_plan_does_what_its_device_does(device, taken, monkeypatch):
    monkeypatch.setattr(spatiotemporal, "_FEWEST_CHANNELS_IN_SPACE", 1)
    monkeypatch.setattr(spatiotemporal, "_FEWEST_NUMBERS_OF_A_FRAME", 1)
    cfg = small_config("CineUnrolledCNN")
    cfg.MODEL.DEVICE, cfg.SOLVER.TRAIN_BATCH_SIZE = device, 1
    cfg.MISC.GREEDY = GreedyConfig.from_cfg(cfg).as_node()
    _plan(cfg, Example.from_shape(cfg, (8, 7, 3, 2)))
    assert bool(taken) == (device == "cpu")


@pytest.mark.parametrize(
    "greedy",
    [
        {"NUM_MODULES": 1, "CHECKPOINT": True},
        {"NUM_MODULES": 2, "OVERLAP": 1, "PADDING": "circular"},
        {"NUM_MODULES": 2, "PADDING": "phase_encode"},
        {"NUM_MODULES": 2, "TILE": [9, 8]},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_networks_train_as_with_convolutions(kernel_size, greedy, taken, monkeypatch):
    batch, found = make_batch("cpu", (19, 17, 5), num_coils=3), []
    batch = {k: v.to(torch.complex128 if v.is_complex() else torch.float64) for k, v in batch.items()}
    for fewest in (1, 10**9):
        monkeypatch.setattr(spatiotemporal, "_FEWEST_CHANNELS_IN_SPACE", fewest)
        monkeypatch.setattr(spatiotemporal, "_FEWEST_NUMBERS_OF_A_FRAME", fewest)
        torch.manual_seed(0)
        cfg = small_config("CineUnrolledCNN", **greedy)
        cfg.MODEL.UNROLLED.KERNEL_SIZE = (kernel_size,)
        model = build_model(cfg).double().train()
        complex_l1(model(batch)["pred"], batch["target"]).backward()
        found.append((len(taken), {name: p.grad for name, p in model.named_parameters()}))
    assert 0 < found[0][0] == found[1][0]  # the second network took none
    for name, expected in found[1][1].items():
        assert (found[0][1][name] - expected).norm() <= 1e-12 * expected.norm(), name
