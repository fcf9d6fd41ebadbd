"""Scans as they were acquired, without targets -> images, slice by slice."""

from typing import Any, Dict, Mapping, NamedTuple

import numpy as np
import torch
from meddlr.config import CfgNode
from meddlr.data.transforms.subsample import MaskFunc, get_cartesian_edge_mask
from meddlr.data.transforms.transform import DataTransform
from meddlr.forward.mri import hard_data_consistency
from torch import nn

from meddlr_greedy.data.scan_file import CINE_AXES
from meddlr_greedy.data.transform import CineDataTransform
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.evaluator import as_complex
from meddlr_greedy.modeling.contract import traits_of
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled
from meddlr_greedy.reconstruction.acquired import AcquiredScan, AcquiredSlice

__all__ = ["Reconstruction", "Reconstructor", "use_modules"]


class Reconstruction(NamedTuple):
    """Images of one slice in the units of the file, complex64 (H, W, T, M) or (H, W, M)."""

    image: np.ndarray
    zero_filled: np.ndarray


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
        self._cfg = cfg
        self._model = model.eval()
        network: Any = model
        while hasattr(network, "model"):
            network = network.model
        self._network = network
        self._mask_func = _AcquiredMask()
        self._transforms: Dict[bool, DataTransform] = {}

    def check(self, scan: AcquiredScan) -> None:
        """Raises a UserError where a scan does not fit the network."""
        takes_cine = traits_of(self._network).is_cine
        if takes_cine != scan.is_cine:
            raise UserError(
                f"{scan.path}: kspace has {len(scan.shape)} axes {scan.shape}, but {type(self._network).__name__}"
                f" (MODEL.META_ARCHITECTURE) takes {'cine, 5 axes' if takes_cine else '2D, 4 axes'}"
            )
        num_maps = getattr(self._network, "num_emaps", scan.num_maps)
        if num_maps != scan.num_maps:
            raise UserError(
                f"{scan.path}: maps holds {scan.num_maps} map sets, but the network takes {num_maps}"
                " (MODEL.UNROLLED.NUM_EMAPS)"
            )

    @torch.no_grad()
    def __call__(self, acquired: AcquiredSlice) -> Reconstruction:
        """Reconstructs one slice."""
        transform = self._transform(is_cine=acquired.kspace.ndim == CINE_AXES - 1)
        self._mask_func.mask = torch.from_numpy(np.array(acquired.mask))
        # The transform wants a target; it only scales it.
        target = np.zeros((*acquired.kspace.shape[:-1], acquired.maps.shape[-1]), np.complex64)
        example = transform(acquired.kspace, acquired.maps, target, acquired.name, acquired.slice_id, is_fixed=False)
        batch = {name: value.unsqueeze(0) for name, value in example.items() if name != "target"}
        outputs = self._model(dict(batch))
        image = as_complex(outputs["pred"])
        if "postprocessing_mask" in batch:
            image = hard_data_consistency(image, batch["kspace"], batch["postprocessing_mask"], batch["maps"])
        return Reconstruction(*(self._in_units_of_the_file(x, batch) for x in (image, as_complex(outputs["zf_image"]))))

    def _transform(self, is_cine: bool) -> DataTransform:
        if is_cine not in self._transforms:
            # Without the plugin's keys, of which those that concern data change what was acquired.
            cfg = self._cfg.clone().defrost()
            cfg.MISC.GREEDY = CfgNode({})
            transform_type = CineDataTransform if is_cine else DataTransform
            self._transforms[is_cine] = transform_type(cfg.freeze(), self._mask_func, is_test=True)
        return self._transforms[is_cine]

    def _in_units_of_the_file(self, image: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> np.ndarray:
        normalizer = self._transform(is_cine=image.ndim == CINE_AXES)._normalizer
        scale = {"mean": batch["mean"], "std": batch["std"], "channels_last": True}
        return normalizer.undo(image=image, target=image, **scale)["image"][0].cpu().numpy().astype(np.complex64)


class _AcquiredMask(MaskFunc):
    """Says what is sampled, where meddlr's transforms ask for a mask to be drawn."""

    def __init__(self):
        super().__init__(accelerations=())
        self.mask = torch.empty(0)  # (H, W, [T,] 1)

    def __call__(self, shape, seed=None, acceleration=None) -> torch.Tensor:
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
