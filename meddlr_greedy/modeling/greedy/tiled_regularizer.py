r"""A regularizer that runs tile by tile, forward and backward.

An output pixel of a convolutional regularizer R depends on the input pixels within its *reach* alone. So R of an image
is put together of R of its tiles, each taken with a *halo* as wide as the reach::

    forward:   y[core] = R(v[core + halo])[core]                        for each tile, without a graph; v is kept
    backward:  run each tile again, with the gradient of y[core];       gradients of parameters add up
               gradient of v[core + halo] += that of the tile           halos overlap

What is held for backward is v and, for a moment, what one tile needs. The gradient is exact. At the edges of the image
tiles have no halo, so that R pads there as it always does; where R goes on at the opposite edge, the halo does, too.
"""

from typing import Any, Callable, List, Optional, Tuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from meddlr_greedy.modeling.greedy.gradients import Gradients, add_gradients
from meddlr_greedy.modeling.greedy.reach import reach_of
from meddlr_greedy.modeling.regularizers.current_tile import run_on_tile
from meddlr_greedy.modeling.tiles import Tile, tiles_of

__all__ = ["TiledRegularizer"]


class TiledRegularizer:
    """Stands in the place of the regularizer that an unrolled step calls.

    No module, so that the network's parameters keep their names.

    Args:
        regularizer: Maps (B, channels, [T,] H, W) to the same shape.
        block: The module in it.
        size: Rows and columns of the core of a tile; 0 is the whole axis.
        seed: Of random layers; None draws one.
    """

    def __init__(
        self,
        regularizer: Callable[[torch.Tensor], torch.Tensor],
        block: nn.Module,
        size: Tuple[int, int],
        seed: Optional[int] = None,
    ):
        self.regularizer, self._block, self._size = regularizer, block, size
        self._seed = seed
        self.parameters = [p for p in block.parameters() if p.requires_grad]

    def __call__(self, v: torch.Tensor) -> torch.Tensor:
        """(B, channels, [T,] H, W) to the same shape.

        Raises:
            UserError: It cannot be put together of tiles.
        """
        return _Tiled.apply(v, self, *self.parameters)

    def seed(self) -> int:
        """The seed of random layers, the same for all tiles."""
        if self._seed is None:
            self._seed = int(torch.randint(2**31, ()))
        return self._seed

    def run(self, part: torch.Tensor, tile: Tile, first_example: int = 0) -> torch.Tensor:
        """A tile with its halo, (B, channels, [T,] h, w), to its core; for ``first_example`` see `run_on_tile`."""
        return run_on_tile(self.regularizer, self._block, part, tile, self.seed, first_example)

    def tiles(self, v: torch.Tensor) -> List[Tile]:
        """The tiles of what is regularized, (B, channels, [T,] H, W), in row order."""
        _, channels, *num_frames, height, width = v.shape
        return self._tiles(height, width, channels, *num_frames)

    def tiles_of_image(self, image: torch.Tensor) -> List[Tile]:
        """The tiles of an image, complex (B, H, W, [T,] M), in row order."""
        _, height, width, *num_frames, num_maps = image.shape
        return self._tiles(height, width, 2 * num_maps, *num_frames)

    def _tiles(self, height: int, width: int, channels: int, *num_frames: int) -> List[Tile]:
        return tiles_of((height, width), self._size, reach_of(self._block, channels, *num_frames))


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, v: torch.Tensor, tiled: TiledRegularizer, *parameters: nn.Parameter
    ) -> torch.Tensor:
        ctx.save_for_backward(v)
        ctx.tiled, ctx.parameters = tiled, parameters
        out = torch.empty_like(v)
        axis = v.ndim - 2
        for tile in tiled.tiles(v):
            tile.core(out, axis).copy_(tiled.run(tile.take(v, axis), tile))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Tuple[Any, ...]:  # type: ignore[override]
        (v,) = ctx.saved_tensors
        axis = v.ndim - 2
        v_gradient = torch.zeros_like(v) if ctx.needs_input_grad[0] else None
        gradients: Gradients = {}
        for tile in ctx.tiled.tiles(v):
            part = tile.take(v, axis).detach().requires_grad_(v_gradient is not None)
            with torch.enable_grad():
                core = ctx.tiled.run(part, tile)
            if not core.requires_grad:
                continue
            wanted = [*ctx.parameters, *([part] if v_gradient is not None else [])]
            found = torch.autograd.grad(core, wanted, tile.core(grad, axis), allow_unused=True)
            add_gradients(gradients, dict(zip(ctx.parameters, found)))
            if v_gradient is not None and found[-1] is not None:
                tile.add(v_gradient, found[-1], axis)
        return (v_gradient, None, *(gradients.get(p) for p in ctx.parameters))
