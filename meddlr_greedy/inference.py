"""Scans as they were acquired, without targets -> images, slice by slice."""

import os
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

import h5py
import numpy as np
import torch
from meddlr.config import CfgNode
from meddlr.data.transforms.subsample import MaskFunc, get_cartesian_edge_mask
from meddlr.data.transforms.transform import DataTransform
from meddlr.forward.mri import hard_data_consistency
from torch import nn

from meddlr_greedy.data.scan_file import CINE_AXES, PLAIN_AXES, Geometry, check_attributes, check_cartesian
from meddlr_greedy.data.transform import CineDataTransform
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.evaluator import as_complex
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled

__all__ = ["AcquiredScan", "AcquiredSlice", "Reconstruction", "Reconstructor", "use_modules"]


class AcquiredSlice(NamedTuple):
    """A slice as it is in the file; cine, or without the axis T in 2D.

    Attributes:
        name: Of the scan.
        slice_id: Number of the slice.
        kspace: (H, W, T, C), complex64; zero, or of no meaning, where it is not sampled.
        maps: (H, W, 1, C, M), complex64.
        mask: (H, W, T, 1), float32; constant along H and expanded from one row if the file has no other.
    """

    name: str
    slice_id: int
    kspace: np.ndarray
    maps: np.ndarray
    mask: np.ndarray


class AcquiredScan:
    """An HDF5 file with ``kspace`` and ``maps``, as in :mod:`meddlr_greedy.data.dataset`; a target is not needed.

    What is sampled is told by the dataset ``mask``, (S, 1, W, T, 1) or (S, H, W, T, 1), uint8 or float32. Without it,
    of a cine series the lines with any value that is not zero count as sampled (a Cartesian mask does not vary along
    the readout), of a 2D image the points.

    Args:
        path: The file; it is opened for each slice and not kept open.

    Raises:
        UserError: The file is missing, truncated, no HDF5, lacks an array, or its arrays disagree. Values are checked
            when a slice is read.
    """

    def __init__(self, path: str):
        self.path = path
        self.name = Path(path).stem
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file")
        try:
            with h5py.File(path, "r") as file:
                check_cartesian(path, file, "kspace")
                check_attributes(path, file)
                self._check_arrays(file)
                #: Shape of k-space, (S, H, W, T, C) or (S, H, W, C).
                self.shape: Tuple[int, ...] = file["kspace"].shape
                self.num_maps: int = file["maps"].shape[-1]
                self.attributes: Dict[str, Any] = dict(file.attrs)
        except OSError as error:
            raise UserError(f"{path}: truncated, or not an HDF5 file ({error})") from error
        self.geometry = Geometry.of(self.attributes)
        spacing = self.attributes.get("slice_spacing_mm")
        #: From the centre of a slice to that of the next, ``None`` where the file does not say.
        self.slice_spacing_mm: Optional[float] = None if spacing is None else float(np.squeeze(spacing))

    def __len__(self) -> int:
        """Number of slices S."""
        return self.shape[0]

    @property
    def is_cine(self) -> bool:
        return len(self.shape) == CINE_AXES

    def __iter__(self) -> Iterator[AcquiredSlice]:
        """Reads the slices one after the other."""
        return (self.read(slice_id) for slice_id in range(len(self)))

    def read(self, slice_id: int) -> AcquiredSlice:
        """Reads one slice.

        Raises:
            UserError: It cannot be read, or holds NaN, infinity or nothing but zeros.
        """
        where = f"{self.path}: slice {slice_id}"
        arrays = self._arrays(slice_id, ("kspace", "maps", "mask"))
        kspace = arrays["kspace"]
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise UserError(f"{where}: {name} holds NaN or infinity")
            if not array.any():
                raise UserError(f"{where}: {name} holds nothing but zeros")
        mask = arrays.get("mask")
        if mask is None:
            mask = (kspace != 0).any(axis=-1, keepdims=True)
            mask = mask.any(axis=0, keepdims=True) if self.is_cine else mask
        elif not np.isin(mask, (0, 1)).all():
            raise UserError(f"{where}: mask holds values other than 0 and 1")
        mask = np.broadcast_to(mask.astype(np.float32), (*kspace.shape[:-1], 1))
        if not (kspace * mask).any():
            raise UserError(f"{where}: kspace is zero on all sampled lines")
        return AcquiredSlice(self.name, slice_id, kspace, arrays["maps"], mask)

    def read_target(self, slice_id: int) -> Optional[np.ndarray]:
        """The target of one slice, (H, W, T, M) or (H, W, M); ``None`` where the file holds none."""
        return self._arrays(slice_id, ("target",)).get("target")

    def _arrays(self, slice_id: int, names: Sequence[str]) -> Dict[str, np.ndarray]:
        try:
            with h5py.File(self.path, "r") as file:
                return {name: file[name][slice_id] for name in names if name in file}
        except OSError as error:
            raise UserError(f"{self.path}: slice {slice_id} cannot be read: truncated or damaged ({error})") from error

    def _check_arrays(self, file: h5py.File) -> None:
        for name in ("kspace", "maps"):
            if not isinstance(file.get(name), h5py.Dataset):
                raise UserError(f"{self.path}: no dataset '{name}' in it; found: {', '.join(file) or 'nothing'}")
            if file[name].dtype != np.complex64:
                raise UserError(f"{self.path}: {name} is {file[name].dtype}; only complex64 is allowed")
        kspace, maps = file["kspace"].shape, file["maps"].shape
        if len(kspace) not in (PLAIN_AXES, CINE_AXES) or 0 in kspace:
            raise UserError(
                f"{self.path}: kspace has shape {kspace}; allowed are (S, H, W, T, C) for cine and (S, H, W, C) for 2D"
            )
        frames = kspace[3:-1]
        self._check_shape("maps", maps, [(*kspace[:3], *(1 for _ in frames), kspace[-1], maps[-1] if maps else 1)])
        mask = file.get("mask")
        if mask is not None:
            if not isinstance(mask, h5py.Dataset) or mask.dtype not in (np.uint8, np.float32):
                raise UserError(
                    f"{self.path}: mask is {getattr(mask, 'dtype', 'a group')}; uint8 and float32 are allowed"
                )
            self._check_shape("mask", mask.shape, [(kspace[0], rows, *kspace[2:-1], 1) for rows in (1, kspace[1])])

    def _check_shape(self, name: str, found: Tuple[int, ...], allowed: Sequence[Tuple[int, ...]]) -> None:
        if found not in allowed:
            needed = " or ".join(map(str, allowed))
            raise UserError(
                f"{self.path}: {name} has shape {found}, which does not agree with kspace: {needed} is needed"
            )


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
        takes_cine = getattr(self._network, "kspace_axes", PLAIN_AXES) == CINE_AXES
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
