"""The cine signal model against meddlr's."""

import pytest
import torch

from meddlr_greedy.ops.cine_sense import CineSenseModel
from tests.helpers.operators import MASKS, SHAPES, assert_adjoint, make_sense, randn, relative

pytestmark = pytest.mark.short


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_sense_model(shape, kind):
    A, sense, x, y = make_sense(shape, kind)
    assert relative(A(x), sense(x)) < 1e-6
    assert relative(A(y, adjoint=True), sense(y, adjoint=True)) < 1e-6
    assert relative(A.normal(x), sense(sense(x), adjoint=True)) < 1e-6


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_adjointness(shape, kind):
    A, _, x, y = make_sense(shape, kind)
    assert_adjoint(A, lambda y: A(y, adjoint=True), x, y)
    assert_adjoint(A.normal, A.normal, x, randn(*x.shape))


@pytest.mark.parametrize("kind", MASKS)
def test_gradient_of_normal_operator(kind):
    A, sense, x, _ = make_sense(SHAPES[1], kind)
    weights = randn(*x.shape)
    gradients = []
    for normal in (A.normal, lambda x: sense(sense(x), adjoint=True)):
        leaf = x.clone().requires_grad_()
        (normal(leaf) * weights).sum().abs().backward()
        gradients.append(leaf.grad)
    assert relative(*gradients) < 1e-5


def test_normal_operator_keeps_nothing_for_backward():
    A, _, x, _ = make_sense(SHAPES[0], "lines")
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        A.normal(x.requires_grad_())
    assert not packed


@pytest.mark.parametrize("name", ["maps", "weights"])
def test_normal_operator_refuses_to_drop_a_gradient(name):
    A, _, x, _ = make_sense(SHAPES[0], "lines")
    getattr(A, name).requires_grad_()
    with pytest.raises(ValueError, match="requires a gradient"):
        A.normal(x)


def test_line_masks_use_one_dimensional_ffts():
    for kind, dims in (("lines", (-1,)), ("points", (-2, -1))):
        A, _, x, _ = make_sense(SHAPES[0], kind)
        A.normal(x)
        assert A._form.dims == dims


def test_what_is_said_of_a_mask_is_believed():
    A, _, x, _ = make_sense(SHAPES[0], "lines")
    for constant in (True, False):
        said = CineSenseModel(A.maps, A.weights, constant_along_readout=constant)
        torch.testing.assert_close(said.normal(x), A.normal(x))
        assert said._form.dims == ((-1,) if constant else (-2, -1))


@pytest.mark.parametrize(
    ("maps", "mask"), [((1, 4, 4, 2, 1), None), ((1, 4, 4, 1, 2, 1), (1, 4, 5, 3, 1)), ((1, 4, 4, 3, 2, 1), None)]
)
def test_shapes_are_checked(maps, mask):
    with pytest.raises(ValueError, match="shape"):
        CineSenseModel(randn(*maps), None if mask is None else torch.ones(mask))


@pytest.mark.parametrize("sets", [1, 2])
def test_bound_of_the_normal_operator(sets):
    torch.manual_seed(0)
    maps = randn(2, 6, 5, 1, 3, sets) * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1, 1, 1)
    A = CineSenseModel(maps, torch.rand(2, 6, 5, 4, 1) * 2)
    x = randn(2, 6, 5, 4, sets)
    for _ in range(50):
        x = A.normal(x)
        largest = x.flatten(1).norm(dim=1)
        x = x / largest.reshape(-1, 1, 1, 1, 1)
    bound = A.largest_eigenvalue_bound()
    assert bound.shape == (2, 1, 1, 1, 1) and (largest <= bound.flatten() * (1 + 1e-5)).all()
    orthonormal = CineSenseModel(torch.linalg.qr(randn(1, 6, 5, 1, 3, sets))[0])
    assert abs(orthonormal.largest_eigenvalue_bound().item() - 1) < 1e-5
