"""Conjugate gradients with a fixed number of iterations, and their gradient by a second solve.

No step waits for the device (no host synchronization), so that a GPU never runs dry.
"""

from typing import Any, Callable, Optional, Tuple, Union

import torch
from torch.autograd.function import once_differentiable

__all__ = ["conjugate_gradient", "implicit_conjugate_gradient"]

Operator = Callable[[torch.Tensor], torch.Tensor]


def conjugate_gradient(
    normal_op: Operator,
    b: torch.Tensor,
    x: Optional[torch.Tensor],
    mu: Union[torch.Tensor, float],
    max_iter: int = 10,
    eps: Union[torch.Tensor, float] = 1e-4,
    together: bool = False,
) -> torch.Tensor:
    r"""Solves :math:`(N + \mu) x = b` for each example of a batch on its own (Hestenes and Stiefel, 1952).

    An example whose squared residual norm falls below ``eps ** 2`` is frozen: its later updates are zero. Unlike
    :func:`meddlr.ops.opt.conjgrad`, whose stop looks at the whole batch, examples never influence each other, the
    number of operator applications is fixed, and a zero residual divides nothing by zero. Without autograd, at most
    five images are there at a time besides ``b``, the start and what N needs.

    Args:
        normal_op: :math:`N = A^H A`, from and to tensors shaped like ``b``.
        b: Right-hand side, complex, shape (B, ...).
        x: Start, the same shape; None is zero, which saves an application of N.
        mu: Non-negative weight of the identity; a number, or one of each example, shape (B, 1, ..., 1).
        max_iter: Number of iterations.
        eps: Residual norm at which an example is frozen; a number, or one of each example, shape (B, 1, ..., 1).
        together: Whether all examples of the batch are frozen once the last of them may be, as meddlr's end.

    Returns:
        The solution, shape (B, ...).
    """

    def divide(numerator: torch.Tensor, denominator: torch.Tensor, active: torch.Tensor):
        # The safe denominator keeps NaN out of the backward of the branch not taken.
        zero, one = torch.zeros_like(numerator), torch.ones_like(denominator)
        return torch.where(active, numerator / torch.where(active, denominator, one), zero)

    mu = _as_weight(mu, b)
    r = b if x is None else b - _plus(normal_op(x), mu, x)
    p = r
    rr = _dot(r, r)
    for _ in range(max_iter):
        active = (rr > 0) & (rr.amax() >= eps**2) if together else rr > eps**2
        normal_p = _plus(normal_op(p), mu, p)
        alpha = divide(rr, _dot(p, normal_p), active)
        x = alpha * p if x is None else _plus(x, alpha, p)
        r = _plus(r, -alpha, normal_p)
        del normal_p
        rr_next = _dot(r, r)
        p = _plus(r, divide(rr_next, rr, active), p)
        rr = rr_next
    return torch.zeros_like(b) if x is None else x


def _as_weight(mu: Union[torch.Tensor, float], b: torch.Tensor) -> torch.Tensor:
    """mu as a real tensor that goes with ``b``."""
    if not isinstance(mu, torch.Tensor):
        mu = torch.full((), mu, dtype=b.real.dtype, device=b.device)  # on the device: nothing is copied there
    return mu.to(b.device, b.real.dtype)


def _plus(u: torch.Tensor, factor: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """u + factor v of complex images and a real factor, in one pass over memory."""
    return torch.view_as_complex(torch.addcmul(torch.view_as_real(u), factor[..., None], torch.view_as_real(v)))


def implicit_conjugate_gradient(
    normal_op: Operator,
    b: torch.Tensor,
    x: torch.Tensor,
    mu: Union[torch.Tensor, float],
    max_iter: int = 10,
    eps: Union[torch.Tensor, float] = 1e-4,
) -> torch.Tensor:
    r""":func:`conjugate_gradient` with the gradient of the solution instead of that of its iterations.

    For :math:`x^* = (N + \mu)^{-1} b` and :math:`\lambda = (N + \mu)^{-1} \partial L / \partial x^*`, solved by as many
    iterations to the same relative residual, the gradients are :math:`\lambda` for ``b`` and
    :math:`-\mathrm{Re} \langle \lambda, x^* \rangle` for ``mu`` (implicit differentiation; as in MoDL, Aggarwal et al.,
    IEEE TMI 2019, section III.C). Of the solve, backward keeps the solution alone, however many iterations it took.
    That is the gradient of what is computed as far as both solves converge: at a relative residual of r, up to an error
    of order :math:`r (1 + \lambda_{max}(N) / \mu)`.

    Arguments and result as there. The start ``x`` gets no gradient (a solution does not depend on it), and neither does
    anything inside ``normal_op``, which must be self-adjoint and without parameters to train.
    """
    return _ImplicitSolution.apply(b, _as_weight(mu, b), normal_op, x, max_iter, eps)


class _ImplicitSolution(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        b: torch.Tensor,
        mu: torch.Tensor,
        normal_op: Operator,
        x: torch.Tensor,
        max_iter: int,
        eps: Union[torch.Tensor, float],
    ) -> torch.Tensor:
        solution = conjugate_gradient(normal_op, b, x, mu, max_iter, eps)
        # The adjoint solve stops at the same relative residual: a gradient has a scale of its own.
        relative_eps = eps / _norm(b).clamp(min=torch.finfo(mu.dtype).tiny)
        ctx.save_for_backward(solution, mu, relative_eps)
        ctx.normal_op, ctx.max_iter = normal_op, max_iter
        return solution

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Tuple[Any, ...]:  # type: ignore[override]
        solution, mu, relative_eps = ctx.saved_tensors
        # Of unit norm, so that the squares of a small gradient do not underflow.
        scale = _norm(grad).clamp(min=torch.finfo(mu.dtype).tiny)
        adjoint = conjugate_gradient(ctx.normal_op, grad / scale, None, mu, ctx.max_iter, relative_eps).mul_(scale)
        mu_grad = -_dot(adjoint, solution).sum_to_size(mu.shape) if ctx.needs_input_grad[1] else None
        return adjoint, mu_grad, None, None, None, None


def _dot(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Real part of the inner product of each example, shape (B, 1, ..., 1)."""
    product = torch.view_as_real(u) * torch.view_as_real(v)
    return product.sum(dim=tuple(range(1, product.ndim))).reshape(-1, *[1] * (u.ndim - 1))


def _norm(u: torch.Tensor) -> torch.Tensor:
    """Norm of each example, shape (B, 1, ..., 1)."""
    return _dot(u, u).sqrt()
