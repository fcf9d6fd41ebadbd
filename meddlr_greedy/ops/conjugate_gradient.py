"""Conjugate gradients with a fixed number of iterations, and their gradient by a second solve.

No step waits for the device (no host synchronization), so that a GPU never runs dry.
"""

from typing import Any, NamedTuple, Optional, Tuple, Union

import torch
from torch.autograd.function import once_differentiable

from meddlr_greedy.ops.devices import computing_device
from meddlr_greedy.ops.parts import Operator

__all__ = ["ImplicitSolve", "conjugate_gradient", "implicit_conjugate_gradient"]

# Real numbers that the CPU multiplies and adds up in one call: few enough that rounding stays small, since such a call
# keeps a handful of running sums, and many enough that the call itself costs nothing.
_CHUNK = 2**18


def conjugate_gradient(
    normal_op: Operator,
    b: torch.Tensor,
    x: Optional[torch.Tensor],
    mu: Union[torch.Tensor, float],
    max_iter: int = 10,
    eps: Union[torch.Tensor, float] = 1e-4,
    together: bool = False,
    spends_b: bool = False,
) -> torch.Tensor:
    r"""Solves :math:`(N + \mu) x = b` for each example of a batch on its own (Hestenes and Stiefel, 1952).

    An example whose squared residual norm falls below ``eps ** 2`` is frozen: its later updates are zero. Unlike
    :func:`meddlr.ops.opt.conjgrad`, whose stop looks at the whole batch, examples never influence each other, the
    number of operator applications is fixed, and a zero residual divides nothing by zero. Where autograd is off, there
    are four images at a time, N p among them, besides ``b``, the start and what N needs inside; on a GPU one more, of
    products.

    Args:
        normal_op: :math:`N = A^H A`, from tensors shaped like ``b`` to new ones.
        b: Right-hand side, complex, shape (B, ...).
        x: Start, the same shape; None is zero, which saves an application of N.
        mu: Non-negative weight of the identity; a number, or one of each example, shape (B, 1, ..., 1).
        max_iter: Number of iterations.
        eps: Residual norm at which an example is frozen; a number, or one of each example, shape (B, 1, ..., 1).
        together: Whether all examples of the batch are frozen once the last of them may be, as meddlr's end.
        spends_b: Whether the memory of ``b`` may be written to, where autograd is off: an image less.

    Returns:
        The solution, shape (B, ...).
    """
    return _solved(normal_op, b, x, mu, max_iter, eps, together, spends_b)[0]


