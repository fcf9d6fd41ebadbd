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


def gradients(device, modules, shape=(24, 20, 6), features=8):
    torch.manual_seed(0)
    model = build_model(make_cfg("cpu", "CineUnrolledCNN", 4, features, modules)).to(device).train()
    batch = make_batch(device, shape, num_coils=3)
    complex_l1(model(batch)["pred"], batch["target"]).backward()
    return [p.grad.cpu() for p in model.parameters()]


@pytest.mark.parametrize("modules", [1, 4])
def test_gradients_agree_with_the_cpu(modules):
    for a, b in zip(gradients("cuda", modules), gradients("cpu", modules)):
        assert (a - b).norm() <= 1e-3 * b.norm() + 1e-7


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
