"""Data consistency against the least that it needs: A^H A against its FFTs, conjugate gradients against their A^H A."""

import time
from functools import partial
from typing import Any, Dict, Tuple

import torch

from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import conjugate_gradient, implicit_conjugate_gradient
from projects.cine.benchmarks.options import Options
from projects.cine.support.measuring import Step, interleave, make_batch, quartiles
from projects.cine.support.tables import ratio_as_text

__all__ = ["operators"]

_SHAPE, _SMALL_SHAPE = ((160, 160, 20), 8), ((16, 12, 4), 2)
_ITERATIONS, _MU = 10, 0.1
# Scaling of the FFT and of its inverse.
_ORTHONORMAL, _UNSCALED = ("ortho", "ortho"), ("backward", "forward")


def operators(options: Options) -> Dict[str, Any]:
    """Processor time of operators, forward and backward, over that of what they cannot do without."""
    shape, num_coils = _SMALL_SHAPE if options.small else _SHAPE
    batch = make_batch(options.device, shape, num_coils)
    model = CineSenseModel(batch["maps"], batch["mask"])
    image, grad = (model(batch["kspace"], adjoint=True) * factor for factor in (1, 2))  # in the order of A^H A
    rows, raw = [], {}
    for name, (side, least, reference) in _comparisons(model, image, grad).items():
        found = interleave({"": side, "least": least}, options.rounds or 15, warmup=2, clock=time.process_time)
        rows.append(
            {"operator": name, "over": reference, "ratio": ratio_as_text(quartiles(found[""], found["least"]), 2)}
        )
        raw[name] = found
    return {"shape": [*shape, num_coils], "rows": rows, "all": raw}


def _comparisons(model: CineSenseModel, x: torch.Tensor, grad: torch.Tensor) -> Dict[str, Tuple[Step, Step, str]]:
    """Name -> an operator, the least that it needs, and what that is."""
    batch, height, width, num_frames, _ = x.shape
    coil_images = torch.zeros(batch, model.maps.shape[4], num_frames, height, width, dtype=x.dtype, device=x.device)
    copied = torch.empty_like(coil_images)

    def ffts_and_copy(norms: Tuple[str, str]) -> None:
        for _ in range(2):  # forward and backward
            torch.fft.ifft(torch.fft.fft(coil_images, norm=norms[0]), norm=norms[1])
            copied.copy_(coil_images)

    def normal_and_gradient() -> None:
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(model.normal(leaf), leaf, grad)

    @torch.no_grad()
    def normals(times: int) -> None:
        for _ in range(times):
            model.normal(x)

    @torch.no_grad()
    def solve() -> None:
        conjugate_gradient(model.normal, x, torch.zeros_like(x), _MU, _ITERATIONS, eps=0.0)

    def solve_and_gradient(solve: Any) -> None:
        leaf, mu = x.detach().requires_grad_(), torch.tensor(_MU, device=x.device, requires_grad=True)
        torch.autograd.grad(solve(model.normal, leaf, x.detach(), mu, _ITERATIONS, 0.0), (leaf, mu), grad)

    def over(times: int) -> Tuple[Step, str]:
        return partial(normals, times), f"{times} A^H A"

    once, twice = _ITERATIONS + 1, 2 * _ITERATIONS + 1  # one for the residual at the start; a gradient starts from zero
    name = f"conjugate gradients, {_ITERATIONS} iterations"
    return {
        "A^H A, forward and backward": (
            normal_and_gradient,
            partial(ffts_and_copy, _ORTHONORMAL),
            "its FFTs, orthonormal, and a copy of coil images",
        ),
        "A^H A, forward and backward, again": (
            normal_and_gradient,
            partial(ffts_and_copy, _UNSCALED),
            "its FFTs, unscaled as in it, and a copy of coil images",
        ),
        f"{name}, forward": (solve, *over(once)),
        f"{name}, implicit, forward and backward": (
            partial(solve_and_gradient, implicit_conjugate_gradient),
            *over(twice),
        ),
        f"{name}, unrolled, forward and backward": (partial(solve_and_gradient, conjugate_gradient), *over(twice)),
    }
