"""The parts of the cine networks against the same from stock parts."""

import copy
from dataclasses import dataclass
from typing import Any, Callable, Dict

import numpy as np
import torch
from meddlr.forward import SenseModel
from meddlr.modeling import build_model
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from sigpy.mri.app import EspiritCalib
from torch import nn

from meddlr_greedy.modeling.regularizers.spatiotemporal import (
    ResBlock,
    SpatioTemporalConv,
    SpatioTemporalResNet,
)
from meddlr_greedy.ops.acquisition import acquire, coil_sensitivities
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.espirit import espirit_maps
from meddlr_greedy.readers.simulation.beating_heart import beating_heart
from projects.cine.benchmarks.options import Options
from projects.cine.benchmarks.steps import training_step
from projects.cine.support.measuring import Step, interleave, make_batch, make_cfg, ratio

__all__ = ["StockCine", "StockConv", "parts", "with_convolutions"]


@dataclass(frozen=True)
class _Comparison:
    """A part, and the same from stock parts.

    Attributes:
        name: With the size of the example.
        ours: Runs the part.
        stock: Runs the stock one.
        rounds: How often both run.
        relative_difference: Norm of the difference of their results over that of the stock one.
    """

    name: str
    ours: Step
    stock: Step
    rounds: int
    relative_difference: float


def parts(options: Options) -> Dict[str, Any]:
    """Time of stock parts over that of ours, and how far their results differ."""
    rows = []
    for make in (_normal_operator, _regularizer_block, _espirit, _cine_training_step):
        case = make(options.device)
        seconds = interleave({"ours": case.ours, "stock": case.stock}, options.rounds or case.rounds)
        times = ratio(seconds["stock"], seconds["ours"])
        rows.append({"part": case.name, **times, "relative_difference": case.relative_difference})
    return {"rows": rows}


def _forward_backward(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Step:
    leaf = x.clone().requires_grad_()
    return lambda: function(leaf).abs().sum().backward()


class StockConv(nn.Module):
    """The (2+1)D convolution written with two Conv3d.

    Args:
        conv: The convolution; its weights are copied.
    """

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
        """(B, C_in, T, H, W) -> (B, C_out, T, H, W)."""
        return self.temporal(torch.relu_(self.spatial(x)))


def with_convolutions(
    module: nn.Module, convolution: Callable[[SpatioTemporalConv], nn.Module] = StockConv
) -> nn.Module:
    """The same (2+1)D block or network, with what ``convolution`` makes of each of its convolutions in their place."""
    for child in module.modules():
        for name, part in list(child.named_children()):
            if isinstance(part, SpatioTemporalConv):
                setattr(child, name, convolution(part))
    return module


class StockCine(GeneralizedUnrolledCNN):
    """A cine network from stock parts: meddlr's SenseModel on (B, H, W, T, C), Conv3d."""

    def reg(self, *, image: torch.Tensor, model: nn.Module, dims: Any) -> torch.Tensor:  # noqa: ARG002 (meddlr's)
        """One regularizer on a complex image (B, H, W, T, M), with real and imaginary parts as channels."""
        x = torch.view_as_real(image)
        num_batch, height, width, frames, num_maps, _ = x.shape
        x = model(x.reshape(num_batch, height, width, frames, 2 * num_maps).permute(0, 4, 3, 1, 2))
        x = x.permute(0, 3, 4, 2, 1).reshape(num_batch, height, width, frames, num_maps, 2)
        return torch.view_as_complex(x.contiguous())


def _normal_operator(device: str) -> _Comparison:
    batch = make_batch(device, (64, 160, 20), num_coils=8)
    image = batch["target"]
    ours, sense = CineSenseModel(batch["maps"], batch["mask"]), SenseModel(batch["maps"], weights=batch["mask"])

    def stock(x: torch.Tensor) -> torch.Tensor:
        return sense(sense(x), adjoint=True)

    return _Comparison(
        "A^H A, (1, 64, 160, 20, 8)",
        _forward_backward(ours.normal, image),
        _forward_backward(stock, image),
        rounds=30,
        relative_difference=_relative_difference(ours.normal(image), stock(image)),
    )


def _regularizer_block(device: str) -> _Comparison:
    ours = ResBlock(SpatioTemporalConv, 16).to(device)
    stock = with_convolutions(copy.deepcopy(ours))
    x = torch.randn(1, 16, 20, 64, 96, device=device)
    # Each side in the layout in which it is fast.
    x_ours = x.contiguous(memory_format=torch.channels_last_3d)
    return _Comparison(
        "(2+1)D block, 16 features, (20, 64, 96)",
        _forward_backward(ours, x_ours),
        _forward_backward(stock, x),
        rounds=15,
        relative_difference=_relative_difference(ours(x_ours), stock(x)),
    )


def _espirit(device: str) -> _Comparison:
    rng = np.random.default_rng(0)
    size = (256, 256)
    kspace = acquire(beating_heart(size, 1, 0.5, rng), coil_sensitivities(size, 8, rng), size, 0.01, rng)[:, 0]
    on_device = torch.from_numpy(kspace).to(device)

    def stock() -> np.ndarray:
        return EspiritCalib(kspace, calib_width=20, crop=0, show_pbar=False).run()

    maps, stock_maps = espirit_maps(kspace, crop=0)[..., 0], stock().transpose(1, 2, 0)
    # The part of ours that is not along theirs: ESPIRiT leaves the phase free.
    outside = maps - stock_maps * (stock_maps.conj() * maps).sum(-1, keepdims=True)
    return _Comparison(
        "ESPIRiT, one map set, (8, 256, 256)",
        lambda: espirit_maps(on_device, crop=0),
        stock,
        rounds=10,
        relative_difference=float(np.linalg.norm(outside) / np.linalg.norm(maps)),
    )


def _cine_training_step(device: str) -> _Comparison:
    batch = make_batch(device, (64, 96, 12), num_coils=8)
    cfg = make_cfg(device, "CineUnrolledCNN", 2, 16)
    network = build_model(cfg)
    blocks = nn.ModuleList(SpatioTemporalResNet(cfg) for _ in range(2))
    blocks.load_state_dict(network.resnets.state_dict())
    stock = StockCine(with_convolutions(blocks), step_sizes=-2.0).to(device)
    network.to(device).eval()
    stock.eval()
    with torch.no_grad():
        ours_pred = network(batch)["pred"]
        stock_pred = stock({**batch, "kspace": batch["kspace"].clone()})["pred"]
    return _Comparison(
        "cine training step, 2 unrolled steps, 16 features, (64, 96, 12, 8)",
        training_step(cfg, network, batch),
        training_step(cfg, stock, batch, loss="BasicLossComputer"),
        rounds=10,
        relative_difference=_relative_difference(ours_pred, stock_pred),
    )


def _relative_difference(ours: torch.Tensor, stock: torch.Tensor) -> float:
    return ((ours - stock).norm() / stock.norm()).item()
