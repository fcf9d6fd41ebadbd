"""An example as it is on disk -> an example as the network takes it, for cine.

Of undersampled k-space only the sampled lines, one in R, are not zero. So everything is computed on these lines
(cropped, scaled, averaged), and written into k-space of the full size at the end.
"""

import math
from typing import Any, Dict, Optional, Tuple

import numpy as np
import torch
from meddlr.data.transforms.subsample import MaskFunc
from meddlr.data.transforms.transform import DataTransform, Normalizer

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.data.augment import Augmentation, CineAugmentor
from meddlr_greedy.data.kt_mask import kt_mask_names, partial_echo
from meddlr_greedy.data.loss_lines import draw_loss_lines
from meddlr_greedy.data.normalizers import TimeAverageNormalizer, lean
from meddlr_greedy.data.sampled_lines import SampledLines
from meddlr_greedy.data.seeding import EVAL_EPOCH, example_name, example_seed
from meddlr_greedy.errors import UserError

__all__ = ["CineDataTransform", "check_scale", "narrowed"]

# meddlr's mask functions that cannot make a mask of shape (1, H, W, T, 1).
_PLANE_MASKS = ("RandomMaskFunc", "PoissonDiskMaskFunc", "EquispacedMaskFunc1D", "EquispacedMaskFunc2D")


