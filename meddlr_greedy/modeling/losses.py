"""meddlr's reconstruction losses, each computed alone.

meddlr's ``BasicLossComputer`` computes every image metric, two SSIMs among them, at every step and with autograd,
whatever the loss is. Here only the loss is differentiated; names and values are meddlr's (``MODEL.RECON_LOSS.NAME``).

Without targets (``MISC.GREEDY.CINE.LOSS_LINES``), the image's k-space is compared with what was measured on lines that
the network was not given: Yaman et al., "Self-supervised learning of physics-guided reconstruction neural networks
without fully sampled reference data" (SSDU), MRM 2020.
"""

from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union

import meddlr.ops as oF
import torch
from meddlr.metrics import functional as mF
from meddlr.metrics.build import build_metrics
from meddlr.modeling.loss_computer import (
    EPS,
    IMAGE_LOSSES,
    KSPACE_LOSSES,
    LOSS_COMPUTER_REGISTRY,
    LossComputer,
    perp_loss,
)
from meddlr.ops import complex as cplx

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.errors import UserError, did_you_mean, first_line
from meddlr_greedy.modeling.pixel_losses import SeparableLoss, pixel_loss
from meddlr_greedy.modeling.problem import MeasuredLines
from meddlr_greedy.registry import LOSS_REGISTRY

__all__ = [
    "LeanLossComputer",
    "LocalLoss",
    "as_local_loss",
    "as_separable_loss",
    "complex_l1",
    "image_metrics",
    "measured_loss",
    "recon_loss",
]

Inputs = Dict[str, Any]
Outputs = Dict[str, Any]

#: (inputs, outputs) -> scalar loss of the image ``outputs["pred"]`` of one module.
LocalLoss = Callable[[Inputs, Outputs], torch.Tensor]

_SIGNAL_MODEL_PREFIX = "signal_model_corr_"

# Of measured lines: neither depends on the scale of the images (RENORMALIZE_DATA) or divides by single points.
_MEASURED_LOSSES = ["k_l1_sum_normalized", "k_l1_l2_sum_normalized"]


