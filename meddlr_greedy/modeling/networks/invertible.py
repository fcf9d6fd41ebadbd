r"""Unrolled networks that can be run backwards: training holds the activations of one unrolled step.

Memory-efficient learning (Kellman et al., "Memory-efficient learning for large-scale computational imaging", IEEE TCI
2020; Wang et al., arXiv 2103.04003)::

    x = A^H y
    for i in 1..N:                     # nothing is held but the last x
        x = step_i(x)
    g = dL/dx
    for i in N..1:
        x = inverse of step_i, at x
        g, gradient of the parameters = backpropagation of g through step_i, run once more at x

The gradient is that of end-to-end backpropagation, up to the rounding that the inversion amplifies. So the inverse of
each part of a step is kept well conditioned, whatever the weights become in training:

* a block of the regularizer is :math:`x + g(x)` with :math:`\mathrm{Lip}(g) \le 1/2`; its inverse, by fixed point
  iteration, at most doubles an error (Behrmann et al., "Invertible residual networks", ICML 2019);
* data consistency has a condition number of at most 5. Then 19 iterations of conjugate gradients solve it to a relative
  residual of 1e-7, the precision of float32, and its inverse amplifies an error at most five times.

These factors multiply over the steps, so that many steps cannot be inverted in float32; with conjugate gradients, whose
solution has lost most of what the measured lines overrule, fewer than with gradient steps.
``inversion_error_module_<k>`` tells.
"""

import math
from dataclasses import replace
from typing import Any, Callable, Dict, Sequence, Union

import torch
import torch.nn.functional as F
from meddlr.config import CfgNode
from meddlr.config.config import configurable
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.networks.cine import CineUnrolledCNN
from meddlr_greedy.modeling.regularizers.invertible import (
    InvertibleResBlock,
    InvertibleSpatioTemporalResNet,
    have_converged,
)
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import implicit_conjugate_gradient

__all__ = ["InvertibleCGCineUnrolledCNN", "InvertibleCineUnrolledCNN"]

# Bound of the condition number of data consistency, and the relative residual that it is solved to.
_CONDITION = 5.0
_RESIDUAL = 1e-7


def _num_cg_iterations() -> int:
    r"""Iterations after which the residual is small enough.

    At condition number :math:`\kappa`, n iterations of conjugate gradients reduce the residual to at most
    :math:`2 \sqrt\kappa ((\sqrt\kappa - 1) / (\sqrt\kappa + 1))^n`.
    """
    root = math.sqrt(_CONDITION)
    return math.ceil(math.log(2 * root / _RESIDUAL) / math.log((root + 1) / (root - 1)))


@META_ARCH_REGISTRY.register()
class InvertibleCineUnrolledCNN(CineUnrolledCNN):
    r""":class:`CineUnrolledCNN` with an inverse of each step :math:`x \leftarrow R_i(x - s_i (A^H A x - A^H y))`.

    The step size is :math:`s_i = 0.8\, \sigma(\theta_i) / \lambda` with a trained :math:`\theta_i`, the sigmoid
    :math:`\sigma`, and a bound :math:`\lambda` of the largest eigenvalue of :math:`A^H A`, each example's own (1 for
    ESPIRiT's maps): so the eigenvalues of :math:`1 - s_i A^H A` lie between 0.2 and 1. ``MODEL.UNROLLED.STEP_SIZES``
    are the first :math:`-s_i \lambda`, above -0.8 and below 0. It is inverted by conjugate gradients, since fixed point
    iteration would take 73 applications of :math:`A^H A` for 19.
    """

    traits = replace(CineUnrolledCNN.traits, invertible=True)
    regularizer = "InvertibleSpatioTemporalResNet"
    #: Bounds of ``MODEL.UNROLLED.STEP_SIZES``, both not allowed.
    allowed_step_sizes = (-(1 - 1 / _CONDITION), 0.0)

    @configurable
    def __init__(self, blocks: Any, step_sizes: Union[float, Sequence[float]], **kwargs: Any):
        super().__init__(blocks, step_sizes=step_sizes, **kwargs)
        blocks = [self.resnets] if self.num_repeat_steps else self.resnets
        if not all(isinstance(block, InvertibleSpatioTemporalResNet) for block in blocks):
            raise UserError(f"{type(self).__name__}: its blocks have no inverse, allowed are {self.regularizer}")
        lower, upper = self.allowed_step_sizes
        for value in step_sizes if isinstance(step_sizes, Sequence) else [step_sizes]:
            if not lower < value < upper:
                raise UserError(
                    f"MODEL.UNROLLED.STEP_SIZES: found {value:g}, {type(self).__name__} can be inverted above {lower:g}"
                    f" and below {upper:g}"
                )
        for step_size in self.step_sizes:
            with torch.no_grad():
                step_size.copy_(self.to_parameter(step_size))

    def to_parameter(self, step_size: torch.Tensor) -> torch.Tensor:
        """The trained number of a value of ``MODEL.UNROLLED.STEP_SIZES``."""
        return torch.logit(step_size / self.allowed_step_sizes[0])

    def bounded(self, parameter: torch.Tensor, A: CineSenseModel) -> torch.Tensor:  # noqa: N803
        """What data consistency uses of the trained number, for each example, shape (B, 1, 1, 1, 1)."""
        return self.allowed_step_sizes[0] * torch.sigmoid(parameter) / A.largest_eigenvalue_bound()

    def dc(self, *, image: torch.Tensor, A: CineSenseModel, zf_image: torch.Tensor, step_size: torch.Tensor):  # noqa: N803
        """The gradient step of the base class, with the bounded step size."""
        return super().dc(image=image, A=A, zf_image=zf_image, step_size=self.bounded(step_size, A))

    @torch.no_grad()
    def inverse_step(
        self,
        *,
        image: torch.Tensor,
        model: InvertibleSpatioTemporalResNet,
        A: CineSenseModel,  # noqa: N803
        zf_image: torch.Tensor,
        step_size: torch.Tensor,
    ) -> torch.Tensor:
        """The image (B, H, W, T, M) that ``step`` was given, from the image that it gave."""
        image = self.reg(image=image, model=model.inverse)
        step_size = self.bounded(step_size, A)
        # (1 + s A^H A) x = y + s A^H y, where 1 + s A^H A = N + 1/5 with the eigenvalues of N between 0 and 4/5.
        identity = 1 / _CONDITION
        return _solve(
            lambda x: (1 - identity) * x + step_size * A.normal(x), image + step_size * zf_image, image, identity
        )

    def inverse_has_converged(self) -> bool:
        """Whether the inverse steps so far were exact; where not, they have to be run again, and will be."""
        return have_converged([part for part in self.modules() if isinstance(part, InvertibleResBlock)])

    @classmethod
    def from_config(cls, cfg: CfgNode, **kwargs: Any) -> Dict[str, Any]:
        """As for :class:`CineUnrolledCNN`.

        Raises:
            UserError: for a regularizer without an inverse.
        """
        name = cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE
        if name not in ("ResNet", cls.regularizer):
            raise UserError(
                f"MODEL.UNROLLED.BLOCK_ARCHITECTURE: found '{name}', which has no inverse; {cls.__name__} allows"
                " 'ResNet'"
            )
        return super().from_config(cfg, **kwargs)


