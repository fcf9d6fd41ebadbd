"""Conjugate gradients against meddlr's, and the gradient of their solution."""

import pytest
import torch
from meddlr.ops.opt import conjgrad

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.ops import conjugate_gradient as module
from meddlr_greedy.ops.conjugate_gradient import ImplicitSolve, conjugate_gradient, implicit_conjugate_gradient
from meddlr_greedy.ops.devices import standing_for
from meddlr_greedy.planning.trace import traced
from tests.helpers.operators import SHAPES, make_sense, randn, relative

pytestmark = pytest.mark.short


def spd_batch(eigenvalues, size=12, dtype=torch.complex64):
    """One Hermitian positive matrix per example, and the operator that applies them."""
    torch.manual_seed(1)
    q, _ = torch.linalg.qr(randn(len(eigenvalues), size, size).to(dtype))
    diagonal = torch.stack([torch.linspace(lo, hi, size) for lo, hi in eigenvalues]).to(q.dtype)
    matrices = q @ torch.diag_embed(diagonal) @ q.mH
    return matrices, lambda x: (matrices @ x[..., None])[..., 0]


class TestConjugateGradient:
    def test_solves(self):
        matrices, normal = spd_batch([(0.5, 2.0), (1.0, 9.0)])
        b = randn(2, 12)
        x = conjugate_gradient(normal, b, torch.zeros_like(b), mu=0.3, max_iter=30, eps=1e-5)
        solution = torch.linalg.solve(matrices + 0.3 * torch.eye(12), b)
        assert relative(x, solution) < 1e-5

    def test_agrees_with_meddlr_for_one_example(self):
        _, normal = spd_batch([(0.5, 2.0)])
        b, x0 = randn(1, 12), randn(1, 12)
        for max_iter in (1, 3, 6):
            ours = conjugate_gradient(normal, b, x0, mu=0.1, max_iter=max_iter)
            assert relative(ours, conjgrad(x0, b, normal, 0.1, max_iter=max_iter)) < 1e-5

    @pytest.mark.parametrize("scale, iterations", [(1e-4, 0), (1.0, 9), (1e4, 12)])
    def test_eps_is_a_residual_norm_whatever_that_of_b(self, scale, iterations):
        """As in meddlr. With a relative one, all of them would take as many iterations."""
        _, normal = spd_batch([(0.5, 9.0)])
        b, start = scale * randn(1, 12), torch.zeros(1, 12, dtype=torch.complex64)
        ours = conjugate_gradient(normal, b, start, mu=0.1, max_iter=12, eps=1e-2)
        assert torch.equal(ours, implicit_conjugate_gradient(normal, b, start, mu=0.1, max_iter=12, eps=1e-2))
        for expected in (
            conjgrad(start, b, normal, 0.1, max_iter=12, eps=1e-2),
            conjgrad(start, b, normal, 0.1, max_iter=iterations, eps=0),
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * scale if iterations else 0)

    def test_examples_do_not_influence_each_other(self):
        matrices, normal = spd_batch([(1.0, 1.0), (0.1, 50.0)])
        b = randn(2, 12)
        together = conjugate_gradient(normal, b, torch.zeros_like(b), mu=0.0, max_iter=8)
        alone = conjugate_gradient(
            lambda x: (matrices[:1] @ x[..., None])[..., 0], b[:1], torch.zeros_like(b[:1]), mu=0.0, max_iter=8
        )
        assert torch.equal(together[:1], alone)

    @pytest.mark.parametrize("eps", [1e-4, 0.3, 3.0, 1e3])
    def test_a_batch_that_ends_together_is_meddlrs(self, eps):
        """The same image and the same gradient: it ends at the same iteration."""
        _, normal = spd_batch([(0.5, 2.0), (0.1, 9.0)])
        found = []
        for ours in (True, False):
            torch.manual_seed(3)
            b, x0, weights = randn(2, 12).requires_grad_(), randn(2, 12), randn(2, 12)
            x = (
                conjugate_gradient(normal, b, x0, mu=0.1, max_iter=10, eps=eps, together=True)
                if ours
                else conjgrad(x0, b, normal, 0.1, max_iter=10, eps=eps)
            )
            found.append((x.detach(), torch.autograd.grad((weights * x + 0 * b).sum().abs(), b)[0]))
        for a, b in zip(*found):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("start", [True, False])
    def test_without_autograd_it_works_in_place_of_its_own_vectors_alone(self, start):
        _, normal = spd_batch([(0.5, 2.0), (0.1, 9.0)])
        b, x = randn(2, 12), randn(2, 12) if start else None
        given = b.clone(), x.clone() if start else None
        expected = conjugate_gradient(normal, b, x, mu=0.1, max_iter=5)
        with torch.no_grad():
            found = conjugate_gradient(normal, b, x, mu=0.1, max_iter=5)
            assert torch.equal(found, expected) and torch.equal(b, given[0])
            assert not start or torch.equal(x, given[1])
            assert torch.equal(conjugate_gradient(normal, b, x, mu=0.1, max_iter=5, spends_b=True), expected)
            assert not torch.equal(b, given[0])

    @pytest.mark.parametrize("chunk", [1, 7, 2**18])
    def test_inner_products_whatever_the_order_in_memory(self, chunk, monkeypatch):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        u, v = randn(2, 3, 5, 4), randn(2, 5, 4, 3).permute(0, 3, 1, 2)
        expected = (u.conj() * v).real.sum(dim=(1, 2, 3)).reshape(2, 1, 1, 1)
        torch.testing.assert_close(module._dot(u, v), expected)
        torch.testing.assert_close(module._dot(v, u.expand(2, 3, 5, 4)), expected)

    def test_an_example_without_residual_waits_for_the_others_without_nan(self):
        _, normal = spd_batch([(1.0, 1.0), (0.1, 9.0)])
        b = torch.stack([torch.zeros(12, dtype=torch.complex64), randn(12)])
        x = conjugate_gradient(normal, b, torch.zeros_like(b), mu=0.1, max_iter=8, together=True)
        assert not x[0].any() and torch.isfinite(torch.view_as_real(x)).all() and x[1].abs().min() > 0

    def test_converged_example_is_frozen_without_nan(self):
        _, normal = spd_batch([(1.0, 1.0)])
        b = torch.zeros(1, 12, dtype=torch.complex64, requires_grad=True)
        x = conjugate_gradient(normal, b, torch.zeros(1, 12, dtype=torch.complex64), mu=0.1, max_iter=5)
        x.abs().pow(2).sum().backward()
        assert torch.isfinite(torch.view_as_real(b.grad)).all() and not x.abs().sum()


