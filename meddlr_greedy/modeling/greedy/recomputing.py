"""Activation checkpointing: a part of a network keeps its input alone, and runs again in backward.

Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174. The second run has to be the first one
again: with the same random numbers, from the same buffers (the running statistics of BatchNorm), on the same tile.
"""

from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from typing import Any, Callable, Iterator, List, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.regularizers.current_tile import here

__all__ = ["RecomputingBlocks", "recomputed"]


def recomputed(function: Callable[..., Any], block: nn.Module, *inputs: Any, draws: bool = True) -> Any:
    """``function(*inputs)``, of which only the inputs are kept for backward.

    Args:
        function: Runs ``block``.
        block: Whose buffers are as they were when it runs again.
        *inputs: Of the function.
        draws: Whether torch's generators are, too.
    """
    # The first run is the forward, all later ones recompute. (Of context_fn, torch 2.2 allows less where tensors have
    # no values, as in a plan.)
    contexts: Iterator[Any] = chain([ExitStack()], repeat(_Again(block)))

    def run(*inputs: Any) -> Any:
        with next(contexts):
            return function(*inputs)

    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=draws)


class RecomputingBlocks:
    """A regularizer of which backward runs the residual blocks again, one by one.

    Its blocks are the elements of its module lists (``nn.ModuleList``). No module, so that the network's parameters
    keep their names.

    Args:
        run: Runs the regularizer: maps (B, channels, [T,] H, W) to the same shape.
        regularizer: The module.

    Raises:
        UserError: It has no blocks.
    """

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], regularizer: nn.Module):
        lists = [part for part in regularizer.children() if isinstance(part, nn.ModuleList)]
        self._run = run
        self._blocks = list(dict.fromkeys(block for part in lists for block in part))  # one may stand in several places
        if not self._blocks:
            raise UserError(
                f"MISC.GREEDY.CHECKPOINT: found 'block', but the regularizer {type(regularizer).__name__} has no list"
                " of blocks (nn.ModuleList); allowed are '' and 'step'"
            )

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """(B, channels, [T,] H, W) to the same shape."""
        if not torch.is_grad_enabled():
            return self._run(image)
        with ExitStack() as stack:
            for block in self._blocks:
                stack.enter_context(_recomputing(block))
            return self._run(image)


@contextmanager
def _recomputing(block: nn.Module) -> Iterator[None]:
    """Inside the context, ``block`` is recomputed in backward wherever it is called."""
    forward = block.forward
    block.forward = lambda *inputs: recomputed(forward, block, *inputs)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del block.forward


class _Buffer(NamedTuple):
    owner: nn.Module
    name: str
    value: torch.Tensor


class _Again:
    """Runs layers on the tile and from the buffers of now, as often as it is entered, and leaves the buffers alone."""

    def __init__(self, block: nn.Module):
        self._then = [buffer._replace(value=buffer.value.clone()) for buffer in _buffers(block)]
        self._before: List[_Buffer] = []
        self._on_tile = here()
        self._stack = ExitStack()

    def __enter__(self) -> None:
        self._stack.enter_context(self._on_tile())
        self._before = [buffer._replace(value=getattr(buffer.owner, buffer.name)) for buffer in self._then]
        for owner, name, value in self._then:
            setattr(owner, name, value.clone())

    def __exit__(self, *exception: Any) -> None:
        for owner, name, value in self._before:
            setattr(owner, name, value)
        self._before = []
        self._stack.close()


def _buffers(block: nn.Module) -> List[_Buffer]:
    return [_Buffer(part, name, value) for part in block.modules() for name, value in part.named_buffers(recurse=False)]
