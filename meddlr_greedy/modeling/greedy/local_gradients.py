r"""Losses and gradients of the modules for one mini-batch: the greedy algorithm itself.

With :math:`\theta_j` the parameters of unrolled step j and :math:`L_k` the local loss of module k, which has the steps
:math:`s_k \le j < e_k` and the weight :math:`w_k` (1 by default), the gradient of a step is

.. math:: g_j = \sum_k w_k \, \partial L_k / \partial \theta_j ,

where the graph of :math:`L_k` begins at step :math:`s_k - m`: the image before that step is detached. Without overlap
(m = 0) only the own module's loss reaches a step. With overlap (Xiong et al., "LoCo: Local Contrastive Representation
Learning", NeurIPS 2020) a loss also reaches the last m steps of the module before, its *tail*. No step runs forward
twice for that: the graph is cut at the tail, and the tail's graph lives until the next module has used it::

    for k in 1..K:
        before = head_k(image)                 # image: what the tail of module k - 1 gave, with its graph
        cut = detach(before)
        image = tail_k(cut)
        loss_k = loss(image, target)
        gradient of w_k loss_k with respect to tail_k and cut; keeps the graph of tail_k
        from the gradient of cut, that with respect to head_k and tail_{k-1}; frees their graphs

Weights that grow from module to module let a tail be trained for the image of the next module rather than for its own
(weights of local losses: Corda-D'Incan et al., "Memory-efficient training for fully unrolled deep learned PET image
reconstruction with iteration-dependent targets", IEEE TRPMS 2022).
"""

from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.greedy.gradients import Gradients, add_gradients
from meddlr_greedy.modeling.greedy.modules import StepParameters, UnrolledModules
from meddlr_greedy.modeling.greedy.one_pass import OnePass, suits_one_pass
from meddlr_greedy.modeling.losses import LocalLoss
from meddlr_greedy.modeling.pixel_losses import SeparableLoss
from meddlr_greedy.modeling.problem import UnrolledProblem

__all__ = ["LocalLosses", "forward_greedily"]


class LocalLosses(NamedTuple):
    """What the modules are trained by."""

    loss: LocalLoss  #: the local loss of a module's image
    weights: Sequence[float]  #: of the local losses, one for each module
    overlap: int  #: m, the unrolled steps of the module before that a loss reaches, too
    separable: Optional[SeparableLoss] = None  #: the loss as a sum over pixels, where it is one


def forward_greedily(
    modules: UnrolledModules,
    losses: LocalLosses,
    problem: UnrolledProblem,
    seed: Optional[int] = None,
    takes_last_loss: bool = False,
) -> Tuple[torch.Tensor, Dict[str, torch.Tensor]]:
    """Loss and gradient of all modules that run here but the last, and the last module's image.

    Args:
        modules: The network.
        losses: What the modules are trained by.
        problem: The batch.
        seed: Of random layers, see :meth:`UnrolledModules.run_steps`.
        takes_last_loss: Whether the loss of the last module may be taken here, too. Then the gradient that its image
            gets does not matter: it has to be that of its local loss.

    Returns:
        The last module's image (B, H, W, [T,] M), whose backward gives every parameter its gradient; and the scalars
        ``loss_module_<k>`` of the modules whose loss was taken here.

    Raises:
        UserError: for a batch with neither ``target`` nor lines held out for the loss.
    """
    if problem.target is None and problem.measured is None:
        raise UserError(
            "GreedyUnrolled: the training batch has no 'target'; every module has a loss of its own, which needs"
            " fully sampled targets, or lines held out of the acquired ones (MISC.GREEDY.CINE.LOSS_LINES, for cine)"
        )
    parameters = modules.step_parameters()
    run = _Run(modules, parameters, losses, problem, seed)
    gradients: Gradients = {}
    scalars: Dict[str, torch.Tensor] = {}
    image = problem.image
    *others, last = modules.own
    for k in others:
        modules.mark(k, begins=True)
        one_pass = run.one_pass(k)
        if one_pass is None:
            image, scalars[f"loss_module_{k + 1}"], found = run.module(k, image)
        else:
            image = one_pass.data_consistency(image)
            image, scalars[f"loss_module_{k + 1}"], found = one_pass.run(image)
        add_gradients(gradients, found)
        modules.mark(k, begins=False)
    modules.mark(last, begins=True)
    reached = parameters.of(run.reached_steps(last))
    one_pass = run.one_pass(last) if takes_last_loss else None
    if one_pass is None:
        image = run.steps(modules.steps[last], image)
    else:
        image = one_pass.data_consistency(image)
        image, scalars[f"loss_module_{last + 1}"], found = one_pass.run(image)
        add_gradients(gradients, found)
    graph = _Graph(image, reached, losses.weights[last], gradients, lambda: modules.mark(last, begins=False))
    return _HandOutGradients.apply(graph, *parameters.parameters), scalars