def _solved(
    normal_op: Operator,
    b: torch.Tensor,
    x: Optional[torch.Tensor],
    mu: Union[torch.Tensor, float],
    max_iter: int,
    eps: Union[torch.Tensor, float],
    together: bool = False,
    spends_b: bool = False,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """:func:`conjugate_gradient`, and the squared norm of the residual of each example, shape (B, 1, ..., 1)."""
    in_place = not torch.is_grad_enabled()

    def memory(vector: torch.Tensor) -> Optional[torch.Tensor]:
        """Where what replaces a vector is written."""
        return vector if in_place else None

    mu = _as_weight(mu, b)
    r = b.clone() if in_place and not spends_b else b
    if x is not None:
        normal_x = normal_op(x)
        normal_x = _plus(normal_x, mu, x, memory(normal_x))
        r = _plus(r, -torch.ones_like(mu), normal_x, memory(r))
        del normal_x
        x = x.clone() if in_place else x
    p = r.clone() if in_place else r
    rr = _dot(r, r)
    for _ in range(max_iter):
        active = (rr > 0) & (rr.amax() >= eps**2) if together else rr > eps**2
        normal_p = normal_op(p)
        normal_p = _plus(normal_p, mu, p, memory(normal_p))
        alpha = _divide(rr, _dot(p, normal_p), active)
        x = alpha * p if x is None else _plus(x, alpha, p, memory(x))
        r = _plus(r, -alpha, normal_p, memory(r))
        del normal_p
        rr_next = _dot(r, r)
        p = _plus(r, _divide(rr_next, rr, active), p, memory(p))
        rr = rr_next
    return torch.zeros_like(b) if x is None else x, rr


def _as_weight(mu: Union[torch.Tensor, float], b: torch.Tensor) -> torch.Tensor:
    """mu as a real tensor that goes with ``b``."""
    if not isinstance(mu, torch.Tensor):
        mu = torch.full((), mu, dtype=b.real.dtype, device=b.device)  # on the device: nothing is copied there
    return mu.to(b.device, b.real.dtype)


def _divide(numerator: torch.Tensor, denominator: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    """The ratio for examples that are active, else zero."""
    # The safe denominator keeps NaN out of the backward of the branch not taken.
    zero, one = torch.zeros_like(numerator), torch.ones_like(denominator)
    return torch.where(active, numerator / torch.where(active, denominator, one), zero)


def _plus(u: torch.Tensor, factor: torch.Tensor, v: torch.Tensor, out: Optional[torch.Tensor] = None) -> torch.Tensor:
    """u + factor v of complex images and a real factor, in one pass over memory; ``out`` may be u or v."""
    if out is None:
        return torch.view_as_complex(_Plus.apply(_real(u), factor, v))
    torch.addcmul(_real(u), factor[..., None], _real(v), out=torch.view_as_real(out))
    return out


class _Plus(torch.autograd.Function):
    """Its gradient for the factor is an inner product, not the sum of an image of products."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, factor: torch.Tensor, v: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(factor, v)
        return torch.addcmul(u, factor[..., None], _real(v))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tuple[Optional[torch.Tensor], ...]:  # type: ignore[override]
        factor, v = ctx.saved_tensors
        _, of_factor, of_v = ctx.needs_input_grad
        complex_grad = torch.view_as_complex(grad)
        return (
            grad,
            _dot(complex_grad, v).sum_to_size(factor.shape) if of_factor else None,
            _times(factor, complex_grad) if of_v else None,
        )


def _real(u: torch.Tensor) -> torch.Tensor:
    """A complex image as real numbers, (..., 2)."""
    return torch.view_as_real(u.resolve_conj())


def implicit_conjugate_gradient(
    normal_op: Operator,
    b: torch.Tensor,
    x: torch.Tensor,
    mu: Union[torch.Tensor, float],
    max_iter: int = 10,
    eps: Union[torch.Tensor, float] = 1e-4,
    residual: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    r""":func:`conjugate_gradient` with the gradient of the solution instead of that of its iterations.

    For :math:`x^* = (N + \mu)^{-1} b` and :math:`\lambda = (N + \mu)^{-1} \partial L / \partial x^*`, solved by as many
    iterations to the same relative residual, the gradients are :math:`\lambda` for ``b`` and
    :math:`-\mathrm{Re} \langle \lambda, x^* \rangle` for ``mu`` (implicit differentiation; as in MoDL, Aggarwal et al.,
    IEEE TMI 2019, section III.C). Of the solve, backward keeps the solution alone, however many iterations it took.
    That is the gradient of what is computed as far as both solves converge: at a relative residual of r, up to an error
    of order :math:`r (1 + \lambda_{max}(N) / \mu)`.

    Arguments and result as there. The start ``x`` gets no gradient (a solution does not depend on it), and neither does
    anything inside ``normal_op``, which must be self-adjoint and without parameters to train. ``residual`` is told of
    both solves, see :class:`ImplicitSolve`.
    """
    solve = ImplicitSolve(normal_op, _as_weight(mu, b), max_iter, eps, residual)
    return _ImplicitSolution.apply(b, solve.mu, x, solve)


class ImplicitSolve(NamedTuple):
    """A solve and the one for its gradient, see :func:`implicit_conjugate_gradient`; to be called without autograd."""

    normal_op: Operator
    mu: torch.Tensor  #: real
    max_iter: int
    eps: Union[torch.Tensor, float]
    #: A real scalar that is raised to the relative residual of each solve, the largest of the examples.
    residual: Optional[torch.Tensor] = None

    def relative_eps(self, b: torch.Tensor) -> torch.Tensor:
        """The relative residual at which a solve for ``b`` stops, and that for a gradient, which has its own scale."""
        return self.eps / _norm(b).clamp(min=torch.finfo(self.mu.dtype).tiny)

    def solution(self, b: torch.Tensor, x: torch.Tensor, spends_b: bool = False) -> torch.Tensor:
        """x* for a right-hand side and a start (B, ...)."""
        norm = None if self.residual is None else _norm(b)  # before b is spent
        solution, rr = _solved(self.normal_op, b, x, self.mu, self.max_iter, self.eps, spends_b=spends_b)
        if norm is not None:
            # Of a right-hand side that small, the start may be any solution.
            self._tell(torch.where(norm > self.eps, rr.sqrt() / norm, torch.zeros_like(norm)))
        return solution

    def adjoint(self, grad: torch.Tensor, relative_eps: torch.Tensor, spends_grad: bool = False) -> torch.Tensor:
        """lambda for the gradient (B, ...) of x*."""
        # Of unit norm, so that the squares of a small gradient do not underflow.
        scale = _norm(grad).clamp(min=torch.finfo(self.mu.dtype).tiny)
        b = torch.div(grad, scale, out=grad if spends_grad else None)
        unscaled, rr = _solved(self.normal_op, b, None, self.mu, self.max_iter, relative_eps, spends_b=True)
        self._tell(rr.sqrt())
        return unscaled.mul_(scale)

    def _tell(self, relative: torch.Tensor) -> None:
        if self.residual is not None:
            torch.maximum(self.residual, relative.amax(), out=self.residual)

    def gradient_of_mu(self, adjoint: torch.Tensor, solution: torch.Tensor) -> torch.Tensor:
        """Where b does not depend on it; of the shape of mu."""
        return -_dot(adjoint, solution).sum_to_size(self.mu.shape)


class _ImplicitSolution(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        b: torch.Tensor,
        mu: torch.Tensor,  # noqa: ARG004 (that of the solve, here so that autograd sees it)
        x: torch.Tensor,
        solve: ImplicitSolve,
    ) -> torch.Tensor:
        solution = solve.solution(b, x)
        ctx.save_for_backward(solution, solve.relative_eps(b))
        ctx.solve = solve
        return solution

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Tuple[Any, ...]:  # type: ignore[override]
        solution, relative_eps = ctx.saved_tensors
        adjoint = ctx.solve.adjoint(grad, relative_eps)
        mu_grad = ctx.solve.gradient_of_mu(adjoint, solution) if ctx.needs_input_grad[1] else None
        return adjoint, mu_grad, None, None


def _dot(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Real part of the inner product of each example, shape (B, 1, ..., 1)."""
    return _Dot.apply(u, v)


class _Dot(torch.autograd.Function):
    """Its gradient is that of one sum, however many sums it is computed by."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.is_square = u is v
        ctx.save_for_backward(u, v)
        return _sum_of_products(u, v).reshape(-1, *[1] * (u.ndim - 1))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tuple[Optional[torch.Tensor], ...]:  # type: ignore[override]
        u, v = ctx.saved_tensors
        if ctx.is_square:
            return _times(2 * grad, u), None
        return tuple(_times(grad, w) if wanted else None for w, wanted in zip((v, u), ctx.needs_input_grad))


def _times(factor: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """A real factor times a complex image."""
    return torch.view_as_complex(factor[..., None] * _real(u))


def _sum_of_products(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Shape (B,)."""
    if computing_device(u).type != "cpu":
        product = _real(u) * _real(v)
        return product.sum(dim=tuple(range(1, product.ndim)))
    # No image of products is made.
    order = sorted(range(1, u.ndim), key=u.stride, reverse=True)
    rows = [_real(w.permute(0, *order)).reshape(len(w), -1).split(_CHUNK, dim=1) for w in (u, v)]
    chunks = [torch.stack([torch.dot(*row) for row in zip(*chunk)]) for chunk in zip(*rows)]
    return torch.stack(chunks).sum(dim=0)


def _norm(u: torch.Tensor) -> torch.Tensor:
    """Norm of each example, shape (B, 1, ..., 1)."""
    return _dot(u, u).sqrt()
