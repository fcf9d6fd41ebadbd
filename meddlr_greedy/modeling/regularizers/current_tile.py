"""The tile that a regularizer gets now, where it gets no whole image.

A tile is taken with the pixels around it that the regularizer sees. There nothing is padded: each convolution gives
fewer pixels than it gets, until the tile itself is left. What random layers draw is a function of the position in the
image, so that all tiles that hold a pixel draw the same there.
"""

import copy
import hashlib
import itertools
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Callable, ContextManager, Iterator, NamedTuple, Optional, Tuple

import torch
from torch import nn

from meddlr_greedy.modeling.tiles import Ends, Span, Tile

__all__ = ["cropped", "ends", "here", "on_tile", "positional_dropout", "run_on_tile"]


class _Current(NamedTuple):
    tile: Tile
    seed: Callable[[], int]
    first_example: int
    layers: Iterator[int]  #: numbers of random layers, in the order in which they run


_current: ContextVar[Optional[_Current]] = ContextVar("current tile", default=None)


@contextmanager
def on_tile(tile: Tile, seed: Callable[[], int], first_example: int = 0) -> Iterator[None]:
    """Inside the block a regularizer runs on a tile with its halo.

    Args:
        tile: Which.
        seed: Gives the seed of random layers, the same for all tiles of an image.
        first_example: Place in the batch of the first example that it gets.
    """
    before = _current.set(_Current(tile, seed, first_example, itertools.count()))
    try:
        yield
    finally:
        _current.reset(before)


def here() -> Callable[[], ContextManager[None]]:
    """Contexts in which what runs now can run again later: on this tile, with the same random numbers."""
    now = _copied(_current.get())

    @contextmanager
    def again() -> Iterator[None]:
        before = _current.set(_copied(now))
        try:
            yield
        finally:
            _current.reset(before)

    return again


def _copied(current: Optional[_Current]) -> Optional[_Current]:
    return None if current is None else current._replace(layers=copy.copy(current.layers))


def run_on_tile(
    function: Callable[[torch.Tensor], torch.Tensor],
    block: nn.Module,
    part: torch.Tensor,
    tile: Tile,
    seed: Callable[[], int],
    first_example: int = 0,
) -> torch.Tensor:
    """Runs a regularizer on a tile.

    Args:
        function: Runs it: maps (B, channels, [T,] H, W) to the same shape.
        block: The module in it.
        part: The tile with its halo, (B, channels, [T,] h, w); it stays as it is.
        tile: Which.
        seed: Gives the seed of random layers.
        first_example: Place in the batch of the first example of ``part``.

    Returns:
        torch.Tensor: The tile alone.
    """
    tile = tile if vars(type(block)).get("shrinks_on_tiles") else tile.with_edges()
    with on_tile(tile, seed, first_example):
        return tile.core_left(function(part.clone()), part.ndim - 2)  # it may change its input in place


def ends() -> Tuple[Ends, Ends]:
    """Along H and W: at which ends there is an edge of the image, where padding is due; at all of a whole image."""
    current = _current.get()
    return (Ends(), Ends()) if current is None else (current.tile.rows.ends, current.tile.columns.ends)


def cropped(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What convolutions have left of ``x``, (..., H, W), where they gave ``like``; ``x`` itself but for tiles."""
    for axis, own in zip((-2, -1), ends()):
        size = like.shape[axis]
        if x.shape[axis] != size:
            x = x.narrow(axis, _lost_before(x.shape[axis], size, own), size)
    return x


def positional_dropout(x: torch.Tensor, probability: float) -> Optional[torch.Tensor]:
    """Factors of dropout for a layer's input (..., H, W), the same shape, on the tile; None where there is no tile."""
    current = _current.get()
    if current is None:
        return None
    layer, (rows, columns) = next(current.layers), current.tile
    first_row, first_column = (_first(span, size) for span, size in zip((rows, columns), x.shape[-2:]))
    places = torch.arange(first_column, first_column + x.shape[-1], device=x.device) % columns.size

    def row_of_example(example: int, row: int) -> torch.Tensor:
        number = _seed(current.seed(), current.first_example + example, layer, row % rows.size)
        generator = torch.Generator(x.device).manual_seed(number)
        return torch.rand(*x.shape[1:-2], columns.size, generator=generator, device=x.device)[..., places]

    rows_to_draw = range(first_row, first_row + x.shape[-2])
    drawn = [torch.stack([row_of_example(b, row) for row in rows_to_draw], dim=-2) for b in range(len(x))]
    return (torch.stack(drawn) >= probability).to(x.dtype) / (1 - probability)


def _lost_before(size: int, left: int, own: Ends) -> int:
    """Pixels that convolutions have taken off the beginning of an axis; ends without an edge have lost the same."""
    return 0 if own.first else (size - left) // (2 - own.last)


def _first(span: Span, left: int) -> int:
    """The place in the image of the first pixel that is left of a tile with its halo."""
    begin, end = span.begin - span.before, span.end + span.after
    return begin + _lost_before(end - begin, left, span.ends)


def _seed(*numbers: int) -> int:
    """Generators on the CPU take 32 bits."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest(), "little")
