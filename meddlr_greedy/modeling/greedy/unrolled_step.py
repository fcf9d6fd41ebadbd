"""How one unrolled step of a network runs: its random layers, and what is held for backward."""

from contextlib import contextmanager
from typing import Any, Iterator, NamedTuple, Optional, Tuple

import torch
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from torch import nn

from meddlr_greedy.modeling.contract import forward_of
from meddlr_greedy.modeling.greedy.recomputing import RecomputingBlocks, recomputed
from meddlr_greedy.modeling.greedy.saved_in_int8 import SavedInInt8
from meddlr_greedy.modeling.greedy.tiled_regularizer import TiledRegularizer
from meddlr_greedy.modeling.problem import UnrolledProblem

__all__ = ["StepMode", "block_of_step", "regularizer_of", "run_step"]


class StepMode(NamedTuple):
    """How an unrolled step runs."""

    bfloat16: bool = False  #: layers of the regularizer compute in bfloat16; data consistency in float32 as ever
    tile: Tuple[int, int] = (0, 0)  #: rows and columns of the tiles that the regularizer runs on; 0 is the whole axis
    recompute: str = ""  #: what backward runs again, one by one: "step"s, or "block"s of the regularizer in them, too
    inverts: bool = False  #: backward runs the steps of a module back
    saved: str = ""  #: "int8" holds the activations of the regularizer as integers of 8 bits


def block_of_step(network: GeneralizedUnrolledCNN, i: int) -> nn.Module:
    """The regularizer of unrolled step ``i`` (from 0), which all steps share where weights are shared."""
    shared = network.num_repeat_steps > 0
    return network.resnets if shared else network.resnets[i]


def run_step(
    network: GeneralizedUnrolledCNN,
    i: int,
    image: torch.Tensor,
    problem: UnrolledProblem,
    mode: StepMode,
    seed: Optional[int] = None,
    residual: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """Unrolled step ``i`` (from 0) of a network.

    Args:
        network: Driven through its ``step``.
        i: Index of the step.
        image: Complex, shape (B, H, W, [T,] M).
        problem: The batch.
        mode: How the step runs.
        seed: Of what random layers (dropout) draw; None draws from torch's generators as they are.
        residual: Of a network that ``relies_on_convergence``: what its solves tell, see ``ImplicitSolve``.

    Returns:
        The next image, same shape.
    """
    block = block_of_step(network, i)
    regularizer = regularizer_of(block, mode, seed)

    def step(image: torch.Tensor) -> torch.Tensor:
        # Set here, since backward may run the step again after other ones.
        with _seeded(seed, image.device), _telling(network, residual):
            return network.step(
                image=image,
                model=regularizer,
                A=problem.A,
                zf_image=problem.zf_image,
                step_size=network.step_sizes[i].to(image.device),
                dims=problem.dims,
            )

    if mode.recompute and torch.is_grad_enabled():
        return recomputed(step, block, image, draws=seed is None)
    return step(image)


def regularizer_of(block: nn.Module, mode: StepMode, seed: Optional[int] = None) -> Any:
    """The regularizer ``block`` as a step calls it: maps (B, channels, [T,] H, W) to the same shape."""
    run: Any = _InBfloat16(block) if mode.bfloat16 else block
    if mode.recompute == "block":
        run = RecomputingBlocks(forward_of(run), block)
    if mode.saved:
        run = SavedInInt8(forward_of(run), block)
    return TiledRegularizer(forward_of(run), block, mode.tile, seed) if any(mode.tile) else run


@contextmanager
def _telling(network: Any, residual: Optional[torch.Tensor]) -> Iterator[None]:
    """Gives a network what its solves tell inside the block."""
    if residual is None:
        yield
        return
    network.residual = residual
    try:
        yield
    finally:
        network.residual = None


@contextmanager
def _seeded(seed: Optional[int], device: torch.device) -> Iterator[None]:
    """Seeds torch's generators of the CPU and of ``device``, and puts them back at the end; None leaves them alone."""
    if seed is None:
        yield
        return
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            torch.cuda.default_generators[device.index].manual_seed(seed)
        yield


class _InBfloat16:
    """A regularizer under autocast: image in and out in float32, and so are its parameters.

    No module, so that the network's parameters keep their names.
    """

    def __init__(self, block: nn.Module):
        self._forward = forward_of(block)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(image.device.type, torch.bfloat16):
            return self._forward(image).to(image.dtype)
