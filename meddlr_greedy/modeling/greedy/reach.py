"""How far a regularizer sees: found by trying, on a copy.

One input pixel is set to NaN, and the outputs that turn NaN are those that depend on it.
"""

import copy
import warnings
import weakref
from contextlib import contextmanager
from typing import Any, Dict, Hashable, Iterator, List, Optional, Tuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import _disable_current_modes

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.contract import forward_of
from meddlr_greedy.modeling.regularizers.current_tile import on_tile, run_on_tile
from meddlr_greedy.modeling.regularizers.padding import Padding
from meddlr_greedy.modeling.tiles import Reach, tiles_of

__all__ = ["reach_of"]

# Rows and columns of the image that a regularizer is tried with; poolings can halve them three times or more.
_SIZES = (24, 64, 128)
# Where its pixel is, beside the middle. What depends on the position (poolings, strides) shows in four of them.
_OFFSETS = ((0, 0), (1, 1), (2, 3), (3, 2))
_FURTHEST = _SIZES[-1] // 2 - max(map(max, _OFFSETS))  # that is seen of a pixel
# Rows or columns of an image that is long along one axis: dilated convolutions leave out what is near.
_LONG = 256
_KEY = "MISC.GREEDY.TILE"

# What was found: of regularizers of one structure (all blocks of a network, as a rule), and of others.
_found: Dict[Any, Reach] = {}
_found_of_others: "weakref.WeakKeyDictionary[nn.Module, Dict[Any, Reach]]" = weakref.WeakKeyDictionary()


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
    try:
        found, structure = _found, _structure(regularizer)
    except _UnknownError:
        found = _found_of_others.setdefault(regularizer, {})
        structure = tuple(part.training for part in regularizer.modules())
    asked = structure, channels, num_frames
    if asked not in found:
        found[asked] = _tried(regularizer, channels, num_frames)
    return found[asked]


class _UnknownError(Exception):
    """A part of a regularizer cannot be compared with that of another one."""


