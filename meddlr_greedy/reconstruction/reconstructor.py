"""Scans as they were acquired, without targets -> images, slice by slice."""

from typing import Any, Dict, NamedTuple, Optional

import numpy as np
import torch
from meddlr.config import CfgNode
from meddlr.data.transforms.subsample import MaskFunc, get_cartesian_edge_mask
from meddlr.data.transforms.transform import DataTransform, build_normalizer
from meddlr.forward.mri import hard_data_consistency
from torch import nn

from meddlr_greedy.data.normalizers import LeanTopMagnitudeNormalizer, lean
from meddlr_greedy.data.transform import CineDataTransform
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.description import acceleration
from meddlr_greedy.evaluation.images import as_complex, in_file_units
from meddlr_greedy.modeling.contract import inner_network, traits_of
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.reconstruction.acquired import AcquiredScan, AcquiredSlice
from meddlr_greedy.reconstruction.by_frames import FrameByFrame

__all__ = ["Reconstruction", "Reconstructor", "use_modules"]


class Reconstruction(NamedTuple):
    """Images of one slice in the units of the file, complex64 (H, W, T, M) or (H, W, M).

    Attributes:
        image: That of the network.
        zero_filled: The one that it starts from.
        acceleration: R of what is sampled, see :func:`~meddlr_greedy.evaluation.description.acceleration`.
    """

    image: np.ndarray
    zero_filled: np.ndarray
    acceleration: float


class Reconstructor:
    """A trained network with the transform it was trained with.

    The slice goes the way of the validation data: the config's normalizer scales it and ``TEST.POSTPROCESSOR`` is
    applied. But the mask is the scan's own, and nothing is drawn.

    Args:
        cfg: meddlr's config.
        model: The network, on its device; it is put into evaluation mode.

    Raises:
        UserError: The config asks for what is not possible.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        self._model = model.eval()
        self._network = inner_network(model)
        self._takes_cine = traits_of(self._network).is_cine
        self._transform = _CineTransform(cfg) if self._takes_cine else _ImageTransform(cfg)
        self._normalizer = build_normalizer(cfg)
        self._by_frames = self._frame_by_frame(cfg)

    def _frame_by_frame(self, cfg: CfgNode) -> Optional[FrameByFrame]:
        """What makes batches of frames, where memory is limited and nothing asks for k-space as a whole."""
        largest_part = getattr(self._model, "largest_part", None)
        normalizer = lean(self._normalizer)
        if not self._takes_cine or largest_part is None or cfg.TEST.POSTPROCESSOR.NAME:
            return None
        return FrameByFrame(normalizer, largest_part) if isinstance(normalizer, LeanTopMagnitudeNormalizer) else None

    def check(self, scan: AcquiredScan) -> None:
        """Checks that a scan fits the network.

        Raises:
            UserError: It does not.
        """
        if self._takes_cine != scan.is_cine:
            raise UserError(
                f"{scan.path}: kspace has {len(scan.shape)} axes {scan.shape}, but the network"
                f" {type(self._network).__name__} takes {'cine, 5 axes' if self._takes_cine else '2D, 4 axes'}; use the"
                " weights of a network for the scan"
            )
        num_maps = getattr(self._network, "num_emaps", scan.num_maps)
        if num_maps != scan.num_maps:
            raise UserError(
                f"{scan.path}: maps holds {scan.num_maps} map sets, but the network takes {num_maps}"
                " (MODEL.UNROLLED.NUM_EMAPS)"
            )

    @torch.no_grad()
    def __call__(self, scan: AcquiredScan, slice_id: int) -> Reconstruction:
        """Reconstructs one slice of a scan that has been checked.

        Raises:
            UserError: The slice cannot be used.
        """
        batch = self._batch(scan, slice_id)
        outputs = self._model(dict(batch))
        image = as_complex(outputs["pred"])
        if "postprocessing_mask" in batch:
            image = hard_data_consistency(image, batch["kspace"], batch["postprocessing_mask"], batch["maps"])
        images = (image, as_complex(outputs["zf_image"]))
        pred, zero_filled = (in_file_units(self._normalizer, x, batch)[0] for x in images)
        return Reconstruction(pred, zero_filled, acceleration(batch["mask"][0]))

    def _batch(self, scan: AcquiredScan, slice_id: int) -> Dict[str, Any]:
        if self._by_frames is not None:
            return self._by_frames(scan, slice_id)
        return {name: value.unsqueeze(0) for name, value in self._transform(scan.read(slice_id)).items()}


class _CineTransform:
    """A slice of a cine scan -> an example without target."""

    def __init__(self, cfg: CfgNode):
        # This mask function draws none.
        self._transform = CineDataTransform(cfg, MaskFunc(accelerations=()), is_test=True)

    def __call__(self, acquired: AcquiredSlice) -> Dict[str, torch.Tensor]:
        return self._transform(
            kspace=acquired.kspace,
            maps=acquired.maps,
            target=None,
            fname=acquired.name,
            slice_id=acquired.slice_id,
            is_fixed=False,
            mask=acquired.mask,
        )


class _ImageTransform:
    """A slice of a 2D scan -> an example without target.

    meddlr's transform can do neither without a mask function nor without a target: it gets a function that returns the
    mask of the slice, and a target of zeros, which it only scales.
    """

    def __init__(self, cfg: CfgNode):
        self._mask_func = _SliceMask()
        self._transform = DataTransform(cfg, self._mask_func, is_test=True)

    def __call__(self, acquired: AcquiredSlice) -> Dict[str, torch.Tensor]:
        self._mask_func.mask = torch.from_numpy(np.array(acquired.mask))
        target = np.zeros((*acquired.kspace.shape[:-1], acquired.maps.shape[-1]), np.complex64)
        example = self._transform(
            acquired.kspace, acquired.maps, target, acquired.name, acquired.slice_id, is_fixed=False
        )
        return {name: value for name, value in example.items() if name != "target"}


class _SliceMask(MaskFunc):
    """Says what is sampled in one slice, where meddlr's transform asks for a mask to be drawn."""

    def __init__(self):
        super().__init__(accelerations=())
        self.mask = torch.empty(0)  # (H, W, 1), of the slice that comes next

    def __call__(self, shape, seed=None, acceleration=None) -> torch.Tensor:  # noqa: ARG002 (meddlr's signature)
        return self.mask.unsqueeze(0).expand(shape)

    def get_edge_mask(self, kspace, out_shape=None) -> torch.Tensor:
        return get_cartesian_edge_mask(kspace, dims=(1, 2), out_shape=out_shape)


def use_modules(model: nn.Module, num_modules: int) -> None:
    """Lets a greedy network stop after its first modules, each of which emits an image.

    Raises:
        UserError: There are not as many, or the network has no modules.
    """
    if not isinstance(model, GreedyUnrolled):
        raise UserError(
            f"--modules: found {num_modules}, but {type(model).__name__} (MODEL.META_ARCHITECTURE) has no modules; only"
            " GreedyUnrolled can stop early"
        )
    if not 1 <= num_modules <= model.num_modules:
        raise UserError(f"--modules: found {num_modules}, allowed is 1 to {model.num_modules}")
    model.num_inference_modules = num_modules
