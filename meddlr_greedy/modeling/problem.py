"""What every unrolled network does with meddlr's batch before its first step."""

import functools
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import torch
from meddlr.forward.mri import SenseModel
from meddlr.ops import complex as cplx
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.contract import traits_of
from meddlr_greedy.ops.devices import to_device
from meddlr_greedy.ops.plane_sense import PlaneSenseModel

__all__ = ["MeasuredLines", "UnrolledProblem", "ZeroFilled", "prepare_inputs"]


class MeasuredLines(NamedTuple):
    """Lines held out for the loss (SSDU), in the place of a target; a network's outputs hold them as ``measured``."""

    kspace: torch.Tensor  #: what was measured, (B, H, W, T, C), zero on all other lines
    A: nn.Module  #: gives an image's k-space on these lines
    weights: torch.Tensor  #: of points of k-space, (B, H, W, T, 1), zero on all other lines
    unseen: torch.Tensor  #: weights of pixels, (B, H, W, 1, M), zero but where no coil sees the image

    @classmethod
    def of(
        cls,
        kspace: torch.Tensor,
        loss_mask: torch.Tensor,
        mask: torch.Tensor,
        maps: torch.Tensor,
        A: nn.Module,  # noqa: N803
    ) -> "MeasuredLines":
        """Weights for masks (B, H, W, T, 1) of the lines held out and of the others, and maps (B, H, W, 1, C, M).

        Acquired lines are denser towards the center of k-space, by a factor of ten and more. So that an error anywhere
        counts the same, as it does in an image, a line is weighted by one over the number of frames that have acquired
        it, and a pixel that no coil sees by the mean of that.
        """
        weights = loss_mask / (loss_mask + mask).sum(dim=3, keepdim=True).clamp(min=1)
        unseen = (maps == 0).all(dim=-2) * weights.mean(dim=(1, 2, 3, 4), keepdim=True)
        return cls(kspace, A, weights, unseen)


class ZeroFilled:
    """The zero-filled image A^H y, which can be let go of where memory is short, and is made again of k-space.

    Args:
        make: Makes the image, complex, (B, H, W, [T,] M).
        image: The image, where there is no k-space to make it of. Then it stays.
    """

    def __init__(self, make: Optional[Callable[[], torch.Tensor]] = None, image: Optional[torch.Tensor] = None):
        self._make, self._image = make, image

    @property
    def image(self) -> torch.Tensor:
        """The same tensor until it is let go of."""
        if self._image is None:
            assert self._make is not None
            self._image = self._make()
        return self._image

    def let_go(self) -> None:
        """Frees the image until it is asked for again."""
        if self._make is not None:
            self._image = None


class UnrolledProblem(NamedTuple):
    """What every unrolled step needs of one batch, prepared once."""

    inputs: Dict[str, Any]  #: the batch on the network's device, see prepare_inputs
    A: nn.Module  #: signal model
    zero_filled: ZeroFilled
    target: Optional[torch.Tensor]  #: fully sampled image, same shape
    measured: Optional[MeasuredLines]  #: what was measured on the lines held out for the loss
    dims: Tuple[int, ...]  #: shape of k-space, (B, H, W, [T,] C)
    #: "inversion_error_module_<k>" of the modules that backward runs back, and "cg_residual_module_<k>" of those whose
    #: gradient is that of a solution: scalars, which forward and backward write
    errors: Dict[str, torch.Tensor]

    @classmethod
    def prepare(cls, network: Any, batch: Dict[str, Any], largest_part: Optional[int] = None) -> "UnrolledProblem":
        """Signal model and zero-filled image of a batch, as the plain network makes them.

        Args:
            network: An :class:`~meddlr_greedy.modeling.contract.UnrolledNetwork`.
            batch: meddlr's, or one that :meth:`handed_on` gave, or one with "zf_image" and the shape "dims" in place of
                "kspace"; it stays as it is.
            largest_part: See :func:`prepare_inputs`.
        """
        inputs = prepare_inputs(network, batch, largest_part)
        A = inputs["signal_model"]  # noqa: N806
        if "zf_image" in inputs:  # by the process of the modules before, or made of k-space that is nowhere as a whole
            zero_filled, dims = ZeroFilled(image=inputs["zf_image"]), inputs["dims"]
        else:
            kspace = inputs["kspace"]
            make = A.zero_filled if _runs_in_parts(A) else functools.partial(A, adjoint=True)
            zero_filled, dims = ZeroFilled(functools.partial(make, kspace)), kspace.size()
        return cls(
            inputs=inputs,
            A=A,
            zero_filled=zero_filled,
            target=inputs.get("target"),
            measured=inputs.get("measured"),
            dims=tuple(dims),
            errors={},
        )

    @property
    def zf_image(self) -> torch.Tensor:
        """The zero-filled image A^H y, complex, (B, H, W, [T,] M)."""
        return self.zero_filled.image

    @property
    def image(self) -> torch.Tensor:
        """Where the first module that runs here starts: the zero-filled image, or what modules elsewhere made of it."""
        image = self.inputs.get("image")
        return self.zf_image if image is None else image

    @property
    def reference(self) -> Dict[str, Any]:
        """What the loss of a module compares its image with."""
        return {"target": self.target, "signal_model": self.A, "measured": self.measured}

    def handed_on(self, image: torch.Tensor) -> Dict[str, Any]:
        """The batch for the process that runs the next modules: without k-space where nobody needs it there."""
        unused = ["edge_mask", "signal_model", "measured"]
        if "postprocessing_mask" not in self.inputs:  # which puts the measured k-space into the result
            unused.append("kspace")
        kept = {key: value for key, value in self.inputs.items() if key not in unused}
        return {**kept, "zf_image": self.zf_image, "image": image.detach(), "dims": self.dims}


