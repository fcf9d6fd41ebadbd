"""The convolution along time as matrix products, against torch's convolution, in whole steps of a cine network."""

import copy
import time
from typing import Any, Dict, List, NamedTuple

import torch
from meddlr.modeling import build_loss_computer, build_model
from torch import nn

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.modeling.regularizers.spatiotemporal import SpatioTemporalConv
from projects.cine.benchmarks.options import Options
from projects.cine.benchmarks.parts import with_convolutions
from projects.cine.benchmarks.steps import training_step
from projects.cine.support.measuring import Batch, Step, interleave, make_batch, make_cfg, quartiles
from projects.cine.support.tables import ratio_as_text

__all__ = ["FEATURES", "FRAMES", "IMAGE", "NUM_COILS", "SMALL_IMAGE", "temporal"]

#: The networks and examples that are measured, of 2 unrolled steps with 2 residual blocks.
FEATURES, FRAMES, IMAGE, NUM_COILS = (16, 32, 64), (12, 20), (64, 48), 8
#: Of a dry run.
SMALL_IMAGE = (12, 10)


class _Convolving(SpatioTemporalConv):
    """Convolves along time with torch's convolution in training, too."""

    def __init__(self, conv: SpatioTemporalConv):
        spatial, temporal = conv.spatial, conv.temporal
        super().__init__(spatial.in_channels, temporal.out_channels, temporal.kernel_size[0], conv.pad)
        self.load_state_dict(conv.state_dict())

    def takes_products(self, x: torch.Tensor) -> bool:  # noqa: ARG002 (as of the class)
        return False


class _Side(NamedTuple):
    """A network, and its runs on one batch."""

    model: nn.Module
    train: Step
    infer: Step


def temporal(options: Options) -> Dict[str, Any]:
    """Processor time of training and inference and bytes held over those with torch's convolution."""
    rows = []
    raw: List[Dict[str, List[float]]] = []
    for features in FEATURES:
        for frames in FRAMES:
            cfg = make_cfg(options.device, "CineUnrolledCNN", 2, features)
            batch = make_batch(options.device, (*(SMALL_IMAGE if options.small else IMAGE), frames), NUM_COILS)
            torch.manual_seed(0)
            ours = build_model(cfg).to(options.device)
            models = {"ours": ours, "torch": with_convolutions(copy.deepcopy(ours), _Convolving)}
            errors = _errors(cfg, models, batch)
            sides = {name: _side(cfg, model, batch) for name, model in models.items()}
            held = {name: _held(side, batch) for name, side in sides.items()}
            runs = {f"train {name}": side.train for name, side in sides.items()}
            runs.update({f"infer {name}": side.infer for name, side in sides.items()})
            found = interleave(runs, options.rounds or 15, warmup=2, clock=time.process_time)
            rows.append(
                {
                    "features": features,
                    "frames": frames,
                    "training step": ratio_as_text(quartiles(found["train ours"], found["train torch"]), 2),
                    "bytes held": held["ours"] / held["torch"],
                    "inference": ratio_as_text(quartiles(found["infer ours"], found["infer torch"]), 2),
                    "error of gradient": errors["ours"],
                    "error of torch's": errors["torch"],
                }
            )
            raw.append(found)
    return {"rows": rows, "all": raw}


def _side(cfg: Any, model: nn.Module, batch: Batch) -> _Side:
    train = training_step(cfg, model, batch)

    def train_in_mode() -> None:
        model.train()
        train()

    def infer() -> None:
        model.eval()
        with torch.no_grad():
            model(batch)

    return _Side(model, train_in_mode, infer)


def _held(side: _Side, batch: Batch) -> int:
    with HeldForBackward(exclude=[*side.model.parameters(), *batch.values()]) as held:
        side.train()
    return held.peak_bytes


def _gradient(cfg: Any, model: nn.Module, batch: Batch) -> torch.Tensor:
    """The gradient of all parameters, in double precision."""
    model.train()
    build_loss_computer(cfg, "LeanLossComputer")(batch, model(batch))["loss"].backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


def _errors(cfg: Any, models: Dict[str, nn.Module], batch: Batch) -> Dict[str, float]:
    """Relative differences of gradients from that of the same network in double precision.

    A ReLU whose input rounds to the other side of 0 passes another gradient, whichever way it is computed.
    """
    in_double = {name: x.to(torch.complex128 if x.is_complex() else torch.float64) for name, x in batch.items()}
    exact = _gradient(cfg, copy.deepcopy(models["torch"]).double(), in_double)
    found = {name: _gradient(cfg, copy.deepcopy(model), batch) for name, model in models.items()}
    return {name: float((gradient - exact).norm() / exact.norm()) for name, gradient in found.items()}
