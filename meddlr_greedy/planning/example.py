"""What a plan knows of the examples of a data set: shapes and types, no values."""

from typing import Any, Callable, Dict, NamedTuple, Sequence, Tuple

import torch
from meddlr.config import CfgNode

from meddlr_greedy.data.build import build_train_loader
from meddlr_greedy.errors import UserError

__all__ = ["Example"]


#: Shape and type of each tensor, without the batch axis.
Shapes = Dict[str, Tuple[Tuple[int, ...], torch.dtype]]


class Example(NamedTuple):
    """What is known of the examples of a data set without their values."""

    tensors: Shapes  #: of a training example
    evaluated: Shapes  #: of the same one in evaluation, where the readout is not cropped
    constant_along_readout: bool  #: whether the sampling mask is, which decides the form of the cine signal model

    @classmethod
    def from_data(cls, cfg: CfgNode) -> "Example":
        """Describes the first training example, as the network gets it; the others are not read.

        Raises:
            UserError: the data are not there, or cannot be used.
        """
        example = whole = _first_example(cfg)
        if cfg.MISC.GREEDY.CINE.READOUT_CROP:
            uncropped = cfg.clone().defrost()
            uncropped.MISC.GREEDY.CINE.READOUT_CROP = 0
            whole = _first_example(uncropped.freeze())
        mask = example["mask"]
        return cls(_shapes(example), _shapes(whole), constant_along_readout=bool((mask == mask[:1]).all()))

    @classmethod
    def from_shape(cls, cfg: CfgNode, shape: Sequence[int], num_maps: int = 1) -> "Example":
        """Describes an example that the config's data set could hold.

        Args:
            cfg: The config.
            shape: Of its k-space before READOUT_CROP, (H, W, T, C) for cine or (H, W, C).
            num_maps: M, the number of map sets.

        Raises:
            UserError: for another number of axes, or numbers that are not positive.
        """
        if len(shape) not in (3, 4) or min(*shape, num_maps) < 1:
            raise UserError(
                f"shape: found {tuple(shape)} with {num_maps} maps, allowed are positive numbers H,W,T,C for cine and"
                " H,W,C for 2D"
            )
        readout, *others = shape
        crop = cfg.MISC.GREEDY.CINE.READOUT_CROP
        cropped = [min(readout, crop), *others] if crop and len(shape) == 4 else shape
        return cls(
            _shapes_of_kspace(cfg, cropped, num_maps),
            _shapes_of_kspace(cfg, shape, num_maps),
            constant_along_readout=cfg.MISC.GREEDY.CINE.PARTIAL_ECHO == 0,
        )

    @property
    def is_cine(self) -> bool:
        """Whether its k-space has a frame axis."""
        return len(self.tensors["kspace"][0]) == 4

    def resized(self, height: int, width: int) -> "Example":
        """An example with ``height`` rows (readout) and ``width`` columns (phase encode), of which none is cropped."""
        tensors = {
            name: ((height, width, *shape[2:]) if len(shape) > 2 else shape, dtype)
            for name, (shape, dtype) in self.tensors.items()
        }
        return self._replace(tensors=tensors, evaluated=tensors)

    def batch(
        self, size: int, make: Callable[..., torch.Tensor] = torch.empty, evaluated: bool = False
    ) -> Dict[str, torch.Tensor]:
        """A batch of ``size`` examples, of training or as evaluated: ``make(shape, dtype=...)`` for each tensor."""
        shapes = self.evaluated if evaluated else self.tensors
        return {key: make((size, *shape), dtype=dtype) for key, (shape, dtype) in shapes.items()}


def _first_example(cfg: CfgNode) -> Dict[str, Any]:
    return build_train_loader(cfg, max(cfg.SEED, 0)).dataset[(0, 0)]


def _shapes(example: Dict[str, Any]) -> Shapes:
    return {key: (tuple(x.shape), x.dtype) for key, x in example.items() if isinstance(x, torch.Tensor)}


def _shapes_of_kspace(cfg: CfgNode, shape: Sequence[int], num_maps: int) -> Shapes:
    *pixels, num_coils = shape
    frames = [1] * (len(pixels) - 2)
    shapes: Shapes = {
        "kspace": (tuple(shape), torch.complex64),
        "maps": ((*pixels[:2], *frames, num_coils, num_maps), torch.complex64),
        "mean": ((1,), torch.float32),
        "std": ((1,), torch.float32),
        "norm": ((), torch.float32),
        "edge_mask": ((*pixels, 1), torch.float32),
        # meddlr's, of 2D, tells the sampled points of every coil.
        "mask": ((*pixels, 1 if frames else num_coils), torch.float32),
    }
    if cfg.MISC.GREEDY.CINE.LOSS_LINES:
        shapes["loss_kspace"], shapes["loss_mask"] = shapes["kspace"], shapes["mask"]
    else:
        shapes["target"] = ((*pixels, num_maps), torch.complex64)
    return shapes
