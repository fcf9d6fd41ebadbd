"""How one unrolled step of a network runs: its random layers and buffers, and what is recomputed in backward.

In training a step can be run so that only its image is kept, and the step runs again in backward (activation
checkpointing: Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174). The second run has to be
the first one again: with the same random numbers, and from the same buffers (the running statistics of BatchNorm).
"""

from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

import torch
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from torch import nn
from torch.utils.checkpoint import checkpoint

from meddlr_greedy.modeling.contract import forward_of
from meddlr_greedy.modeling.greedy.tiled_regularizer import TiledRegularizer
from meddlr_greedy.modeling.problem import UnrolledProblem

__all__ = ["StepMode", "block_of_step", "regularizer_of", "run_step"]


class StepMode(NamedTuple):
    """How an unrolled step runs."""

    recompute: bool = False  #: keep nothing but the image for backward, and run the step again there
    bfloat16: bool = False  #: layers of the regularizer compute in bfloat16; data consistency in float32 as ever
    tile: Tuple[int, int] = (0, 0)  #: rows and columns of the tiles that the regularizer runs on; 0 is the whole axis


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
) -> torch.Tensor:
    """Unrolled step ``i`` (from 0) of a network.

    Args:
        network: Driven through its ``step``.
        i: Index of the step.
        image: Complex, shape (B, H, W, [T,] M).
        problem: The batch.
        mode: How the step runs.
        seed: Of what random layers (dropout) draw; None draws from torch's generators as they are.

    Returns:
        The next image, same shape.
    """
    block = block_of_step(network, i)
    regularizer = regularizer_of(block, mode, seed)

    def step(image: torch.Tensor) -> torch.Tensor:
        with _seeded(seed, image.device):
            return network.step(
                image=image,
                model=regularizer,
                A=problem.A,
                zf_image=problem.zf_image,
                step_size=network.step_sizes[i].to(image.device),
                dims=problem.dims,
            )

    if not (mode.recompute and torch.is_grad_enabled()):
        return step(image)
    # The first run is the forward, all later ones recompute. (Of context_fn, torch 2.2 allows less where tensors have
    # no values, as in a plan.)
    contexts: Iterator[Any] = chain([ExitStack()], repeat(_FromBuffers(block)))

    def run(image: torch.Tensor) -> torch.Tensor:
        with next(contexts):
            return step(image)

    return checkpoint(run, image, use_reentrant=False, preserve_rng_state=seed is None)


def regularizer_of(block: nn.Module, mode: StepMode, seed: Optional[int] = None) -> Any:
    """The regularizer ``block`` as a step calls it: maps (B, channels, [T,] H, W) to the same shape."""
    regularizer: Any = _InBfloat16(block) if mode.bfloat16 else block
    return TiledRegularizer(forward_of(regularizer), block, mode.tile, seed) if any(mode.tile) else regularizer


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


class _Buffer(NamedTuple):
    owner: nn.Module
    name: str
    value: torch.Tensor


class _FromBuffers:
    """Runs layers from their buffers as they are now, as often as it is entered, and undoes what layers do to them."""

    def __init__(self, block: nn.Module):
        self._then = [buffer._replace(value=buffer.value.clone()) for buffer in _buffers(block)]
        self._before: List[_Buffer] = []

    def __enter__(self) -> None:
        self._before = [buffer._replace(value=getattr(buffer.owner, buffer.name)) for buffer in self._then]
        for owner, name, value in self._then:
            setattr(owner, name, value.clone())

    def __exit__(self, *exception: Any) -> None:
        for owner, name, value in self._before:
            setattr(owner, name, value)
        self._before = []


def _buffers(block: nn.Module) -> List[_Buffer]:
    return [_Buffer(part, name, value) for part in block.modules() for name, value in part.named_buffers(recurse=False)]
