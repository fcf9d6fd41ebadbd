"""What meddlr's wrappers draw for a batch: noise, motion, masks and augmentations.

meddlr's wrappers draw and train in one ``forward``. Greedy learning draws once for a batch, and then trains every
module on what was drawn. What is random comes of meddlr's own generators and functions, in meddlr's order.
"""

from typing import Any, Callable, Dict, List, Tuple

import meddlr.ops as oF
import numpy as np
import torch
from meddlr.forward.mri import SenseModel
from meddlr.modeling.meta_arch.denoising import DenoisingModel
from meddlr.modeling.meta_arch.m2r import M2RModel
from meddlr.modeling.meta_arch.n2r import N2RModel
from meddlr.modeling.meta_arch.nm2r import NM2RModel
from meddlr.modeling.meta_arch.ssdu import SSDUModel
from meddlr.modeling.meta_arch.vortex import VortexModel
from meddlr.ops import complex as cplx
from meddlr.transforms.build import seed_tfm_gens
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.parts import CONSISTENCY, RECON, Part
from meddlr_greedy.modeling.wrappers.held_out import LINES, REPLACED_KSPACE, REPLACED_MASK, TARGET

__all__ = ["Draws", "is_known", "seed_draws"]

Batch = Dict[str, Any]

_WITH_CONSISTENCY = (N2RModel, M2RModel, NM2RModel, VortexModel)


def is_known(model: nn.Module) -> bool:
    """Whether a network is a wrapper of meddlr around another one."""
    return isinstance(model, (*_WITH_CONSISTENCY, SSDUModel, DenoisingModel))


def seed_draws(model: Any, seed: int, device: torch.device) -> None:
    """Sets every generator that a wrapper, or one inside of it, draws from.

    Args:
        model: The wrapper.
        seed: Decides all that is drawn until the next call.
        device: Where k-space is. Noise is drawn there; what decides masks and augmentations on the CPU.
    """
    wrappers: List[Any] = []
    while is_known(model):
        wrappers.append(model)
        model = model.model
    for wrapper, state in zip(wrappers, np.random.SeedSequence(seed).generate_state(len(wrappers)).tolist()):
        noiser, masker = getattr(wrapper, "noiser", None), getattr(wrapper, "masker", None)
        augmentor: Any = getattr(wrapper, "augmentor", None)
        if noiser is not None:
            noiser.generator = torch.Generator(device).manual_seed(state)
        if masker is not None:
            masker.to("cpu")  # of another device, its generator cannot draw the numbers that it needs on the CPU
            masker.seed(state)
        if hasattr(augmentor, "generator"):
            augmentor.generator = torch.Generator().manual_seed(state)
        elif augmentor is not None:
            augmentor.to("cpu")
            seed_tfm_gens(augmentor.tfms_or_gens, state)