def complex_l1(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean modulus of the complex difference: meddlr's ``"l1"``. Any shape, both complex."""
    return torch.mean(cplx.abs(pred - target))


def recon_loss(name: str, pred: torch.Tensor, target: torch.Tensor, signal_model: Any = None) -> torch.Tensor:
    """Computes the reconstruction loss that meddlr calls ``name``.

    Args:
        name: One of meddlr's ``IMAGE_LOSSES`` or ``KSPACE_LOSSES``.
        pred: Reconstruction, complex, shape (B, H, W, [T,] M).
        target: Fully sampled image, same shape.
        signal_model: A, for the losses ``signal_model_corr_*``.

    Returns:
        A scalar.

    Raises:
        KeyError: meddlr has no such loss.
    """
    if name in KSPACE_LOSSES:
        return _kspace_loss(name, pred, target, signal_model)
    if name == "l1":
        return complex_l1(pred, target)
    if name == "mag_l1":
        # With this loss, meddlr compares without taking magnitudes first.
        return torch.mean(torch.abs(torch.abs(pred - target)))
    if name == "perp_loss":
        return perp_loss(pred, target)["perp_loss"]
    if name.startswith("ssim"):
        return _ssim_loss(name, pred, target)

    rmse = _rmse(cplx.abs(pred - target))
    if name == "l2":
        return rmse.mean()
    if name in ("psnr", "nrmse"):
        return _relative(name, rmse, cplx.abs(target))
    raise KeyError(name)


def image_metrics(pred: torch.Tensor, target: torch.Tensor) -> Dict[str, torch.Tensor]:
    """The image losses that are logged beside any loss, by name, with one pass over the images.

    Args:
        pred: Reconstruction, complex, shape (B, H, W, [T,] M).
        target: Fully sampled image, same shape.

    Returns:
        Dict[str, torch.Tensor]: "l1", "l2", "psnr" and "nrmse", scalars, each as :func:`recon_loss` gives it.
    """
    error, magnitude = cplx.abs(pred - target), cplx.abs(target)
    rmse = _rmse(error)
    relative = {name: _relative(name, rmse, magnitude) for name in ("psnr", "nrmse")}
    return {"l1": torch.mean(error), "l2": rmse.mean(), **relative}


def _rmse(error: torch.Tensor) -> torch.Tensor:
    """Root of the mean square of each example, (B,)."""
    return torch.sqrt(torch.mean(_per_example(error) ** 2, dim=1))


def _relative(name: str, rmse: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """The "psnr" or "nrmse" for errors (B,) and a target's magnitude (B, ...): a scalar."""
    magnitude = _per_example(magnitude)
    if name == "psnr":
        return (20 * torch.log10(magnitude.max(dim=1)[0] / (rmse + EPS))).mean()
    return (rmse / torch.sqrt(torch.mean(magnitude**2, dim=1))).mean()


def _per_example(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(x.shape[0], -1)


def _ssim_loss(name: str, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    pred, target = _frames_as_examples(pred), _frames_as_examples(target)

    def ssim(im_type: str) -> torch.Tensor:
        return mF.ssim(pred, target, method="wang", im_type=im_type).mean()

    if name == "ssim_loss":
        return 1.0 - ssim("magnitude")
    if name == "ssim_phase_loss":
        return 1.0 - ssim("phase")
    return 1.0 - (ssim("magnitude") + ssim("phase")) / 2


def _frames_as_examples(x: torch.Tensor) -> torch.Tensor:
    """(B, H, W, M) or (B, H, W, T, M) to (B [T], M, H, W), by permutation."""
    if x.ndim == 5:
        x = x.permute(0, 3, 1, 2, 4).flatten(0, 1)
    return cplx.channels_first(x).contiguous()


def _kspace_loss(name: str, pred: torch.Tensor, target: torch.Tensor, signal_model: Any):
    if name.startswith(_SIGNAL_MODEL_PREFIX):
        name = name[len(_SIGNAL_MODEL_PREFIX) :]
        pred, target = signal_model(pred), signal_model(target)
    else:
        target, pred = oF.fft2c(target, channels_last=True), oF.fft2c(pred, channels_last=True)
    error = cplx.abs(target - pred)
    if name == "k_l1":
        return torch.mean(error)
    if name == "k_l1_sum":
        return torch.sum(error)
    magnitude = cplx.abs(target)
    if name == "k_l1_normalized":
        return torch.mean(error / (magnitude + EPS))
    l1 = torch.sum(error) / torch.sum(magnitude)
    if name == "k_l1_sum_normalized":
        return l1
    l2 = torch.sqrt(torch.sum(error**2)) / torch.sqrt(torch.sum(magnitude**2))
    return 0.5 * l1 + 0.5 * l2


def measured_loss(name: str, image: torch.Tensor, lines: MeasuredLines) -> torch.Tensor:
    r"""How far an image is from what is known of it: the loss of SSDU.

    :math:`\frac{1}{2} (\|e\|_1 / \|y\|_1 + \|e\|_2 / \|y\|_2)` for each example, the mean over examples, with the
    measured lines y. The error e is y - A x and, where no coil sees the image, the image x itself: there it is zero, as
    is a target (of coil images combined with the conjugate maps), but no line tells. All sums are weighted, see
    :class:`~meddlr_greedy.modeling.problem.MeasuredLines`.

    Args:
        name: "k_l1_l2_sum_normalized", or "k_l1_sum_normalized" for the first term, without the half.
        image: Reconstruction, complex, shape (B, H, W, T, M).
        lines: Held out for the loss.

    Returns:
        A scalar.
    """
    measured = cplx.abs(lines.kspace)
    error, magnitude = cplx.abs(lines.kspace - lines.A(image)), cplx.abs(image)

    def summed(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return _per_example(weights * x).sum(dim=1)

    l1 = (summed(lines.weights, error) + summed(lines.unseen, magnitude)) / summed(lines.weights, measured)
    if name == "k_l1_sum_normalized":
        return l1.mean()
    squared = summed(lines.weights, error.square()) + summed(lines.unseen, magnitude.square())
    l2 = torch.sqrt(squared / summed(lines.weights, measured.square()))
    return (0.5 * l1 + 0.5 * l2).mean()


@LOSS_COMPUTER_REGISTRY.register()
class LeanLossComputer(LossComputer):
    """meddlr's loss of ``MODEL.RECON_LOSS`` without what the loss does not use.

    Called like meddlr's: ``computer(inputs, outputs)`` returns ``{"loss": ...}`` plus the image metrics ``l1``, ``l2``,
    ``psnr`` and ``nrmse`` outside autograd. :meth:`local_loss` returns the loss alone.

    With ``MISC.GREEDY.CINE.LOSS_LINES`` the loss is :func:`measured_loss` of ``outputs["measured"]``, the lines held
    out, and there are no metrics.

    Args:
        cfg: meddlr's config.
        key: The key that names the loss.

    Raises:
        UserError: The loss is unknown, or none for lines held out.
    """

    def __init__(self, cfg, key: str = "MODEL.RECON_LOSS.NAME"):
        name = cfg.get_recursive(key)
        super().__init__(cfg)
        self.renormalize_data = cfg.MODEL.RECON_LOSS.RENORMALIZE_DATA
        self.name, self.loss_lines = name, GreedyConfig.from_cfg(cfg).CINE.LOSS_LINES
        if self.loss_lines and name not in _MEASURED_LOSSES:
            raise UserError(
                f"MODEL.RECON_LOSS.NAME: found '{name}', but without targets (MISC.GREEDY.CINE.LOSS_LINES"
                f" {self.loss_lines:g}) allowed are {', '.join(_MEASURED_LOSSES)}"
            )
        self.loss: Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
        own = dict(iter(LOSS_REGISTRY)).get(name)
        if own is not None:
            self.loss = lambda pred, target, _signal_model: own(pred, target)
        elif name in IMAGE_LOSSES + KSPACE_LOSSES:
            self.loss = lambda pred, target, signal_model: recon_loss(name, pred, target, signal_model)
        else:
            self.loss = _metric_loss(name, cfg.MODEL.DEVICE, key)

    def __call__(self, input: Inputs, output: Outputs) -> Dict[str, torch.Tensor]:
        """Computes the loss and, where there are targets, the metrics of the image; scalars by name."""
        if self.loss_lines:
            return {"loss": self.local_loss(input, output)}
        pred, target = self._renormalized(input, output)
        loss = self.loss(pred, target, output.get("signal_model"))
        with torch.no_grad():
            metrics = image_metrics(pred.detach(), target)
        return {**metrics, "loss": loss}

    def local_loss(self, inputs: Inputs, outputs: Outputs) -> torch.Tensor:
        """Computes the loss of ``outputs["pred"]``, a scalar, and nothing else."""
        if self.loss_lines:
            return self._loss_of_measured_lines(outputs)
        pred, target = self._renormalized(inputs, outputs)
        return self.loss(pred, target, outputs.get("signal_model"))

    def separable(self) -> Optional[SeparableLoss]:
        """The loss as a function of sums over pixels; None where it is none."""
        named = {registered for registered, _ in LOSS_REGISTRY}
        pixels = None if self.loss_lines or self.name in named else pixel_loss(self.name)
        return None if pixels is None else SeparableLoss(pixels, self.renormalized)

    def renormalized(
        self, scale: Mapping[str, Any], pred: torch.Tensor, target: torch.Tensor
    ) -> Tuple[torch.Tensor, ...]:
        """Any pixels of image and target on the scale of the loss (``MODEL.RECON_LOSS.RENORMALIZE_DATA``)."""
        if not self.renormalize_data:
            return pred, target
        images = self._normalizer.undo(image=pred, target=target, mean=scale.get("mean"), std=scale.get("std"))
        return images["image"], images["target"]

    def _loss_of_measured_lines(self, outputs: Outputs) -> torch.Tensor:
        measured = outputs.get("measured")
        if measured is None:
            raise UserError(
                f"MISC.GREEDY.CINE.LOSS_LINES: found {self.loss_lines:g}, but there are no lines held out for the loss;"
                " cine data and networks have them, under this plugin's trainer"
            )
        return measured_loss(self.name, outputs["pred"], measured)

    def _renormalized(self, inputs: Inputs, outputs: Outputs):
        pred = outputs["pred"]
        if outputs.get("target") is None:
            raise UserError("MODEL.RECON_LOSS: the batch has no 'target'; this loss needs fully sampled targets")
        scale = {key: inputs.get(key, outputs.get(key)) for key in ("mean", "std")}
        return self.renormalized(scale, pred, outputs["target"].to(pred.device))


def _metric_loss(name: str, device: str, key: str):
    """Any of meddlr's differentiable metrics that is lower for better images, as a loss."""
    allowed = [*IMAGE_LOSSES, *KSPACE_LOSSES, *(registered for registered, _ in LOSS_REGISTRY)]
    try:
        metric = next(iter(build_metrics([name]).values(copy_state=False)))
    except ValueError:
        raise UserError(
            f"{key}: found '{name}', allowed are {', '.join(allowed)} and meddlr's"
            f" differentiable metrics{did_you_mean(name, allowed)}"
        ) from None
    except OSError as error:  # urllib's and requests' of no network, too
        raise UserError(
            f"{key}: '{name}' needs weights that cannot be downloaded or read ({first_line(error)})"
        ) from error
    if not metric.is_differentiable or metric.higher_is_better:
        raise UserError(
            f"{key}: '{name}' is no loss: a differentiable metric that is lower for better images is allowed"
        )

    if device != "cpu":  # weights without values, which the planner has on the CPU, cannot be moved even there
        metric.to(device)

    def loss(pred: torch.Tensor, target: torch.Tensor, _signal_model: Any) -> torch.Tensor:
        # func computes without the metric's memory of earlier batches.
        return metric.func(*(cplx.channels_first(x).contiguous() for x in (pred, target))).mean()

    return loss


def as_local_loss(
    loss: Union[LossComputer, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]],
) -> LocalLoss:
    """Turns a loss computer, or any function of (pred, target), into a function of (inputs, outputs)."""
    if isinstance(loss, LeanLossComputer):
        return loss.local_loss
    if isinstance(loss, LossComputer):
        return lambda inputs, outputs: loss(inputs, outputs)["loss"]

    def local_loss(_inputs: Inputs, outputs: Outputs) -> torch.Tensor:
        if outputs["target"] is None:
            raise UserError("the batch has no 'target', which this loss, a function of (pred, target), needs")
        return loss(outputs["pred"], outputs["target"])

    return local_loss


def as_separable_loss(loss: Any) -> Optional[SeparableLoss]:
    """The loss as a function of sums over pixels, where it is known to be one."""
    return loss.separable() if isinstance(loss, LeanLossComputer) else None