class TestImplicitGradient:
    def gradients(self, solve, eigenvalues, scale=1.0, **kwargs):
        _, normal = spd_batch(eigenvalues)
        b, mu = randn(len(eigenvalues), 12).requires_grad_(), torch.tensor([0.3], requires_grad=True)
        start, weights = randn(*b.shape), scale * randn(*b.shape)
        x = solve(normal, b, start, mu, **kwargs)
        (weights * x).sum().abs().backward()
        return b.grad, mu.grad

    @pytest.mark.parametrize("scale", [1.0, 1e-8])  # a gradient that is smaller than eps is none the less solved for
    @pytest.mark.parametrize("eigenvalues", [[(0.5, 2.0)], [(1.0, 1.0), (0.1, 9.0)]])  # the second: 1 and 12 iterations
    def test_agrees_with_autograd_where_converged(self, eigenvalues, scale):
        results = [
            self.gradients(solve, eigenvalues, scale, max_iter=20, eps=1e-6)
            for solve in (conjugate_gradient, implicit_conjugate_gradient)
        ]
        for unrolled, implicit in zip(*results):
            assert unrolled.shape == implicit.shape and relative(implicit, unrolled) < 1e-4

    @pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
    @pytest.mark.parametrize("backward_scale", [1e-3, 1.0])
    def test_adjoint_solve_stops_at_the_relative_residual_of_the_first(self, scale, backward_scale):
        """Against meddlr's conjugate gradients with that residual in absolute numbers."""
        matrices, _ = spd_batch([(0.5, 9.0)])
        b = (scale * randn(1, 12)).requires_grad_()
        weights, start = backward_scale * randn(1, 12), torch.zeros(1, 12, dtype=torch.complex64)
        eps = 0.02 * scale  # at every scale the same iterations

        def normal(x):
            return (matrices @ x[..., None])[..., 0]

        (weights.conj() * implicit_conjugate_gradient(normal, b, start, 0.1, 12, eps)).real.sum().backward()
        absolute = (eps * weights.norm() / b.detach().norm()).item()
        expected = conjgrad(start, weights, normal, 0.1, max_iter=12, eps=absolute)
        assert relative(b.grad, expected) < 1e-5
        solution = torch.linalg.solve(matrices + 0.1 * torch.eye(12), weights)
        assert relative(b.grad, solution) > 1e-4, "the test shows nothing: it has converged"

    def test_differs_where_not_converged(self):
        results = [
            self.gradients(solve, [(0.1, 9.0)], max_iter=2)
            for solve in (conjugate_gradient, implicit_conjugate_gradient)
        ]
        assert relative(results[1][0], results[0][0]) > 1e-2

    def test_solution_is_the_same_bit_for_bit(self):
        _, normal = spd_batch([(0.5, 2.0), (0.1, 9.0)])
        b, start = randn(2, 12), randn(2, 12)
        for mu in (0.2, torch.tensor([0.2])):
            a, b_ = (solve(normal, b, start, mu) for solve in (conjugate_gradient, implicit_conjugate_gradient))
            assert torch.equal(a, b_)

    @pytest.mark.parametrize("shape", [(), (1,), (2, 1)])
    def test_gradcheck(self, shape):
        _, normal = spd_batch([(0.5, 2.0), (1.0, 1.0)], size=4, dtype=torch.complex128)
        b = randn(2, 4).to(torch.complex128).requires_grad_()
        mu = torch.full(shape, 0.3, dtype=torch.float64, requires_grad=True)
        start = torch.zeros_like(b)
        assert torch.autograd.gradcheck(
            lambda b, mu: implicit_conjugate_gradient(normal, b, start, mu, max_iter=12, eps=1e-12), (b, mu)
        )

    @pytest.mark.parametrize("shape", [(), (1,), (2, 1)])
    @pytest.mark.parametrize("start", [True, False])
    def test_gradients_of_the_iterations(self, start, shape):
        """Those of the gradient, too."""
        matrices, _ = spd_batch([(0.5, 2.0), (1.0, 9.0)], size=3, dtype=torch.complex128)
        b, x = (randn(2, 3).to(torch.complex128).requires_grad_() for _ in range(2))
        mu = torch.full(shape, 0.3, dtype=torch.float64, requires_grad=True)

        def solve(matrices, b, mu, x):
            x = x if start else None
            return conjugate_gradient(lambda x: (matrices @ x[..., None])[..., 0], b, x, mu, max_iter=2, eps=0.0)

        arguments = (matrices.clone().requires_grad_(), b, mu, x)
        assert torch.autograd.gradcheck(solve, arguments)
        assert torch.autograd.gradgradcheck(solve, arguments, atol=1e-4)

    def test_a_loss_may_conjugate_the_solution(self):
        b = randn(1, 4).requires_grad_()
        for loss in (lambda x: x.abs().square().sum(), lambda x: x.sum().abs()):  # the second's gradient is one number
            found = []
            for conjugate in (True, False):
                solution = conjugate_gradient(lambda v: 2 * v, b, torch.zeros_like(b), 0.1, 2)
                found.append(torch.autograd.grad(loss(solution.conj() if conjugate else solution), b)[0])
            torch.testing.assert_close(*found)
            assert found[0].norm() > 0
        solution *= 2  # as of any result

    def test_examples_do_not_influence_each_other(self):
        matrices, _ = spd_batch([(1.0, 1.0), (0.1, 50.0)])
        both, weights = randn(2, 12), randn(2, 12)

        def gradient(examples):
            b = both[examples].clone().requires_grad_()
            x = implicit_conjugate_gradient(
                lambda x: (matrices[examples] @ x[..., None])[..., 0], b, torch.zeros_like(b), 0.3, max_iter=8
            )
            (x * weights[examples]).real.sum().backward()
            return b.grad

        assert relative(gradient(slice(0, 2))[:1], gradient(slice(0, 1))) < 1e-6

    def test_bytes_held_do_not_grow_with_iterations(self):
        A, _, x, _ = make_sense(SHAPES[0], "lines")

        def held(solve, iterations):
            b = x.clone().requires_grad_()
            with HeldForBackward(exclude=[b]) as held:
                solve(A.normal, b, torch.zeros_like(b), torch.tensor([0.3], requires_grad=True), iterations, 1e-9)
            return held.peak_bytes

        assert held(conjugate_gradient, 20) > 3 * held(conjugate_gradient, 5)
        assert held(implicit_conjugate_gradient, 20) == held(implicit_conjugate_gradient, 5) < 1.1 * 8 * x.numel()


