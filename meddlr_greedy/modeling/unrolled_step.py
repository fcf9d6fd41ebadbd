"""How one unrolled step of a network runs: its random layers and buffers, and what is recomputed in backward.

In training a step can be run so that only its image is kept, and the step runs again in backward (gradient
checkpointing: Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174). The second run has to be
the first one again: with the same random numbers, and from the same buffers (the running statistics of BatchNorm).
"""

from contextlib import ExitStack, contextmanager
from typing import Iterator, List, NamedTuple, Optional, Tuple

import torch
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from torch import nn
from torch.utils.checkpoint import checkpoint

from meddlr_greedy.modeling.inputs import UnrolledProblem

__all__ = ["StepMode", "block_of_step", "run_step"]


class StepMode(NamedTuple):
    """How an unrolled step runs; the image that comes out does not depend on it."""

    recompute: bool = False  #: keep nothing but the image for backward, and run the step again there


def block_of_step(network: GeneralizedUnrolledCNN, i: int) -> nn.Module:
    """The regulariser of unrolled step ``i`` (from 0), which all steps share where weights are shared."""
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

    def step(image: torch.Tensor) -> torch.Tensor:
        with _seeded(seed, image.device):
            return network.step(
                image=image,
                model=block,
                A=problem.A,
                zf_image=problem.zf_image,
                step_size=network.step_sizes[i].to(image.device),
                dims=problem.dims,
            )

    if not (mode.recompute and torch.is_grad_enabled()):
        return step(image)
    buffers = _copied_buffers(block)
    return checkpoint(
        step,
        image,
        use_reentrant=False,
        preserve_rng_state=seed is None,
        context_fn=lambda: (ExitStack(), _from_buffers(buffers)),
    )


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


class _Buffer(NamedTuple):
    owner: nn.Module
    name: str
    value: torch.Tensor


def _buffers(block: nn.Module) -> List[_Buffer]:
    return [_Buffer(part, name, value) for part in block.modules() for name, value in part.named_buffers(recurse=False)]


def _copied_buffers(block: nn.Module) -> List[_Buffer]:
    return [buffer._replace(value=buffer.value.clone()) for buffer in _buffers(block)]


@contextmanager
def _from_buffers(buffers: List[_Buffer]) -> Iterator[None]:
    """Runs layers from buffers as they were; what the layers do to them has no effect."""
    now: List[Tuple[nn.Module, str, torch.Tensor]] = [(b.owner, b.name, getattr(b.owner, b.name)) for b in buffers]
    for owner, name, value in buffers:
        setattr(owner, name, value.clone())
    try:
        yield
    finally:  # the recomputation ends with an exception once everything needed is there
        for owner, name, value in now:
            setattr(owner, name, value)
