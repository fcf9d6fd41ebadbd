"""The cine signal model and conjugate gradients against meddlr's, and adjointness of every linear operator."""

import pytest
import torch
from meddlr.forward import SenseModel
from meddlr.ops.opt import conjgrad

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import conjugate_gradient, implicit_conjugate_gradient

# B, H, W, T, C, M
SHAPES = [(1, 16, 12, 4, 3, 1), (2, 15, 13, 3, 4, 2), (1, 7, 8, 1, 1, 1), (2, 8, 9, 5, 2, 2)]
MASKS = ["lines", "points", "none"]


def randn(*shape):
    return torch.randn(*shape, dtype=torch.complex64)


def make(shape, kind):
    torch.manual_seed(0)
    B, H, W, T, C, M = shape
    maps = randn(B, H, W, 1, C, M)
    height = H if kind == "points" else 1
    mask = None if kind == "none" else (torch.rand(B, height, W, T, 1) < 0.4).float().expand(B, H, W, T, 1)
    return CineSenseModel(maps, mask), SenseModel(maps, weights=mask), randn(B, H, W, T, M), randn(B, H, W, T, C)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_sense_model(shape, kind):
    A, sense, x, y = make(shape, kind)
    assert relative(A(x), sense(x)) < 1e-6
    assert relative(A(y, adjoint=True), sense(y, adjoint=True)) < 1e-6
    assert relative(A.normal(x), sense(sense(x), adjoint=True)) < 1e-6


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_adjointness(shape, kind):
    A, _, x, y = make(shape, kind)
    forward, backward = torch.vdot(A(x).flatten(), y.flatten()), torch.vdot(x.flatten(), A(y, adjoint=True).flatten())
    assert abs(forward - backward) < 1e-5 * A(x).norm() * y.norm()
    z = randn(*x.shape)
    left, right = torch.vdot(A.normal(x).flatten(), z.flatten()), torch.vdot(x.flatten(), A.normal(z).flatten())
    assert abs(left - right) < 1e-5 * A.normal(x).norm() * z.norm()


@pytest.mark.parametrize("kind", MASKS)
def test_gradient_of_normal_operator(kind):
    A, sense, x, _ = make(SHAPES[1], kind)
    weights = randn(*x.shape)
    gradients = []
    for normal in (A.normal, lambda x: sense(sense(x), adjoint=True)):
        leaf = x.clone().requires_grad_()
        (normal(leaf) * weights).sum().abs().backward()
        gradients.append(leaf.grad)
    assert relative(*gradients) < 1e-5


def test_normal_operator_keeps_nothing_for_backward():
    A, _, x, _ = make(SHAPES[0], "lines")
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        A.normal(x.requires_grad_())
    assert not packed


@pytest.mark.parametrize("name", ["maps", "weights"])
def test_normal_operator_refuses_to_drop_a_gradient(name):
    A, _, x, _ = make(SHAPES[0], "lines")
    getattr(A, name).requires_grad_()
    with pytest.raises(ValueError, match="requires a gradient"):
        A.normal(x)


def test_line_masks_use_one_dimensional_ffts():
    assert make(SHAPES[0], "lines")[0]._fft_dims == (-1,)
    assert make(SHAPES[0], "points")[0]._fft_dims == (-2, -1)


@pytest.mark.parametrize(
    ("maps", "mask"), [((1, 4, 4, 2, 1), None), ((1, 4, 4, 1, 2, 1), (1, 4, 5, 3, 1)), ((1, 4, 4, 3, 2, 1), None)]
)
def test_shapes_are_checked(maps, mask):
    with pytest.raises(ValueError, match="shape"):
        CineSenseModel(randn(*maps), None if mask is None else torch.ones(mask))


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

    def test_examples_do_not_influence_each_other(self):
        matrices, normal = spd_batch([(1.0, 1.0), (0.1, 50.0)])
        b = randn(2, 12)
        together = conjugate_gradient(normal, b, torch.zeros_like(b), mu=0.0, max_iter=8)
        alone = conjugate_gradient(
            lambda x: (matrices[:1] @ x[..., None])[..., 0], b[:1], torch.zeros_like(b[:1]), mu=0.0, max_iter=8
        )
        assert torch.equal(together[:1], alone)

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
        A, _, x, _ = make(SHAPES[0], "lines")

        def held(solve, iterations):
            b = x.clone().requires_grad_()
            with HeldForBackward(exclude=[b]) as held:
                solve(A.normal, b, torch.zeros_like(b), torch.tensor([0.3], requires_grad=True), iterations, 1e-9)
            return held.peak_bytes

        assert held(conjugate_gradient, 20) > 3 * held(conjugate_gradient, 5)
        assert held(implicit_conjugate_gradient, 20) == held(implicit_conjugate_gradient, 5) < 1.1 * 8 * x.numel()
