"""How far a regularizer sees: found by trying, on a copy.

One input pixel is set to NaN, and the outputs that turn NaN are those that depend on it.
"""

import copy
import warnings
import weakref
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional, Tuple

import torch
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.contract import forward_of
from meddlr_greedy.modeling.greedy.tiles import Reach

__all__ = ["reach_of"]

# Rows and columns of the image that a regularizer is tried with; poolings can halve them four times.
_SIZES = (32, 64, 128)
# Where its pixel is, beside the middle. What depends on the position (poolings, strides) shows in four of them.
_OFFSETS = ((0, 0), (1, 1), (2, 3), (3, 2))
_KEY = "MISC.GREEDY.TILE"


# Of each regularizer what it was tried with, and what was found.
_found: "weakref.WeakKeyDictionary[nn.Module, Dict[Any, Reach]]" = weakref.WeakKeyDictionary()


def reach_of(regularizer: nn.Module, channels: int, num_frames: Optional[int] = None) -> Reach:
    """How far a regularizer sees along readout and phase encode.

    Args:
        regularizer: Maps (B, channels, [T,] H, W) to the same shape; it stays as it is.
        channels: Channels of its input.
        num_frames: T, where there is such an axis.

    Raises:
        UserError: Tiles of it cannot be put together: it sees the whole image (as a normalization over the image does),
            what it sees depends on the position (as with poolings), or it draws random numbers.
    """
    found = _found.setdefault(regularizer, {})
    asked = channels, num_frames, regularizer.training
    if asked not in found:
        found[asked] = _tried(regularizer, channels, num_frames)
    return found[asked]


def _tried(regularizer: nn.Module, channels: int, num_frames: Optional[int]) -> Reach:
    name = type(regularizer).__name__
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _plain_convolutions():
        tried = copy.deepcopy(regularizer).to("cpu", torch.float32)
        _check_deterministic(tried, name, _image(channels, num_frames, _SIZES[0]))
        for size in _SIZES:
            image = _image(channels, num_frames, size)
            seen = [_distances(tried, image, (size // 2 + dh, size // 2 + dw)) for dh, dw in _OFFSETS]
            if None in seen:
                continue
            if len(set(seen)) > 1:
                raise UserError(f"{_KEY}: what the regularizer {name} sees depends on the position; leave {_KEY} out")
            distance = seen[0]
            assert distance is not None
            return Reach(distance, _wraps(tried, image))
    raise UserError(
        f"{_KEY}: the regularizer {name} sees more than {_SIZES[-1] // 2 - max(map(max, _OFFSETS))} pixels to each side"
        f" (a normalization sees the whole image); leave {_KEY} out"
    )


@contextmanager
def _plain_convolutions() -> Iterator[None]:
    """Inside the block, no convolution takes pixels together as Winograd's algorithm does: there, NaN would spread."""
    with warnings.catch_warnings(), torch.backends.nnpack.flags(enabled=False):
        warnings.simplefilter("ignore")  # of Intel's GPUs, about a flag that is set along with the one wanted
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _image(channels: int, num_frames: Optional[int], size: int) -> torch.Tensor:
    frames = () if num_frames is None else (num_frames,)
    return torch.rand(1, channels, *frames, size, size)


def _forward(regularizer: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return forward_of(regularizer)(image)


def _reached(regularizer: nn.Module, image: torch.Tensor, pixel: Tuple[int, int]) -> torch.Tensor:
    """The output pixels (H, W) that depend on an input pixel."""
    image = image.clone()
    image[..., pixel[0], pixel[1]] = float("nan")
    out = _forward(regularizer, image).isnan()
    return out.flatten(end_dim=-3).any(dim=0)


def _distances(regularizer: nn.Module, image: torch.Tensor, pixel: Tuple[int, int]) -> Optional[Tuple[int, int]]:
    """The largest distances along H and W of an output pixel that depends on an input pixel; None: up to an edge."""
    reached = _reached(regularizer, image, pixel)
    distances = []
    for axis, at in enumerate(pixel):
        places = reached.any(dim=1 - axis).nonzero().flatten().tolist() or [at]
        if places[0] == 0 or places[-1] == reached.shape[axis] - 1:
            return None
        distances.append(max(at - places[0], places[-1] - at))
    return distances[0], distances[1]


def _wraps(regularizer: nn.Module, image: torch.Tensor) -> Tuple[bool, bool]:
    middle = image.shape[-1] // 2
    rows = _reached(regularizer, image, (0, middle))[-1].any()
    columns = _reached(regularizer, image, (middle, 0))[:, -1].any()
    return bool(rows), bool(columns)


def _check_deterministic(regularizer: nn.Module, name: str, image: torch.Tensor) -> None:
    outputs: Dict[int, torch.Tensor] = {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        outputs[seed] = _forward(regularizer, image)
    if not torch.equal(outputs[0], outputs[1]):
        raise UserError(
            f"{_KEY}: the regularizer {name} draws random numbers in training, which would differ from tile to tile;"
            f" set MODEL.UNROLLED.DROPOUT to 0, or leave {_KEY} out"
        )