class Draws:
    """Makes the parts of a batch; what is drawn for them are the extension points.

    Args:
        use_consistency: ``MODEL.CONSISTENCY.USE_CONSISTENCY``.
    """

    def __init__(self, use_consistency: bool = True):
        self.use_consistency = use_consistency

    def parts(self, wrapper: Any, inputs: Batch) -> Dict[str, Part]:
        """The parts of a batch, in the order in which meddlr's wrapper gives them to its network.

        Args:
            wrapper: One of meddlr's, see :func:`is_known`.
            inputs: meddlr's batch, on the network's device; it is left as it is.

        Raises:
            UserError: The batch has nothing that the wrapper could train on.
        """
        supervised, unsupervised = _by_supervision(inputs)
        if isinstance(wrapper, DenoisingModel):
            return {RECON: Part(self._denoising(wrapper, supervised, unsupervised))}
        if isinstance(wrapper, SSDUModel):
            return {RECON: Part(self._held_out(wrapper, supervised, unsupervised))}
        parts = {}
        if isinstance(wrapper.model, SSDUModel):
            parts[RECON] = Part(self._held_out(wrapper.model, supervised, unsupervised))
        elif supervised:
            parts[RECON] = Part(supervised)
        clean = [unsupervised, _without_target(supervised) if wrapper.use_supervised_consistency else {}]
        if any(clean) and self.use_consistency:
            parts[CONSISTENCY] = self._consistency(wrapper, _joined(*clean))
        if not parts:
            raise UserError(
                f"{type(wrapper).__name__}: the batch has examples without targets alone, and"
                " MODEL.CONSISTENCY.USE_CONSISTENCY is False: there is nothing to train on"
            )
        return parts

    def _consistency(self, wrapper: Any, clean: Batch) -> Part:
        if isinstance(wrapper, VortexModel):
            kspace, maps, transform = self.augmented(wrapper.augmentor, clean["kspace"], clean["maps"])
            return Part({**clean, "kspace": kspace, "maps": maps}, clean, transform)
        model = wrapper.noiser if isinstance(wrapper, N2RModel) else wrapper.augmentor
        return Part({**clean, "kspace": self.perturbed(model, clean["kspace"])}, clean)

    def _denoising(self, wrapper: DenoisingModel, supervised: Batch, unsupervised: Batch) -> Batch:
        noisy = []
        for batch in (supervised, unsupervised):
            if not batch:
                continue
            kspace, maps = batch["kspace"], batch["maps"]
            if batch is supervised and wrapper.use_fully_sampled_target:
                kspace, target = SenseModel(maps)(batch["target"], adjoint=False), batch["target"]
            else:
                target = SenseModel(maps, weights=cplx.get_mask(kspace))(kspace, adjoint=True)
            noisy.append({**batch, "target": target, "kspace": self.perturbed(wrapper.noiser, kspace)})
        return _joined(*noisy)

    def _held_out(self, wrapper: SSDUModel, supervised: Batch, unsupervised: Batch) -> Batch:
        """A batch with points held out for the loss, see :mod:`~meddlr_greedy.modeling.wrappers.held_out`."""
        batch = _joined(_without_target(supervised), _without_target(unsupervised))
        if "edge_mask" not in batch:
            raise UserError(
                "MODEL.SSDU: the batch has no 'edge_mask', which meddlr leaves out with AUG_TRAIN.MRI_RECON.TRANSFORMS;"
                " allowed are ()"
            )
        kspace = batch["kspace"]
        inputs, train_mask, loss_mask = self.masked(wrapper, batch)
        inputs = {**inputs, LINES: loss_mask, TARGET: oF.ifft2c(loss_mask * kspace, channels_last=True)}
        if wrapper.postprocessor:
            replaced = batch["edge_mask"] if wrapper.postprocessor == "hard_dc_edge" else train_mask
            inputs.update({REPLACED_MASK: replaced, REPLACED_KSPACE: kspace})
        return inputs

    # ---- extension points: what is drawn

    def perturbed(self, model: Any, kspace: torch.Tensor) -> torch.Tensor:
        """k-space with noise or motion; meddlr computes motion on the CPU."""
        on = model.generator.device
        return model(kspace.to(on, copy=True), clone=False).to(kspace.device)

    def masked(self, wrapper: SSDUModel, batch: Batch) -> Tuple[Batch, torch.Tensor, torch.Tensor]:
        """The batch with the points that the network gets, their mask, and the mask of those held out (B, H, W, 1)."""
        inputs, _, train_mask, loss_mask = wrapper.augment(batch)
        return inputs, train_mask, loss_mask

    def augmented(
        self, augmentor: Any, kspace: torch.Tensor, maps: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """Augmented k-space and maps, and what the same draw does to images."""
        image = torch.zeros((*kspace.shape[:-1], maps.shape[-1]), dtype=kspace.dtype, device=kspace.device)
        out, transforms, _ = augmentor(kspace.clone(), maps.clone(), image, mask=True)

        def transform(image: torch.Tensor) -> torch.Tensor:
            image = image.permute(0, 3, 1, 2)
            for one in getattr(transforms, "transforms", transforms):
                image = one.apply_image(image)
            return image.permute(0, 2, 3, 1)

        return out["kspace"], out["maps"], transform


def _by_supervision(inputs: Batch) -> Tuple[Batch, Batch]:
    """The examples with and without targets; of either, there may be none."""
    if "supervised" in inputs or "unsupervised" in inputs:
        return inputs.get("supervised", {}), inputs.get("unsupervised", {})
    return (inputs, {}) if "target" in inputs else ({}, inputs)


def _without_target(batch: Batch) -> Batch:
    return {key: value for key, value in batch.items() if key != "target"}


def _joined(*batches: Batch) -> Batch:
    """The examples of several batches in one: the tensors that all have which are not empty."""
    first, *others = [batch for batch in batches if batch]
    if not others:
        return first
    tensors = (key for key in first if all(isinstance(batch.get(key), torch.Tensor) for batch in (first, *others)))
    return {key: torch.cat([batch[key] for batch in (first, *others)]) for key in tensors}
