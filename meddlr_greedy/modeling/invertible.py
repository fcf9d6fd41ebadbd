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

* a block of the regulariser is :math:`x + g(x)` with :math:`\mathrm{Lip}(g) \le 1/2`; its inverse, by fixed point
  iteration, at most doubles an error (Behrmann et al., "Invertible residual networks", ICML 2019);
* data consistency has a condition number of at most 5. Then 19 iterations of conjugate gradients solve it to a relative
  residual of 1e-7, the precision of float32, and its inverse amplifies an error at most five times.

These factors multiply over the steps, so that many steps cannot be inverted in float32; with conjugate gradients, whose
solution has lost most of what the measured lines overrule, fewer than with gradient steps. ``inversion_error`` tells.
"""

import math
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from meddlr.config import CfgNode
from meddlr.config.config import configurable
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.cine import CineUnrolledCNN
from meddlr_greedy.modeling.inputs import UnrolledProblem
from meddlr_greedy.modeling.spatiotemporal import SpatioTemporalConv, SpatioTemporalResNet
from meddlr_greedy.modeling.unrolled_step import StepMode, block_of_step, run_step
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import implicit_conjugate_gradient
from meddlr_greedy.ops.lipschitz import convolution_norm_bound

__all__ = [
    "InvertibleCGCineUnrolledCNN",
    "InvertibleCineUnrolledCNN",
    "InvertibleResBlock",
    "InvertibleSpatioTemporalResNet",
    "check_invertible",
    "run_reversibly",
]

# Bound of Lip(g): an error of the fixed point iteration halves at least with each evaluation of g. At 0.9, 151
# evaluations would take the place of 23, and the inverse of a block could amplify an error tenfold instead of twice.
_LIPSCHITZ = 0.5
# Bound of the condition number of data consistency, and the relative residual that it is solved to.
_CONDITION = 5.0
_RESIDUAL = 1e-7


def _num_cg_iterations() -> int:
    r"""Conjugate gradients at condition number :math:`\kappa` reduce the residual to
    :math:`2 \sqrt\kappa ((\sqrt\kappa - 1) / (\sqrt\kappa + 1))^n`."""
    root = math.sqrt(_CONDITION)
    return math.ceil(math.log(2 * root / _RESIDUAL) / math.log((root + 1) / (root - 1)))


class InvertibleResBlock(nn.Module):
    """:math:`x + g(x)` of two (2+1)D convolutions and a ReLU, :math:`g` scaled so that it has an inverse.

    The Lipschitz constant of :math:`g` is at most the product of the norms of its linear layers (ReLU's is one). Where
    that is above 1/2, :math:`g` is scaled down to it; the scale is a function of the weights alone, the same in
    training and evaluation, and is trained through.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int = 3):
        super().__init__()
        self.conv1 = SpatioTemporalConv(in_channels, channels, kernel_size)
        self.conv2 = SpatioTemporalConv(channels, in_channels, kernel_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self._scale() * self._residual(x)

    @torch.no_grad()
    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        r"""The x with x + g(x) = y, by :math:`x \leftarrow y - g(x)`, until float32 rounding stops it.

        The distance to the solution is at most :math:`L / (1 - L)` times the last change, for L = Lip(g).
        """
        scale, x = self._scale(), y
        rounding = torch.finfo(y.dtype).eps * y.norm()
        for _ in range(math.ceil(math.log(torch.finfo(y.dtype).eps) / math.log(_LIPSCHITZ))):
            previous, x = x, y - scale * self._residual(x)
            # A look at the host: most blocks contract much faster than the bound, and a look costs less than g.
            if (x - previous).norm() <= rounding:
                break
        return x

    def _residual(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(F.relu(self.conv1(x)))

    def _scale(self) -> torch.Tensor:
        layers = [layer for conv in (self.conv1, self.conv2) for layer in (conv.spatial, conv.temporal)]
        bound = torch.stack([convolution_norm_bound(layer.weight) for layer in layers]).prod()
        return _LIPSCHITZ / bound.clamp(min=_LIPSCHITZ)


@META_ARCH_REGISTRY.register()
class InvertibleSpatioTemporalResNet(nn.Module):
    """Regulariser of 2D+t images with an inverse: ``num_blocks`` times :class:`InvertibleResBlock`.

    Args:
        in_channels: Channels of input and output: real and imaginary part of each map set, 2 M.
        channels: Features inside of a block.
        num_blocks: Number of blocks, at least 1.
        kernel_size: Odd kernel size along readout, phase encode and frames.
    """

    @configurable
    def __init__(self, in_channels: int, channels: int, num_blocks: int = 2, kernel_size: int = 3):
        super().__init__()
        self.blocks = nn.ModuleList(InvertibleResBlock(in_channels, channels, kernel_size) for _ in range(num_blocks))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 2M, T, H, W) to the same shape."""
        for block in self.blocks:
            image = block(image)
        return image

    def inverse(self, image: torch.Tensor) -> torch.Tensor:
        """Gives back what ``forward`` was given."""
        block: Any
        for block in reversed(self.blocks):
            image = block.inverse(image)
        return image

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """As for the (2+1)D residual network.

        Raises:
            UserError: for what has no inverse.
        """
        kwargs = SpatioTemporalResNet.from_config(cfg)
        dropout = kwargs.pop("dropout")
        if dropout:
            raise UserError(
                f"MODEL.UNROLLED.DROPOUT: found {dropout:g}, but an invertible network cannot undo it; allowed is 0"
            )
        if kwargs["num_blocks"] < 1:
            raise UserError("MODEL.UNROLLED.NUM_RESBLOCKS: found 0, an invertible network allows 1 and more")
        return kwargs


@META_ARCH_REGISTRY.register()
class InvertibleCineUnrolledCNN(CineUnrolledCNN):
    r""":class:`CineUnrolledCNN` with an inverse of each step :math:`x \leftarrow R_i(x - s_i (A^H A x - A^H y))`.

    The step size is :math:`s_i = 0.8\, \sigma(\theta_i) / \lambda` with a trained :math:`\theta_i`, the sigmoid
    :math:`\sigma`, and a bound :math:`\lambda` of the largest eigenvalue of :math:`A^H A`, each example's own (1 for
    ESPIRiT's maps): so the eigenvalues of :math:`1 - s_i A^H A` lie between 0.2 and 1. ``MODEL.UNROLLED.STEP_SIZES``
    are the first :math:`-s_i \lambda`, above -0.8 and below 0. It is inverted by conjugate gradients, since fixed point
    iteration would take 73 applications of :math:`A^H A` for 19.
    """

    regulariser = "InvertibleSpatioTemporalResNet"
    #: Bounds of ``MODEL.UNROLLED.STEP_SIZES``, both not allowed.
    allowed_step_sizes = (-(1 - 1 / _CONDITION), 0.0)

    @configurable
    def __init__(self, blocks: Any, step_sizes: Union[float, Sequence[float]], **kwargs: Any):
        super().__init__(blocks, step_sizes=step_sizes, **kwargs)
        blocks = [self.resnets] if self.num_repeat_steps else self.resnets
        if not all(isinstance(block, InvertibleSpatioTemporalResNet) for block in blocks):
            raise UserError(f"{type(self).__name__}: its blocks have no inverse, allowed are {self.regulariser}")
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

    @classmethod
    def from_config(cls, cfg: CfgNode, **kwargs: Any) -> Dict[str, Any]:
        """As for :class:`CineUnrolledCNN`.

        Raises:
            UserError: for a regulariser without an inverse.
        """
        name = cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE
        if name not in ("ResNet", cls.regulariser):
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
        return torch.log(torch.expm1(step_size - self.allowed_step_sizes[0]))

    def bounded(self, parameter: torch.Tensor, A: CineSenseModel) -> torch.Tensor:  # noqa: N803
        return (self.allowed_step_sizes[0] + F.softplus(parameter)) * A.largest_eigenvalue_bound()

    def step(self, *, image: torch.Tensor, model: nn.Module, A: CineSenseModel, zf_image, step_size, dims=None):  # noqa: N803
        mu = self.bounded(step_size, A)
        regularized = self.reg(image=image, model=model)
        return _solve(A.normal, zf_image + mu * regularized, regularized.detach(), mu)

    @torch.no_grad()
    def inverse_step(self, *, image, model, A, zf_image, step_size):  # noqa: N803
        mu = self.bounded(step_size, A)
        return self.reg(image=image + (A.normal(image) - zf_image) / mu, model=model.inverse)


def _solve(
    normal_op: Callable[[torch.Tensor], torch.Tensor], b: torch.Tensor, x: torch.Tensor, mu: Any
) -> torch.Tensor:
    """(N + mu)^{-1} b to a relative residual of 1e-7 for each example, at a condition number of at most 5."""
    norm = b.detach().flatten(1).norm(dim=1).reshape(-1, *[1] * (b.ndim - 1))
    return implicit_conjugate_gradient(normal_op, b, x, mu, _num_cg_iterations(), _RESIDUAL * norm)


def check_invertible(network: nn.Module, num_modules: int, others: Mapping[str, Any]) -> None:
    """Refuses what :func:`run_reversibly` does not train.

    Args:
        network: The network to train.
        num_modules: K.
        others: Keys of ``MISC.GREEDY`` that change how a step runs or what a loss reaches, with their values.

    Raises:
        UserError: for a network without an inverse, more than one module, or one of the other keys.
    """
    if not isinstance(network, InvertibleCineUnrolledCNN):
        raise UserError(
            f"MISC.GREEDY.TRAINING: found 'invertible', but {type(network).__name__} has no inverse; allowed for"
            " MISC.GREEDY.META_ARCHITECTURE are InvertibleCineUnrolledCNN and InvertibleCGCineUnrolledCNN"
        )
    if num_modules != 1:
        raise UserError(
            f"MISC.GREEDY.NUM_MODULES: found {num_modules}, but MISC.GREEDY.TRAINING 'invertible' is end-to-end"
            " backpropagation, which allows 1"
        )
    for key, value in others.items():
        if value:
            raise UserError(
                f"MISC.GREEDY.{key}: found {value!r}, which MISC.GREEDY.TRAINING 'invertible' does not allow; leave it"
                " out"
            )


def run_reversibly(
    network: InvertibleCineUnrolledCNN, problem: UnrolledProblem, on_done: Optional[Callable[[], None]] = None
) -> Tuple[torch.Tensor, torch.Tensor]:
    """All unrolled steps of a network; backward runs them back, and holds the activations of one step at a time.

    Args:
        network: The network to train.
        problem: The batch; the steps start from its zero-filled image A^H y, complex, shape (B, H, W, T, M).
        on_done: Called at the end of backward.

    Returns:
        The image of the last step, with the gradient of the network's parameters, and the error of the inversion, a
        scalar: the norm of the difference between the zero-filled image and what backward has led back to it, relative
        to the norm of the zero-filled image. Backward writes it; before, it is NaN.
    """
    error = torch.full((), math.nan, device=problem.zf_image.device)
    trainable = [p for p in network.parameters() if p.requires_grad]
    return _Reversible.apply(_Run(network, problem, error, on_done), *trainable), error


class _Run(NamedTuple):
    """The steps of one batch, and the way back."""

    network: InvertibleCineUnrolledCNN
    problem: UnrolledProblem
    error: torch.Tensor
    on_done: Optional[Callable[[], None]]

    @property
    def num_steps(self) -> int:
        return len(self.network.step_sizes)

    def forward(self) -> torch.Tensor:
        image = self.problem.zf_image
        for i in range(self.num_steps):
            image = run_step(self.network, i, image, self.problem, StepMode())
        return image

    def backward(self, image: torch.Tensor, grad: torch.Tensor) -> Dict[nn.Parameter, torch.Tensor]:
        gradients: Dict[nn.Parameter, torch.Tensor] = {}
        for i in reversed(range(self.num_steps)):
            image = self._before(i, image).requires_grad_()
            with torch.enable_grad():
                output = run_step(self.network, i, image, self.problem, StepMode())
            parameters = self._trainable(i)
            grad, *of_parameters = torch.autograd.grad(output, [image, *parameters], grad)
            for p, g in zip(parameters, of_parameters):
                gradients[p] = gradients[p] + g if p in gradients else g  # where weights are shared
            image = image.detach()
        zf_image = self.problem.zf_image
        self.error.copy_((image - zf_image).norm() / zf_image.norm())
        return gradients

    def _before(self, i: int, image: torch.Tensor) -> torch.Tensor:
        """The image that step ``i`` made ``image`` of."""
        block: Any = block_of_step(self.network, i)
        A: Any = self.problem.A
        step_size = self.network.step_sizes[i].to(image.device)
        return self.network.inverse_step(
            image=image, model=block, A=A, zf_image=self.problem.zf_image, step_size=step_size
        )

    def _trainable(self, i: int) -> List[nn.Parameter]:
        parameters: List[Any] = [*block_of_step(self.network, i).parameters(), self.network.step_sizes[i]]
        return [p for p in parameters if p.requires_grad]


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, *parameters: nn.Parameter) -> torch.Tensor:  # type: ignore[override]
        image = run.forward()
        ctx.run, ctx.parameters = run, parameters
        ctx.save_for_backward(image)
        return image

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        (image,) = ctx.saved_tensors
        gradients = ctx.run.backward(image, grad)
        if ctx.run.on_done is not None:
            ctx.run.on_done()
        return (None, *(gradients.get(p) for p in ctx.parameters))