class CineDataTransform(DataTransform):
    """meddlr's ``DataTransform`` with one mask per cardiac phase.

    Masks, scales, and adds noise or motion if asked, as meddlr does in 2D. Differences: the mask is drawn for
    (H, W, T), with a partial echo if ``MISC.GREEDY`` asks for it, or is the scan's own; a fixed mask (test data) is a
    function of (cfg.SEED, scan, slice), not of the scan alone; a target may be missing; augmentations are those of
    :mod:`meddlr_greedy.data.augment`; lines can be held out for the loss (:mod:`meddlr_greedy.data.loss_lines`).

    Args:
        cfg: meddlr's config.
        mask_func: Called with shape (1, H, W, T, 1).
        is_test: The mask is fixed, and ``TEST.POSTPROCESSOR`` applies.
        add_noise: See meddlr.
        add_motion: See meddlr; the phase errors are the same in all frames.
        augment: Applies the augmentations of ``MISC.GREEDY``, to scans whose mask is not fixed.
        hold_out: Holds out ``MISC.GREEDY.CINE.LOSS_LINES`` of the acquired lines for the loss.

    Raises:
        UserError: The mask function or the augmentations asked for are for 2D only.
    """

    def __init__(
        self,
        cfg,
        mask_func: MaskFunc,
        is_test: bool = False,
        add_noise: bool = False,
        add_motion: bool = False,
        augment: bool = False,
        hold_out: bool = False,
    ):
        name = cfg.AUG_TRAIN.UNDERSAMPLE.NAME
        if name in _PLANE_MASKS:
            raise UserError(
                f"AUG_TRAIN.UNDERSAMPLE.NAME: {name} has no time axis; allowed for cine are "
                f"{', '.join(kt_mask_names())} and RandomMaskFunc1D (the same lines in every frame)"
            )
        if cfg.AUG_TRAIN.MRI_RECON.TRANSFORMS and not is_test:
            raise UserError(
                "AUG_TRAIN.MRI_RECON.TRANSFORMS: these augmentations are for 2D; () is allowed for cine, whose own are "
                "MISC.GREEDY.CINE.READOUT_CROP and FLIP_PROBABILITY"
            )
        super().__init__(cfg, mask_func, is_test, add_noise, add_motion)
        self._normalizer: Normalizer = lean(self._normalizer)
        self._cine_augmentor = CineAugmentor.from_config(cfg) if augment else None
        greedy = GreedyConfig.from_cfg(cfg)
        self._partial_echo = greedy.CINE.PARTIAL_ECHO
        self._loss_lines = greedy.CINE.LOSS_LINES if hold_out else 0.0

    def __call__(
        self,
        kspace: np.ndarray,
        maps: np.ndarray,
        target: Optional[np.ndarray],
        fname: str,
        slice_id: int,
        is_fixed: bool,
        acceleration: Optional[float] = None,
        mask: Optional[np.ndarray] = None,
        loss_lines_seed: int = 0,
    ) -> Dict[str, Any]:
        """Transforms one example; the arrays given are not changed.

        Args:
            kspace: Shape (H, W, T, C), complex64.
            maps: Shape (H, W, 1, C, M), complex64.
            target: Shape (H, W, T, M), complex64; or None.
            fname: Name of the scan.
            slice_id: Number of the slice.
            is_fixed: The mask is the same in every epoch.
            acceleration: Needed if ``is_fixed`` and there is no mask.
            mask: The scan's own mask, 0 or 1, shape (1, W, T, 1) or (H, W, T, 1); without it one is drawn.
            loss_lines_seed: Decides the lines held out for the loss, of a fixed mask too.

        Returns:
            Dict[str, Any]: "kspace", "maps" and "target" (if given) of the shapes above, "mask" and "edge_mask"
            (H, W, T, 1) float32, "mean" (1,), "std" (1,), "norm" (); in test with a postprocessor also
            "postprocessing_mask" (H, W, T, 1). H is the crop where the readout is cropped. Lines without signal count
            as not sampled. Where lines are held out, they are in "loss_kspace" and "loss_mask", of the shapes of
            "kspace" and "mask", which are without them; the scale is that of all acquired lines, and noise and motion
            are not added to them.

        Raises:
            UserError: The readout cannot be cropped as asked, or there is no signal on the sampled lines or in the
                image, or there are too few lines to hold out some.
        """
        seed = self._fixed_seed(fname, slice_id) if self._is_test or is_fixed else None
        augmentation = self._draw_augmentation(kspace.shape, is_fixed)
        shape = (len(augmentation.rows), *kspace.shape[1:])
        if mask is None:
            sampling = self._draw_mask(shape, is_fixed, seed, acceleration)
        else:
            sampling = _own_mask(mask, augmentation, f"{fname}, slice {slice_id}")
        lines = _sampled_lines(kspace, sampling, augmentation, f"{fname}: slice {slice_id}")
        coil_maps = augmentation.image(torch.from_numpy(maps))
        lines, scaled = self._scaled(lines, coil_maps, target, augmentation)
        check_scale(scaled["std"], f"{fname}, slice {slice_id}", len(augmentation.rows), len(kspace))
        lines, held_out = self._without_loss_lines(lines, shape, loss_lines_seed, f"{fname}, slice {slice_id}")
        out = {
            "kspace": self._corrupted(lines.kspace(shape), is_fixed, seed),
            "maps": coil_maps,
            **scaled,
            "edge_mask": _edge_mask(kspace, augmentation),
            "mask": lines.mask.expand(*shape[:-1], 1),
            **held_out,
        }
        return {**out, **self._postprocessing(out)}

    def _fixed_seed(self, fname: str, slice_id: int) -> int:
        """Decides the mask, noise and motion of test data and of scans with a fixed mask."""
        return example_seed(max(self._cfg.SEED, 0), EVAL_EPOCH, example_name(fname, slice_id))

    def _draw_augmentation(self, shape: Tuple[int, ...], is_fixed: bool) -> Augmentation:
        """The augmentation of an example (H, W, T, C); none where the mask is fixed."""
        if self._cine_augmentor is None or is_fixed:
            return Augmentation.none(shape)
        return self._cine_augmentor.draw(shape, self.rng)

    def _draw_mask(
        self, shape: Tuple[int, ...], is_fixed: bool, seed: Optional[int], acceleration: Optional[float]
    ) -> torch.Tensor:
        """A mask (1, W, T, 1), or (H, W, T, 1) where it varies along the readout."""
        if is_fixed and not acceleration:
            raise ValueError("acceleration is needed for a fixed mask")
        mask = self.mask_func((1, *shape[:-1], 1), seed, acceleration).float().expand(1, *shape[:-1], 1)
        return narrowed(partial_echo(mask, self._partial_echo)[0])

    def _scaled(
        self, lines: SampledLines, maps: torch.Tensor, target: Optional[np.ndarray], augmentation: Augmentation
    ) -> Tuple[SampledLines, Dict[str, torch.Tensor]]:
        """The scaled lines; "mean", "std", "norm" and, if it is given, the augmented and scaled "target"."""
        # The normalizer takes the scale from the zero-filled image.
        time_average = isinstance(self._normalizer, TimeAverageNormalizer)
        image = (lines.time_average() if time_average else lines).adjoint(maps)
        full = image if target is None else augmentation.image(torch.from_numpy(target))
        scaled = self._normalizer.normalize(masked_kspace=lines.values, image=image, target=full)
        out = {
            "mean": scaled["mean"],
            "std": scaled["std"],
            "norm": torch.linalg.vector_norm(torch.view_as_real(full)) / math.sqrt(full.numel()),
        }
        if target is not None:
            out["target"] = scaled["target"]
        return lines._replace(values=scaled["masked_kspace"]), out

    def _without_loss_lines(
        self, lines: SampledLines, shape: Tuple[int, ...], seed: int, where: str
    ) -> Tuple[SampledLines, Dict[str, torch.Tensor]]:
        """The lines for the network; "loss_kspace" and "loss_mask" with those held out, where some are."""
        if not self._loss_lines:
            return lines, {}
        sampled = lines.mask[..., 0].any(dim=0).numpy()
        chosen = torch.from_numpy(draw_loss_lines(sampled, self._loss_lines, np.random.RandomState(seed), where))
        held_out = lines.only(chosen)
        return lines.only(~chosen), {
            "loss_kspace": held_out.kspace(shape),
            "loss_mask": held_out.mask.expand(*shape[:-1], 1),
        }

    def _postprocessing(self, example: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """The mask of ``TEST.POSTPROCESSOR``, where it applies: the points whose data replace those of the result."""
        if not (self._is_test and self._postprocessor):
            return {}
        mask = example["edge_mask"]
        if self._postprocessor == "hard_dc_all":
            mask = torch.maximum(mask, example["mask"])
        return {"postprocessing_mask": mask}

    def _corrupted(self, masked_kspace: torch.Tensor, is_fixed: bool, seed: Optional[int]) -> torch.Tensor:
        """k-space (H, W, T, C) with meddlr's noise and motion, where asked for."""
        masked_kspace = masked_kspace.unsqueeze(0)
        if self.add_noise and (self._is_test or self.rng.uniform() < self.p_noise):
            masked_kspace = self.noiser(masked_kspace, seed=seed)
        if self.add_motion and (self._is_test or (not is_fixed and self.rng.uniform() < self.p_motion)):
            masked_kspace = self.motion_simulator(masked_kspace, seed=seed)
        return masked_kspace.squeeze(0)


def _sampled_lines(kspace: np.ndarray, mask: torch.Tensor, augmentation: Augmentation, where: str) -> SampledLines:
    """The lines of augmented k-space with signal; a UserError where there are none."""
    lines = SampledLines.of(torch.from_numpy(kspace), mask, augmentation)
    if not lines.values.numel():
        raise UserError(f"{where}: k-space is zero on all sampled lines")
    return lines


def check_scale(scale: torch.Tensor, where: str, num_rows: int, height: int) -> None:
    """Refuses an example without a scale: divided by it, everything would be NaN."""
    if bool(torch.isfinite(scale).all() and (scale > 0).all()):
        return
    image, cure = "the image", "leave the slice out"
    if num_rows < height:
        image = f"a crop of {num_rows} of {height} readout points"
        cure = "allowed is a larger MISC.GREEDY.CINE.READOUT_CROP, or 0 (no crop), or a smaller READOUT_CROP_JITTER"
    raise UserError(f"{where}: {image} holds no signal to scale it by (the scale is {scale.tolist()[0]:g}); {cure}")


def narrowed(mask: torch.Tensor) -> torch.Tensor:
    """A mask (H, W, T, 1) as (1, W, T, 1), if it does not vary along the readout."""
    varies = not torch.equal(mask[0], mask[len(mask) // 2]) or bool((mask != mask[:1]).any())
    return mask if varies else mask[:1]


def _own_mask(mask: np.ndarray, augmentation: Augmentation, where: str) -> torch.Tensor:
    """The augmented mask of a scan that has its own: (1, W, T, 1), or (H, W, T, 1) if it varies along the readout."""
    sampling = narrowed(torch.from_numpy(mask.astype(np.float32)))
    num_rows = len(augmentation.rows)
    if sampling.shape[0] == 1:
        return augmentation._replace(rows=np.arange(1)).image(sampling)
    if sampling.shape[0] != num_rows:
        raise UserError(
            f"MISC.GREEDY.CINE.READOUT_CROP: found {num_rows}, but the mask of {where} varies along the readout, which "
            "cannot be cropped then; 0 (no crop) is allowed"
        )
    return augmentation.image(sampling)


def _edge_mask(kspace: np.ndarray, augmentation: Augmentation) -> torch.Tensor:
    """1 at the edges of k-space (H, W, T, C) that were never acquired (are zero), else 0: (H, W, T, 1), float32.

    A cropped readout has no such edge: cropping the image blurs k-space.
    """
    rows, lines = (_between_zeros(kspace, axis) for axis in (0, 1))
    cropped = len(augmentation.rows) != len(rows)
    inner_rows = torch.ones(len(augmentation.rows), dtype=torch.bool)
    if not cropped:
        inner_rows = torch.from_numpy(rows[augmentation.rows])
    inner = inner_rows[:, None] & torch.from_numpy(lines[augmentation.lines])
    return (~inner).float()[:, :, None, None].expand(-1, -1, kspace.shape[2], 1)


def _between_zeros(kspace: np.ndarray, axis: int) -> np.ndarray:
    """True from the first to the last index of an axis where k-space is not zero; (size,)."""
    planes = np.moveaxis(kspace, axis, 0)
    size = len(planes)
    first = next((i for i in range(size) if planes[i].any()), size)
    last = next((i for i in range(size - 1, first - 1, -1) if planes[i].any()), first - 1)
    index = np.arange(size)
    return (first <= index) & (index <= last)
