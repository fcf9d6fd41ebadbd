"""Tiles of an image: rectangles that cover it, each with a halo of what a regularizer sees beyond it."""

from typing import Iterator, List, NamedTuple, Tuple

import torch

__all__ = ["Ends", "Reach", "Span", "Tile", "tiles_of"]


class Reach(NamedTuple):
    """How far a regularizer sees, in pixels to each side along readout and phase encode."""

    distance: Tuple[int, int]
    wraps: Tuple[bool, bool]  #: whether it sees the opposite edge, beyond an edge


class Ends(NamedTuple):
    """At which ends of a tile along one axis the image ends, too."""

    first: bool = True
    last: bool = True


class Span(NamedTuple):
    """A tile along one axis."""

    begin: int  #: of the core
    end: int
    before: int  #: pixels of halo; they may lie beyond the opposite edge
    after: int
    size: int  #: of the axis
    ends: Ends = Ends()  #: where core and halo end with the axis, and nothing is beyond

    @property
    def core(self) -> slice:
        """The core in the image."""
        return slice(self.begin, self.end)

    @property
    def core_left(self) -> slice:
        """The core in what convolutions leave of the core with its halo; where they pad at both ends, that is all."""
        before = self.before if self.ends.first else 0
        return slice(before, before + self.end - self.begin)

    def pieces(self) -> Iterator[Tuple[int, int, int]]:
        """Core and halo in pieces that lie together in the image: (begin in the image, begin in the tile, length)."""
        at, stop = self.begin - self.before, self.end + self.after
        inside = 0
        while at < stop:
            begin = at % self.size
            length = min(stop - at, self.size - begin)
            yield begin, inside, length
            at, inside = at + length, inside + length


class Tile(NamedTuple):
    """A rectangle of an image whose axes H and W are adjacent."""

    rows: Span
    columns: Span

    def with_edges(self) -> "Tile":
        """The tile for what pads on all sides, whatever is there, so that as many pixels are left as were taken."""
        return Tile(self.rows._replace(ends=Ends()), self.columns._replace(ends=Ends()))

    def take(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """The tile with its halo.

        Args:
            x: An image, (..., H, W, ...).
            axis: That of H.

        Returns:
            torch.Tensor: A view where the halo does not cross an edge, else a copy.
        """
        for span, a in ((self.rows, axis), (self.columns, axis + 1)):
            pieces = [x.narrow(a, begin, length) for begin, _, length in span.pieces()]
            x = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=a)
        return x

    def add(self, total: torch.Tensor, part: torch.Tensor, axis: int) -> None:
        """Adds what :meth:`take` would take of ``total``: the adjoint of taking; arguments as there."""
        for row, row_inside, height in self.rows.pieces():
            for column, column_inside, width in self.columns.pieces():
                source = part.narrow(axis, row_inside, height).narrow(axis + 1, column_inside, width)
                total.narrow(axis, row, height).narrow(axis + 1, column, width).add_(source)

    def core(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """The core of an image (..., H, W, ...), a view; ``axis`` is that of H."""
        return x[(slice(None),) * axis + (self.rows.core, self.columns.core)]

    def core_left(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """The core of what convolutions leave of it inside :func:`on_tile`, a view; ``axis`` is that of H."""
        return x[(slice(None),) * axis + (self.rows.core_left, self.columns.core_left)]


def tiles_of(shape: Tuple[int, int], size: Tuple[int, int], reach: Reach) -> List[Tile]:
    """Cuts an image into tiles, in row order.

    Args:
        shape: H and W of the image.
        size: Rows and columns of the core of a tile; 0 is the whole axis. The last tiles may be smaller.
        reach: Of what runs on the tiles.
    """
    rows, columns = (_spans(*axis) for axis in zip(shape, size, reach.distance, reach.wraps))
    return [Tile(row, column) for row in rows for column in columns]


def _spans(length: int, size: int, distance: int, wraps: bool) -> List[Span]:
    if size == 0 or size >= length:
        return [Span(0, length, 0, 0, length)]
    spans = []
    for begin in range(0, length, size):
        end = min(begin + size, length)
        before, after = (distance, distance) if wraps else (min(distance, begin), min(distance, length - end))
        ends = Ends(begin == before and not wraps, length - end == after and not wraps)
        spans.append(Span(begin, end, before, after, length, ends))
    return spans
