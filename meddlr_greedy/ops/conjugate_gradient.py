"""Conjugate gradients with a fixed number of iterations and no look at the host."""

from typing import Callable, Union

import torch

__all__ = ["conjugate_gradient"]


def conjugate_gradient(
    normal_op: Callable[[torch.Tensor], torch.Tensor],
    b: torch.Tensor,
    x: torch.Tensor,
    mu: Union[torch.Tensor, float],
    max_iter: int = 10,
    eps: float = 1e-4,
) -> torch.Tensor:
    r"""Solves :math:`(N + \mu) x = b` for each example of a batch on its own (Hestenes and Stiefel, 1952).

    An example whose squared residual norm falls below ``eps ** 2`` is frozen: its later updates are zero. Unlike
    :func:`meddlr.ops.opt.conjgrad`, whose stop looks at the whole batch, examples never influence each other, the
    number of operator applications is fixed, and a zero residual divides nothing by zero.

    Args:
        normal_op: :math:`N = A^H A`, from and to tensors shaped like ``b``.
        b: Right-hand side, complex, shape (B, ...).
        x: Start, the same shape.
        mu: Non-negative weight of the identity.
        max_iter: Number of iterations.
        eps: Residual norm at which an example is frozen.

    Returns:
        The solution, shape (B, ...).
    """

    def dot(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Real part of the inner product of each example, shape (B, 1, ..., 1)."""
        product = torch.view_as_real(u) * torch.view_as_real(v)
        return product.sum(dim=tuple(range(1, product.ndim))).reshape(-1, *[1] * (u.ndim - 1))

    def divide(numerator: torch.Tensor, denominator: torch.Tensor, active: torch.Tensor):
        # The safe denominator keeps NaN out of the backward of the branch not taken.
        zero, one = torch.zeros_like(numerator), torch.ones_like(denominator)
        return torch.where(active, numerator / torch.where(active, denominator, one), zero)

    r = b - (normal_op(x) + mu * x)
    p = r
    rr = dot(r, r)
    for _ in range(max_iter):
        active = rr > eps**2
        Np = normal_op(p) + mu * p
        alpha = divide(rr, dot(p, Np), active)
        x = x + alpha * p
        r = r - alpha * Np
        rr_next = dot(r, r)
        p = r + divide(rr_next, rr, active) * p
        rr = rr_next
    return x
