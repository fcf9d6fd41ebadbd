"""The parts of cine against the same from stock parts."""

import argparse
import copy
from typing import Any, Callable, Dict

import numpy as np
import torch
from meddlr.forward import SenseModel
from meddlr.modeling import build_model
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from sigpy.mri.app import EspiritCalib
from torch import nn

from meddlr_greedy.modeling.regularizers.spatiotemporal import (
    SpatioTemporalConv,
    SpatioTemporalResBlock,
    SpatioTemporalResNet,
)
from meddlr_greedy.ops.acquisition import acquire, coil_sensitivities
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.espirit import espirit_maps
from meddlr_greedy.preparation.phantom import beating_heart
from projects.cine.benchmarks.steps import training_step
from projects.cine.support.measuring import Step, interleave, make_batch, make_cfg, ratio


def forward_backward(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Step:
    leaf = x.clone().requires_grad_()
    return lambda: function(leaf).abs().sum().backward()


class StockConv(nn.Module):
    """The (2+1)D convolution written with two Conv3d."""

    def __init__(self, conv: SpatioTemporalConv):
        super().__init__()
        mid, c_in, k, _ = conv.spatial.weight.shape
        self.spatial = nn.Conv3d(c_in, mid, (1, k, k), padding=(0, k // 2, k // 2))
        self.temporal = nn.Conv3d(
            mid, conv.temporal.weight.shape[0], (k, 1, 1), padding=(k // 2, 0, 0), padding_mode="circular"
        )
        self.spatial.load_state_dict({"weight": conv.spatial.weight[:, :, None], "bias": conv.spatial.bias})
        self.temporal.load_state_dict({"weight": conv.temporal.weight[..., None], "bias": conv.temporal.bias})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.temporal(torch.relu_(self.spatial(x)))


def with_conv3d(module: nn.Module) -> nn.Module:
    """The same (2+1)D block or network, its convolutions replaced by :class:`StockConv`."""
    for child in module.modules():
        for name, part in list(child.named_children()):
            if isinstance(part, SpatioTemporalConv):
                setattr(child, name, StockConv(part))
    return module


class StockCine(GeneralizedUnrolledCNN):
    """A cine network from stock parts: meddlr's SenseModel on (B, H, W, T, C), Conv3d."""

    def reg(self, *, image: torch.Tensor, model: nn.Module, dims: Any) -> torch.Tensor:
        x = torch.view_as_real(image)
        num_batch, height, width, frames, num_maps, _ = x.shape
        x = model(x.reshape(num_batch, height, width, frames, 2 * num_maps).permute(0, 4, 3, 1, 2))
        x = x.permute(0, 3, 4, 2, 1).reshape(num_batch, height, width, frames, num_maps, 2)
        return torch.view_as_complex(x.contiguous())


def parts(args: argparse.Namespace) -> Dict[str, Any]:
    """The cine parts against the same from stock parts."""
    device = args.device
    rows = []

    def compare(name: str, ours: Step, stock: Step, rounds: int, **extra: float) -> None:
        seconds = interleave({"ours": ours, "stock": stock}, args.rounds or rounds)
        rows.append({"part": name, **ratio(seconds["stock"], seconds["ours"]), **extra})

    batch = make_batch(device, (64, 160, 20), num_coils=8)
    image = batch["target"]
    A, sense = CineSenseModel(batch["maps"], batch["mask"]), SenseModel(batch["maps"], weights=batch["mask"])

    def stock_normal(x: torch.Tensor) -> torch.Tensor:
        return sense(sense(x), adjoint=True)

    error = ((A.normal(image) - stock_normal(image)).norm() / stock_normal(image).norm()).item()
    compare(
        "A^H A, (1, 64, 160, 20, 8)",
        forward_backward(A.normal, image),
        forward_backward(stock_normal, image),
        rounds=30,
        relative_difference=error,
    )

    block = SpatioTemporalResBlock(16).to(device)
    stock_block = with_conv3d(copy.deepcopy(block))
    x = torch.randn(1, 16, 20, 64, 96, device=device)
    # Each side in the layout it is fast in.
    x_ours = x.contiguous(memory_format=torch.channels_last_3d)
    error = ((block(x_ours) - stock_block(x)).norm() / stock_block(x).norm()).item()
    compare(
        "(2+1)D block, 16 features, (20, 64, 96)",
        forward_backward(block, x_ours),
        forward_backward(stock_block, x),
        rounds=15,
        relative_difference=error,
    )

    rng = np.random.default_rng(0)
    size = (256, 256)
    kspace = acquire(beating_heart(size, 1, 0.5, rng), coil_sensitivities(size, 8, rng), size, 0.01, rng)[:, 0]
    on_device = torch.from_numpy(kspace).to(device)

    def stock_maps() -> np.ndarray:
        return EspiritCalib(kspace, calib_width=20, crop=0, show_pbar=False).run()

    ours_maps, theirs = espirit_maps(kspace, crop=0)[..., 0], stock_maps().transpose(1, 2, 0)
    # What of ours lies outside the direction of theirs: ESPIRiT leaves the phase free.
    outside = ours_maps - theirs * (theirs.conj() * ours_maps).sum(-1, keepdims=True)
    compare(
        "ESPIRiT, one map set, (8, 256, 256)",
        lambda: espirit_maps(on_device, crop=0),
        stock_maps,
        rounds=10,
        relative_difference=float(np.linalg.norm(outside) / np.linalg.norm(ours_maps)),
    )

    small = make_batch(device, (64, 96, 12), num_coils=8)
    cfg = make_cfg(device, "CineUnrolledCNN", 2, 16)
    network = build_model(cfg)
    blocks = nn.ModuleList(SpatioTemporalResNet(cfg) for _ in range(2))
    blocks.load_state_dict(network.resnets.state_dict())
    stock = StockCine(with_conv3d(blocks), step_sizes=-2.0).to(device)
    network.to(device).eval(), stock.eval()
    with torch.no_grad():
        ours_pred = network(small)["pred"]
        stock_pred = stock({**small, "kspace": small["kspace"].clone()})["pred"]
    error = ((ours_pred - stock_pred).norm() / stock_pred.norm()).item()
    compare(
        "cine training step, 2 unrolled steps, 16 features, (64, 96, 12, 8)",
        training_step(cfg, network, small),
        training_step(cfg, stock, small, loss="BasicLossComputer"),
        rounds=10,
        relative_difference=error,
    )
    return {"rows": rows}