def prepare_inputs(network: Any, inputs: Dict[str, Any], largest_part: Optional[int] = None) -> Dict[str, Any]:
    """The batch on the network's device with masked k-space, mask and signal model; the batch given stays as it is.

    The signal model is the one that the network's traits name. A batch without k-space (handed on by another process,
    which has used it up) has a mask. What the loader says of the mask (``constant_along_readout``) is believed, so that
    the host need not wait for the device to look at it. Where lines are held out for the loss (``loss_kspace`` and
    ``loss_mask``), ``measured`` are :class:`MeasuredLines`.

    With ``largest_part``, signal models make coil images of so many bytes at a time (those of this plugin and, of
    complex tensors, meddlr's in 2D). Then k-space is the batch's own: a masked one would be a copy of the whole.

    Raises:
        UserError: where the maps do not fit the network.
    """
    inputs = to_device(inputs, next(network.parameters()).device)
    kspace, maps, mask = inputs.get("kspace"), inputs["maps"], inputs.get("mask")
    num_maps = maps.shape[-2 if cplx.is_complex_as_real(maps) else -1]
    if num_maps != network.num_emaps:
        raise UserError(f"MODEL.UNROLLED.NUM_EMAPS: found {network.num_emaps}, but the data has {num_maps} map sets")
    if mask is None:
        mask = cplx.get_mask(kspace)
    build_signal_model: Any = traits_of(network).signal_model
    if getattr(build_signal_model, "takes_form_of_mask", False):
        form = inputs.get("constant_along_readout")
        build_signal_model = functools.partial(build_signal_model, constant_along_readout=form)
    signal_model = inputs.get("signal_model")
    if signal_model is None:
        signal_model = _in_parts(build_signal_model(maps, mask), largest_part)
    prepared = {**inputs, "mask": mask, "signal_model": signal_model}
    if kspace is not None and not _runs_in_parts(signal_model):
        prepared["kspace"] = kspace * mask
    if "loss_kspace" in inputs:
        loss_model = _in_parts(build_signal_model(maps, inputs["loss_mask"]), largest_part)
        lines = (inputs["loss_kspace"], inputs["loss_mask"], mask, maps)
        prepared["measured"] = MeasuredLines.of(*lines, loss_model)
    return prepared


def _in_parts(signal_model: Any, largest_part: Optional[int]) -> Any:
    """The signal model, or one in its place, that makes coil images of ``largest_part`` bytes at a time, if it can."""
    if largest_part is None:
        return signal_model
    if type(signal_model) is SenseModel and signal_model.maps.is_complex():
        signal_model = PlaneSenseModel(signal_model.maps, signal_model.weights)
    if hasattr(signal_model, "largest_part"):
        signal_model.largest_part = largest_part
    return signal_model


def _runs_in_parts(signal_model: Any) -> bool:
    return getattr(signal_model, "largest_part", None) is not None