class _Run(NamedTuple):
    """The modules on one batch."""

    modules: UnrolledModules
    parameters: StepParameters
    losses: LocalLosses
    problem: UnrolledProblem
    seed: Optional[int]

    def steps(self, steps: range, image: torch.Tensor) -> torch.Tensor:
        return self.modules.run_steps(steps, image, self.problem, self.seed)

    def reached_steps(self, k: int) -> range:
        """The unrolled steps in the graph of the local loss of module k."""
        steps = self.modules.steps[k]
        return steps if k == self.modules.own.start else range(steps.start - self.losses.overlap, steps.stop)

    def one_pass(self, k: int) -> Optional[OnePass]:
        """Forward and backward of module ``k`` tile by tile, where each tile need run but once."""
        steps, losses = self.modules.steps[k], self.losses
        suits = any(self.modules.mode.tile) and suits_one_pass(self.modules.network)
        if not suits or len(steps) > 1 or losses.overlap or losses.separable is None or self.problem.target is None:
            return None
        regularizer = self.modules.tiled_regularizer(steps.start, self.seed)
        return OnePass(
            self.modules,
            steps.start,
            regularizer,
            self.parameters.of(steps),
            losses.separable,
            losses.weights[k],
            self.problem,
        )

    def module(self, k: int, image: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, Gradients]:
        """Image, local loss and complete gradient of a module that has a successor.

        The image comes with the graph of the module's tail; nothing else of the module's graph outlives the call.
        """
        modules, problem = self.modules, self.problem
        start, end = modules.steps[k].start, modules.steps[k].stop
        tail = range(end - self.losses.overlap, end)
        head_parameters = self.parameters.of(range(self.reached_steps(k).start, tail.start))
        tail_parameters = self.parameters.of(tail)

        before = self.steps(range(start, tail.start), image)
        # Where nothing is to be cut, it is still the image that the network started from: some have a step for it.
        cut = before.detach().requires_grad_() if before.requires_grad else before
        image = self.steps(tail, cut)
        loss = self.losses.loss(problem.inputs, {"pred": image, **problem.reference})

        gradients: Gradients = {}
        if loss.requires_grad:  # a frozen module only passes its image on
            (image_gradient,) = torch.autograd.grad(loss, [image])
            weighted = _weighted(self.losses.weights[k], image_gradient)
            wanted = [*tail_parameters, cut] if cut.requires_grad else tail_parameters
            found = _gradient(image, wanted, weighted, retain_graph=bool(tail_parameters))
            add_gradients(gradients, dict(zip(tail_parameters, found)))
            if cut.requires_grad:
                add_gradients(gradients, dict(zip(head_parameters, _gradient(before, head_parameters, found[-1]))))
        return image if tail_parameters else image.detach(), loss.detach(), gradients


def _gradient(
    outputs: torch.Tensor,
    inputs: Sequence[torch.Tensor],
    grad_outputs: Optional[torch.Tensor] = None,
    retain_graph: bool = False,
) -> Sequence[Optional[torch.Tensor]]:
    return torch.autograd.grad(outputs, inputs, grad_outputs, allow_unused=True, retain_graph=retain_graph)


def _weighted(weight: float, image_gradient: torch.Tensor) -> torch.Tensor:
    """The gradient of a loss with respect to its image, times the weight of the loss.

    There, and not at the loss: the loss of the last module of a process is the trainer's, and every module has to give
    the same bits whether it is the last or not.
    """
    return image_gradient if weight == 1 else weight * image_gradient


class _Graph(NamedTuple):
    """The last module's image with its graph, and the gradients of the modules before it."""

    image: torch.Tensor
    parameters: Sequence[nn.Parameter]  #: that the last module's loss reaches
    weight: float  #: of its loss
    gradients: Gradients
    on_done: Callable[[], None]


class _HandOutGradients(torch.autograd.Function):
    """The last module's image; backward gives every parameter its gradient, summed over modules in module order.

    The graph is passed as one object, which autograd does not unpack: so the last module's gradient is complete
    before it is added to those of the modules before it, also where weights are shared.
    """

    @staticmethod
    def forward(ctx: Any, graph: _Graph, *parameters: nn.Parameter) -> torch.Tensor:  # type: ignore[override]
        ctx.graph, ctx.parameters = graph, parameters
        return graph.image.detach()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        graph, parameters = ctx.graph, ctx.parameters
        if graph is None:
            raise RuntimeError("GreedyUnrolled: backward was called twice for one forward")
        ctx.graph = None  # frees the activations
        gradients = graph.gradients
        if graph.image.requires_grad:
            found = _gradient(graph.image, graph.parameters, _weighted(graph.weight, grad))
            add_gradients(gradients, dict(zip(graph.parameters, found)))
        graph.on_done()
        return (None, *(gradients.pop(p, None) for p in parameters))
