"""On a CUDA device: the same training as on the CPU, and peak memory that falls with the number of modules."""

import pytest
import torch
from meddlr.modeling import build_model

from meddlr_greedy.modeling.losses import complex_l1
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


def gradients(device, modules, shape=(24, 20, 6), features=8):
    torch.manual_seed(0)
    model = build_model(make_cfg("cpu", "CineUnrolledCNN", 4, features, modules)).to(device).train()
    batch = make_batch(device, shape, num_coils=3)
    complex_l1(model(batch)["pred"], batch["target"]).backward()
    return [p.grad.cpu() for p in model.parameters()]


@pytest.mark.parametrize("tf32", [False], indirect=True)
@pytest.mark.parametrize("modules", [1, 4])
def test_gradients_agree_with_the_cpu(modules, tf32):
    for a, b in zip(gradients("cuda", modules), gradients("cpu", modules)):
        assert (a - b).norm() <= 1e-3 * b.norm() + 1e-7


@pytest.mark.parametrize("tf32", [True], indirect=True)
@pytest.mark.parametrize("modules", [1, 4])
def test_gradients_agree_roughly_where_convolutions_round(modules, tf32):
    """10 bits of mantissa: a median of 6e-3 and at most 4e-2 have been estimated."""
    pairs = zip(gradients("cuda", modules), gradients("cpu", modules))
    errors = sorted(((a - b).norm() / b.norm().clamp(min=1e-7)).item() for a, b in pairs)
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


def test_same_bits_again_with_deterministic_algorithms(monkeypatch):
    """Without them cuDNN may add up gradients of weights in another order each time."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        first, again = gradients("cuda", 4), gradients("cuda", 4)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, first, again))
