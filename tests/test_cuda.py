"""On a CUDA device: the same training as on the CPU, and peak memory that falls with the number of modules."""

import pytest
import torch
from meddlr.modeling import build_model

from meddlr_greedy.engine.graphed_step import GraphedStep
from meddlr_greedy.engine.step import TrainingStep
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.regularizers import spatiotemporal
from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalResNet
from meddlr_greedy.modeling.regularizers.temporal_convolution import relu_and_products
from meddlr_greedy.train_net import main
from projects.cine.support.measuring import make_batch, make_cfg

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def tf32(request, monkeypatch):
    """Whether convolutions may use TF32, as ``MISC.GREEDY.RUN.TF32`` says it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", request.param)
    return request.param


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def gradients(device, modules, shape=(24, 20, 6), features=8, dtype=torch.float32):
    torch.manual_seed(0)
    model = build_model(make_cfg("cpu", "CineUnrolledCNN", 4, features, modules)).to(device, dtype).train()
    batch = make_batch(device, shape, num_coils=3)
    batch = {key: x.to(dtype.to_complex() if x.is_complex() else dtype) for key, x in batch.items()}
    complex_l1(model(batch)["pred"], batch["target"]).backward()
    return [p.grad.cpu() for p in model.parameters()]


def relative_errors(found, expected):
    return sorted(((a - b).norm() / b.norm().clamp(min=1e-7)).item() for a, b in zip(found, expected))


@pytest.mark.parametrize("modules", [1, 4])
def test_gradients_are_those_of_the_cpu_in_float64(modules):
    """Where nothing rounds enough to turn the sign of an activation, which changes the gradient by a pixel's share."""
    for a, b in zip(gradients("cuda", modules, dtype=torch.float64), gradients("cpu", modules, dtype=torch.float64)):
        assert (a - b).norm() <= 1e-10 * b.norm() + 1e-14


@pytest.mark.parametrize("tf32", [False], indirect=True)
@pytest.mark.parametrize("modules", [1, 4])
def test_gradients_agree_with_the_cpu(modules, tf32):
    errors = relative_errors(gradients("cuda", modules), gradients("cpu", modules))
    assert errors[len(errors) // 2] <= 1e-3 and errors[-1] <= 3e-2, errors


@pytest.mark.parametrize("tf32", [True], indirect=True)
@pytest.mark.parametrize("modules", [1, 4])
def test_gradients_agree_roughly_where_convolutions_round(modules, tf32):
    """10 bits of mantissa: a median of 6e-3 and at most 4e-2 have been estimated."""
    errors = relative_errors(gradients("cuda", modules), gradients("cpu", modules))
    assert errors[len(errors) // 2] <= 3e-2 and errors[-1] <= 0.2


def test_peak_memory_falls_with_modules():
    def peak(modules):
        gradients("cuda", modules, shape=(64, 64, 12), features=32)
        torch.cuda.reset_peak_memory_stats()
        gradients("cuda", modules, shape=(64, 64, 12), features=32)
        return torch.cuda.max_memory_allocated()

    assert peak(4) < 0.5 * peak(1)


def test_trains_with_measurements(write_config):
    config = write_config(data="beat", arch="CineUnrolledCNN")
    results = main(["--config-file", str(config), "MODEL.DEVICE", "cuda"])
    assert results["beat_val"]["val_psnr"] > 0


def test_same_bits_again_with_deterministic_algorithms(deterministic):
    """Without them cuDNN may add up gradients of weights in another order each time."""
    assert all(map(torch.equal, gradients("cuda", 4), gradients("cuda", 4)))


@pytest.mark.parametrize(
    ("arch", "shape", "keys"),
    [
        ("GeneralizedUnrolledCNN", (24, 20), {}),
        ("CineUnrolledCNN", (24, 20, 6), {}),
        ("CineUnrolledCNN", (24, 20, 6), {"MISC.GREEDY.NUM_MODULES": 1}),
        ("CineUnrolledCNN", (24, 20, 6), {"MISC.GREEDY.AMP": "bf16"}),
        ("CineUnrolledCNN", (24, 20, 6), {"MISC.GREEDY.CHECKPOINT": "block"}),
        ("CineUnrolledCNN", (24, 20, 6), {"MISC.GREEDY.TILE": (12, 0)}),
        ("CGCineUnrolledCNN", (24, 20, 6), {"MODEL.UNROLLED.STEP_SIZES": (0.5,)}),
        (
            "CGCineUnrolledCNN",
            (24, 20, 6),
            {"MODEL.UNROLLED.STEP_SIZES": (0.5,), "MISC.GREEDY.CG_BACKWARD": "implicit"},
        ),
    ],
    ids=str,
)
def test_a_graph_gives_the_bits_of_a_plain_step(arch, shape, keys, deterministic):
    cfg = make_cfg("cuda", arch, 4, 8, 4).clone().defrost()
    for key, value in keys.items():
        cfg.set_recursive(key, value)
    batches = [make_batch("cuda", (height, *shape[1:]), num_coils=3) for height in (24, 24, 28, 24)]
    batches = [{**batch, "constant_along_readout": True} for batch in batches]  # as the loader says
    weights, losses = [], []
    for kind in (TrainingStep, GraphedStep):
        torch.manual_seed(0)
        step = kind.from_config(cfg.clone().freeze())
        results = [step({**batch, "target": batch["target"] * (i + 1)}, i) for i, batch in enumerate(batches)]
        losses.append([result.losses for result in results])
        weights.append([p.detach().clone() for p in step.model.parameters()])
    assert losses[0] == losses[1] and len({result["total_loss"] for result in losses[0]}) == 4
    assert all(map(torch.equal, *weights))


def test_what_draws_random_numbers_has_no_graph():
    cfg = make_cfg("cuda", "CineUnrolledCNN", 2, 4, 2).clone().defrost()
    cfg.MODEL.UNROLLED.DROPOUT = 0.2
    with pytest.raises(UserError, match="draws random numbers"):
        GraphedStep.from_config(cfg.freeze())(make_batch("cuda", (24, 20, 6), num_coils=3), 0)


@pytest.mark.parametrize("tf32", [False, True], indirect=True)
def test_products_round_as_convolutions_may(tf32):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 6, 4000, 96), torch.randn(64, 96, 3, 1) / 17, torch.randn(64)
    expected = relu_and_products(x.double(), weight.double(), bias.double())
    found = relu_and_products(x.cuda(), weight.cuda(), bias.cuda()).cpu()
    error = ((found - expected).norm() / expected.norm()).item()
    assert (1e-5 < error < 1e-3) if tf32 else error < 1e-6
    assert torch.get_float32_matmul_precision() == "highest"


def test_wide_layers_train_by_products(monkeypatch, deterministic):
    monkeypatch.setattr(spatiotemporal, "_FEWEST_NUMBERS_ON_GPU", 1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    network = SpatioTemporalResNet(2, 32).double()
    image = torch.randn(2, 2, 5, 12, 10, dtype=torch.float64)
    found = []
    for device in ("cpu", "cuda"):
        network.to(device)
        out = network(image.to(device))
        found.append([x.cpu() for x in (out, *torch.autograd.grad(out.square().sum(), list(network.parameters())))])
    for a, b in zip(*found):
        assert (a - b).norm() <= 1e-10 * a.norm() + 1e-12