@META_ARCH_REGISTRY.register()
class InvertibleCGCineUnrolledCNN(InvertibleCineUnrolledCNN):
    r"""MoDL for cine with an inverse of each step :math:`x \leftarrow (A^H A + \mu_i)^{-1} (A^H y + \mu_i R_i(x))`.

    Its inverse is closed, :math:`R_i(x) = ((A^H A + \mu_i) x' - A^H y) / \mu_i`, as far as conjugate gradients have
    converged; it amplifies an error by up to :math:`1 + \lambda / \mu_i`. So :math:`\mu_i = \lambda (1/4 +
    \mathrm{softplus}(\theta_i))` with a trained :math:`\theta_i` and the bound :math:`\lambda` of the largest
    eigenvalue of :math:`A^H A` (1 for ESPIRiT's maps), and ``MODEL.UNROLLED.STEP_SIZES``, the first
    :math:`\mu_i / \lambda`, are above 1/4. The number of iterations follows from that; ``MODEL.UNROLLED.DC`` is not
    used. The gradient is that of the solution, in plain backpropagation, too.
    """

    allowed_step_sizes = (1 / (_CONDITION - 1), math.inf)

    def to_parameter(self, step_size: torch.Tensor) -> torch.Tensor:
        """The trained number of a value of ``MODEL.UNROLLED.STEP_SIZES``, by the inverse of softplus."""
        return torch.log(torch.expm1(step_size - self.allowed_step_sizes[0]))

    def bounded(self, parameter: torch.Tensor, A: CineSenseModel) -> torch.Tensor:  # noqa: N803
        """The weight mu that the trained number stands for, for each example, shape (B, 1, 1, 1, 1)."""
        return (self.allowed_step_sizes[0] + F.softplus(parameter)) * A.largest_eigenvalue_bound()

    def step(self, *, image: torch.Tensor, model: nn.Module, A: CineSenseModel, zf_image, step_size, dims=None):  # noqa: N803, ARG002
        """Regularizes, then solves data consistency; arguments as in ``modeling.contract.UnrolledNetwork``."""
        mu = self.bounded(step_size, A)
        regularized = self.reg(image=image, model=model)
        return _solve(A.normal, zf_image + mu * regularized, regularized.detach(), mu)

    @torch.no_grad()
    def inverse_step(self, *, image, model, A, zf_image, step_size):  # noqa: N803
        """The image (B, H, W, T, M) that ``step`` was given, from the image that it gave."""
        mu = self.bounded(step_size, A)
        return self.reg(image=image + (A.normal(image) - zf_image) / mu, model=model.inverse)


def _solve(
    normal_op: Callable[[torch.Tensor], torch.Tensor], b: torch.Tensor, x: torch.Tensor, mu: Any
) -> torch.Tensor:
    """(N + mu)^{-1} b to a relative residual of 1e-7 for each example, at a condition number of at most 5."""
    norm = b.detach().flatten(1).norm(dim=1).reshape(-1, *[1] * (b.ndim - 1))
    return implicit_conjugate_gradient(normal_op, b, x, mu, _num_cg_iterations(), _RESIDUAL * norm)