@pytest.mark.parametrize("start", [None, 1])
@pytest.mark.parametrize("device, spends_b, images", [("cpu", False, 4), ("cpu", True, 3), ("cuda", False, 5)])
def test_images_at_a_time(start, device, spends_b, images):
    with torch.no_grad(), standing_for(torch.device(device)), traced() as trace:
        b = torch.empty(1, 64, 64, 8, dtype=torch.complex64)
        x = None if start is None else torch.empty_like(b)
        there = trace.alive
        trace.reset_peak()
        conjugate_gradient(lambda v: 2 * v, b, x, mu=0.1, max_iter=4, spends_b=spends_b)
    assert trace.peak - there < (images + 0.1) * b.nbytes


class TestResidual:
    @pytest.mark.parametrize("max_iter", [1, 4])
    @pytest.mark.parametrize("spends", [False, True])
    def test_is_that_of_the_worse_example_and_solve(self, max_iter, spends):
        matrices, normal = spd_batch([(0.5, 9.0), (0.5, 2.0)], dtype=torch.complex128)
        shifted = matrices + 0.1 * torch.eye(12)

        def relative_residual(x, b):
            left = b - (shifted @ x[..., None])[..., 0]
            return (left.norm(dim=1) / b.norm(dim=1)).max()

        b, grad = (randn(2, 12).to(torch.complex128) for _ in range(2))
        told = torch.zeros((), dtype=torch.float64)
        solve = ImplicitSolve(normal, torch.tensor(0.1, dtype=torch.float64), max_iter, 1e-12, told)
        solution = solve.solution(b.clone(), torch.zeros_like(b), spends_b=spends)
        torch.testing.assert_close(told, relative_residual(solution, b))
        adjoint = solve.adjoint(1e-3 * grad, solve.relative_eps(b))
        torch.testing.assert_close(told, max(relative_residual(solution, b), relative_residual(adjoint, 1e-3 * grad)))
        told.fill_(7.0)
        solve.solution(b.clone(), torch.zeros_like(b))
        assert told == 7

    def test_is_told_by_autograd_too(self):
        _, normal = spd_batch([(0.5, 9.0)])
        b, mu = randn(1, 12).requires_grad_(), torch.tensor(0.1, requires_grad=True)
        told = torch.zeros(())
        x = implicit_conjugate_gradient(normal, b, torch.zeros_like(b), mu, max_iter=2, residual=told)
        of_solution = told.clone()
        (x * randn(1, 12)).abs().sum().backward()
        assert 0 < of_solution <= told < 1

    def test_of_nothing_to_solve_for_is_none(self):
        _, normal = spd_batch([(0.5, 9.0)])
        told = torch.zeros(())
        nothing = torch.zeros(1, 12, dtype=torch.complex64)
        ImplicitSolve(normal, torch.tensor(0.1), 1, 1e-4, told).solution(nothing, torch.ones_like(nothing))
        assert told == 0