def _structure(value: Any) -> Hashable:
    """All that tells a regularizer from another one but the values of its weights.

    Raises:
        _UnknownError: It has parts that are not known, functions for example.
    """
    if value is None or isinstance(value, (bool, int, float, str, type, torch.dtype)):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(_structure(element) for element in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(_structure(element) for element in value)
    if isinstance(value, dict):
        return tuple((key, _structure(element)) for key, element in value.items())
    if isinstance(value, nn.Module):
        weights = [*value.parameters(recurse=False), *value.buffers(recurse=False)]
        if not all(w.is_floating_point() for w in weights):
            raise _UnknownError
        others = {key: part for key, part in vars(value).items() if key not in ("_parameters", "_buffers")}
        return type(value), tuple((tuple(w.shape), w.dtype) for w in weights), _structure(others)
    if isinstance(value, Padding):
        return type(value), _structure(vars(value))
    raise _UnknownError


def _tried(regularizer: nn.Module, channels: int, num_frames: Optional[int]) -> Reach:
    name = type(regularizer).__name__
    with _disable_current_modes(), torch.no_grad(), torch.random.fork_rng(devices=[]), _plain_convolutions():
        tried = _copied(regularizer)
        if _widest(tried) > _FURTHEST:  # all of it but its middle may lie beyond the images that are tried
            raise _too_far(name)
        _check_deterministic(tried, name, _image(channels, num_frames, _SIZES[0], _SIZES[0]))
        for size in _SIZES:
            image = _image(channels, num_frames, size, size)
            seen = {_seen(tried, image, (size // 2 + dh, size // 2 + dw)) for dh, dw in _OFFSETS}
            if None in seen:
                continue
            if len(seen) > 1:
                raise UserError(f"{_KEY}: what the regularizer {name} sees depends on the position; leave {_KEY} out")
            (distances,) = seen
            assert distances is not None
            if _seen_afar(tried, channels, num_frames, size) != distances:
                continue
            rows, columns = distances
            reached = _reached(tried, image, (0, 0))
            reach = Reach((max(rows), max(columns)), (bool(reached[-1].any()), bool(reached[:, -1].any())))
            _check_tiles(tried, name, image[..., : size - 1, : size - 3], reach)
            return reach
    raise _too_far(name)


def _too_far(name: str) -> UserError:
    return UserError(
        f"{_KEY}: the regularizer {name} sees more than {_FURTHEST} pixels to each side (a normalization sees the whole"
        f" image); leave {_KEY} out"
    )


def _widest(regularizer: nn.Module) -> int:
    """How far a single convolution of it sees, along readout and phase encode."""
    convolutions = [part for part in regularizer.modules() if isinstance(part, _ConvNd)]
    along = [zip(part.dilation[-2:], part.kernel_size[-2:]) for part in convolutions]
    return max((dilation * (size - 1) // 2 for axes in along for dilation, size in axes), default=0)


def _copied(regularizer: nn.Module) -> nn.Module:
    """A copy on the CPU in float32, with weights of its own: those of a network that is planned have no values."""
    values: Dict[int, Any] = {}
    torch.default_generator.manual_seed(0)
    for p in regularizer.parameters():  # of a size that neither grows nor shrinks an image much
        values[id(p)] = nn.Parameter(torch.rand(p.shape) / (p[0].numel() if p.ndim > 1 else 1))
    for b in regularizer.buffers():
        if b.is_floating_point():
            values[id(b)] = torch.rand(b.shape)
        elif isinstance(b, FakeTensor):
            values[id(b)] = torch.zeros(b.shape, dtype=b.dtype)
    return copy.deepcopy(regularizer, values)


@contextmanager
def _plain_convolutions() -> Iterator[None]:
    """Inside the block, no convolution takes pixels together as Winograd's algorithm does: there, NaN would spread."""
    with warnings.catch_warnings(), torch.backends.nnpack.flags(enabled=False):
        warnings.simplefilter("ignore")  # of Intel's GPUs, about a flag that is set along with the one wanted
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _image(channels: int, num_frames: Optional[int], height: int, width: int) -> torch.Tensor:
    frames = () if num_frames is None else (num_frames,)
    return torch.rand(1, channels, *frames, height, width)


def _reached(regularizer: nn.Module, image: torch.Tensor, pixel: Tuple[int, int]) -> torch.Tensor:
    """The output pixels (H, W) that depend on an input pixel."""
    image = image.clone()
    image[..., pixel[0], pixel[1]] = float("nan")
    out = forward_of(regularizer)(image).isnan()
    return out.flatten(end_dim=-3).any(dim=0)


def _seen(
    regularizer: nn.Module, image: torch.Tensor, pixel: Tuple[int, int]
) -> Optional[Tuple[Tuple[int, int], Tuple[int, int]]]:
    """How far outputs depend on an input pixel: before and after it, along H and W; None: up to an edge."""
    reached = _reached(regularizer, image, pixel)
    distances: List[Tuple[int, int]] = []
    for axis, at in enumerate(pixel):
        places = reached.any(dim=1 - axis).nonzero().flatten().tolist() or [at]
        if places[0] == 0 or places[-1] == reached.shape[axis] - 1:
            return None
        distances.append((at - places[0], places[-1] - at))
    return distances[0], distances[1]


def _seen_afar(
    regularizer: nn.Module, channels: int, num_frames: Optional[int], size: int
) -> Optional[Tuple[Tuple[int, int], Tuple[int, int]]]:
    """As :func:`_seen`, of pixels that are far along one axis, too."""
    along = []
    for axis, (height, width) in enumerate([(_LONG, size), (size, _LONG)]):
        seen = _seen(regularizer, _image(channels, num_frames, height, width), (height // 2, width // 2))
        if seen is None:
            return None
        along.append(seen[axis])
    return along[0], along[1]


def _check_deterministic(regularizer: nn.Module, name: str, image: torch.Tensor) -> None:
    outputs: Dict[int, torch.Tensor] = {}
    height, width = image.shape[-2:]
    (whole,) = tiles_of((height, width), (0, 0), Reach((0, 0), (False, False)))
    for seed in (0, 1):
        torch.default_generator.manual_seed(seed)
        with on_tile(whole, lambda: 0):  # where random layers of this plugin draw the same again
            outputs[seed] = forward_of(regularizer)(image)
    if not torch.equal(outputs[0], outputs[1]):
        raise UserError(
            f"{_KEY}: the regularizer {name} draws random numbers in training, which would differ from tile to tile;"
            f" set MODEL.UNROLLED.DROPOUT to 0, or leave {_KEY} out"
        )


def _check_tiles(regularizer: nn.Module, name: str, image: torch.Tensor, reach: Reach) -> None:
    """Compares tiles of an image with the whole: NaN does not show all that a regularizer may do."""
    height, width = image.shape[-2:]
    (whole,) = tiles_of((height, width), (0, 0), reach)
    expected = run_on_tile(forward_of(regularizer), regularizer, image, whole, lambda: 0)
    for tile in tiles_of((height, width), (height // 2, width // 2), reach):
        found = run_on_tile(forward_of(regularizer), regularizer, tile.take(image, -2), tile, lambda: 0)
        core = tile.core(expected, image.ndim - 2)
        if found.shape != core.shape or not torch.allclose(found, core, rtol=1e-3, atol=1e-3 * float(core.abs().max())):
            raise UserError(f"{_KEY}: of tiles, the regularizer {name} makes another image; leave {_KEY} out")
