"""A plan that follows an operator once, against one that follows it each time."""

from contextlib import nullcontext

import pytest
import torch

from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import conjugate_gradient
from meddlr_greedy.planning.known_operators import operators_followed_once
from meddlr_greedy.planning.trace import traced


def of_images_in_two_orders(A, image):
    other = torch.empty(1, 2, 5, 8, 10, dtype=torch.complex64).permute(0, 4, 3, 2, 1)
    return [A.normal(x) for x in (image, other, image, other, image)]


def of_a_solve(A, image):
    solution = conjugate_gradient(A.normal, image, torch.zeros_like(image), mu=0.1, max_iter=4)
    return [solution, *torch.autograd.grad(solution, image, torch.empty_like(image))]


def of_k_space(A, image):
    A.largest_part = 2000
    kspace = [A(image), A(image), A(2 * image)]
    return [*kspace, *[A(y, adjoint=True) for y in kspace], A.zero_filled(kspace[0])]


def of_parts_of_another_size(A, image):
    out = [A.normal(image), A.normal(image), A.normal(image)]
    A.largest_part = 1
    return [*out, A.normal(image)]


@pytest.mark.parametrize("block", [1, 512])
@pytest.mark.parametrize("run", [of_images_in_two_orders, of_a_solve, of_k_space, of_parts_of_another_size])
def test_memory_and_operations_are_those_of_following_each_time(run, block, monkeypatch):
    calls = []

    def followed(once):
        with traced(block) as trace, operators_followed_once(trace) if once else nullcontext():
            A = CineSenseModel(torch.empty(1, 10, 8, 1, 3, 2, dtype=torch.complex64), torch.empty(1, 10, 8, 5, 1))
            image = torch.empty(1, 10, 8, 5, 2, dtype=torch.complex64, requires_grad=True)
            calls.clear()
            out = run(A, image)
            forms = [(x.shape, x.stride(), x.dtype, x.requires_grad) for x in out]
            found = [trace.peak, trace.alive, trace.operations, trace.work.calls, trace.work.counts, forms]
            kinds = [kind for kind, _ in trace.work.operations()]
            del A, out, image
            return [*found, trace.alive], set(kinds), len(calls)

    for name in ("_normal", "_forward", "_adjoint"):
        original = getattr(CineSenseModel, name)

        def counted(self, *args, original=original, **kwargs):
            calls.append(1)
            return original(self, *args, **kwargs)

        counted.__name__ = name
        monkeypatch.setattr(CineSenseModel, name, counted)
    *each, calls_each = followed(once=False)
    *once, calls_once = followed(once=True)
    assert once == each
    assert calls_once < calls_each
