"""Linear operators: random problems, and the dot-product test of adjoints."""

import torch
from meddlr.forward import SenseModel

from meddlr_greedy.ops.cine_sense import CineSenseModel

#: B, H, W, T, C, M: even and odd sizes, one frame, one coil, one and two map sets.
SHAPES = [(1, 16, 12, 4, 3, 1), (2, 15, 13, 3, 4, 2), (1, 7, 8, 1, 1, 1), (2, 8, 9, 5, 2, 2)]
#: Binary masks that are constant along the readout or not, real weights likewise, and none.
MASKS = ["lines", "points", "weighted lines", "weighted points", "none"]


def randn(*shape, dtype=torch.complex64):
    return torch.randn(*shape, dtype=dtype)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def make_mask(shape, kind):
    """A mask (B, H, W, T, 1) of the given kind, see :data:`MASKS`."""
    B, H, W, T, *_ = shape
    if kind == "none":
        return None
    height = H if kind.endswith("points") else 1
    mask = (torch.rand(B, height, W, T, 1) < 0.4).float()
    if kind.startswith("weighted"):
        mask = mask * (0.5 + torch.rand(mask.shape))
    return mask.expand(B, H, W, T, 1)


def make_sense(shape, kind):
    """The signal model, meddlr's of the same maps and mask, an image and k-space."""
    torch.manual_seed(0)
    B, H, W, T, C, M = shape
    maps = randn(B, H, W, 1, C, M)
    mask = make_mask(shape, kind)
    return CineSenseModel(maps, mask), SenseModel(maps, weights=mask), randn(B, H, W, T, M), randn(B, H, W, T, C)


def assert_adjoint(forward, adjoint, x, y, tolerance=1e-5):
    """The dot-product test: <A x, y> = <x, A^H y> up to rounding, for x and y of the operator's domain and range."""
    image, back = forward(x), adjoint(y)
    assert image.shape == y.shape and back.shape == x.shape
    left, right = torch.vdot(image.flatten(), y.flatten()), torch.vdot(x.flatten(), back.flatten())
    assert abs(left - right) < tolerance * image.norm() * y.norm()
