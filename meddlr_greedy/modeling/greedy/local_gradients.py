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

A wrapper of meddlr gives its network several batches for one mini-batch, a perturbed one for example, and its loss is
a sum over them. Each module then trains on all of them, one after the other: its gradient is that of its loss of the
first batch plus that of the second, each computed completely. Only of the last module are the activations of several
batches held at once.

Weights that grow from module to module let a tail be trained for the image of the next module rather than for its own
(weights of local losses: Corda-D'Incan et al., "Memory-efficient training for fully unrolled deep learned PET image
reconstruction with iteration-dependent targets", IEEE TRPMS 2022).
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.greedy.clean_targets import CleanTargets
from meddlr_greedy.modeling.greedy.gradients import Gradients, add_gradients
from meddlr_greedy.modeling.greedy.modules import StepParameters, UnrolledModules
from meddlr_greedy.modeling.greedy.one_pass import OnePass
from meddlr_greedy.modeling.greedy.solved_step import SolvedStep
from meddlr_greedy.modeling.greedy.tiled_step import TiledStep
from meddlr_greedy.modeling.losses import LocalLoss
from meddlr_greedy.modeling.pixel_losses import SeparableLoss
from meddlr_greedy.modeling.problem import UnrolledProblem

__all__ = ["LocalLosses", "Stream", "forward_greedily", "forward_streams"]


class LocalLosses(NamedTuple):
    """What the modules are trained by."""

    loss: LocalLoss  #: the local loss of a module's image
    weights: Sequence[float]  #: of the local losses, one for each module
    overlap: int  #: m, the unrolled steps of the module before that a loss reaches, too
    separable: Optional[SeparableLoss] = None  #: the loss as a sum over pixels, where it is one


class Stream(NamedTuple):
    """A batch on its way through the modules."""

    problem: UnrolledProblem
    losses: LocalLosses
    seed: Optional[int] = None  #: of random layers, see :meth:`UnrolledModules.run_steps`
    targets: Optional[CleanTargets] = None  #: of the modules' images, in the place of the batch's own


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
    (image,), scalars = forward_streams(modules, [Stream(problem, losses, seed)], takes_last_loss)
    return image, scalars


def forward_streams(
    modules: UnrolledModules, streams: Sequence[Stream], takes_last_loss: bool = False
) -> Tuple[List[torch.Tensor], Dict[str, torch.Tensor]]:
    """As :func:`forward_greedily`, for a loss that is a sum over several batches: the last module's image of each.

    The batches have the same weights of modules and the same overlap. One backward of a loss of all images gives every
    parameter its gradient.
    """
    parameters = modules.step_parameters()
    runs = [_Run(modules, parameters, stream) for stream in streams]
    gradients: Gradients = {}
    scalars: Dict[str, torch.Tensor] = {}
    images = [stream.problem.image for stream in streams]
    *others, last = modules.own
    for k in others:
        modules.mark(k, begins=True)
        of_module: Gradients = {}
        losses: List[torch.Tensor] = []
        for i, run in enumerate(runs):
            step = run.tiled_step(k)
            if step is None:
                images[i], loss, found = run.module(k, images[i])
            else:
                images[i] = step.begin(images[i])
                images[i], loss, found = step.run(images[i])
            add_gradients(of_module, found)
            losses.append(loss)
        add_gradients(gradients, of_module)
        scalars[f"loss_module_{k + 1}"] = sum(losses[1:], losses[0])
        modules.mark(k, begins=False)
    weight = streams[0].losses.weights[last]
    if len(modules) == 1 and len(streams) > 1 and weight == 1:
        # Backpropagation as without greedy learning: where a parameter is used more than twice, autograd adds up the
        # gradients of all batches in an order of its own.
        return [run.last(last, image) for run, image in zip(runs, images)], scalars
    modules.mark(last, begins=True)
    reached = parameters.of(runs[0].reached_steps(last))
    step = runs[0].tiled_step(last) if takes_last_loss and len(runs) == 1 else None
    if step is None:
        images = [run.last(last, image) for run, image in zip(runs, images)]
    else:
        images[0] = step.begin(images[0])
        images[0], scalars[f"loss_module_{last + 1}"], found = step.run(images[0])
        add_gradients(gradients, found)
    graph = _Graph(images, reached, weight, gradients, lambda: modules.mark(last, begins=False))
    return list(_HandOutGradients.apply(graph, *parameters.parameters)), scalars


class _Run(NamedTuple):
    """The modules on one batch."""

    modules: UnrolledModules
    parameters: StepParameters
    stream: Stream

    @property
    def problem(self) -> UnrolledProblem:
        return self.stream.problem

    @property
    def losses(self) -> LocalLosses:
        return self.stream.losses

    def steps(self, steps: range, image: torch.Tensor) -> torch.Tensor:
        return self.modules.run_steps(steps, image, self.problem, self.stream.seed)

    def last(self, k: int, image: torch.Tensor) -> torch.Tensor:
        """The image of module ``k``, with its graph; the targets then hold that of the module."""
        if self.stream.targets is not None:
            self.stream.targets.of(k)
        return self.steps(self.modules.steps[k], image)

    def reference(self, k: int) -> Dict[str, Any]:
        """What the image of module ``k`` is compared with."""
        targets = self.stream.targets
        return self.problem.reference if targets is None else {**self.problem.reference, "target": targets.of(k)}

    def reached_steps(self, k: int) -> range:
        """The unrolled steps in the graph of the local loss of module k."""
        steps = self.modules.steps[k]
        return steps if k == self.modules.own.start else range(steps.start - self.losses.overlap, steps.stop)

    def tiled_step(self, k: int) -> Optional[TiledStep]:
        """Forward and backward of module ``k`` tile by tile, without a graph of more than a tile, where that can be."""
        modules, losses = self.modules, self.losses
        steps = modules.steps[k]
        if not any(modules.mode.tile) or len(steps) > 1 or losses.overlap:
            return None
        if losses.separable is None or self.problem.target is None:
            return None
        form = next((form for form in (OnePass, SolvedStep) if form.suits(modules, self.problem)), None)
        if form is None:
            return None
        return form(
            modules,
            steps.start,
            modules.tiled_regularizer(steps.start, self.stream.seed),
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
        reference = self.reference(k)
        start, end = modules.steps[k].start, modules.steps[k].stop
        tail = range(end - self.losses.overlap, end)
        head_parameters = self.parameters.of(range(self.reached_steps(k).start, tail.start))
        tail_parameters = self.parameters.of(tail)

        before = self.steps(range(start, tail.start), image)
        # Where nothing is to be cut, it is still the image that the network started from: some have a step for it.
        cut = before.detach().requires_grad_() if before.requires_grad else before
        image = self.steps(tail, cut)
        loss = self.losses.loss(problem.inputs, {"pred": image, **reference})

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
    """The last module's image of each batch with its graph, and the gradients of the modules before it."""

    images: Sequence[torch.Tensor]
    parameters: Sequence[nn.Parameter]  #: that the last module's loss reaches
    weight: float  #: of its loss
    gradients: Gradients
    on_done: Callable[[], None]


class _HandOutGradients(torch.autograd.Function):
    """The last module's images; backward gives every parameter its gradient, summed over modules in module order.

    The graph is passed as one object, which autograd does not unpack: so the last module's gradient is complete
    before it is added to those of the modules before it, also where weights are shared.
    """

    @staticmethod
    def forward(ctx: Any, graph: _Graph, *parameters: nn.Parameter) -> Tuple[torch.Tensor, ...]:  # type: ignore[override]
        ctx.graph, ctx.parameters = graph, parameters
        ctx.set_materialize_grads(False)
        return tuple(image.detach() for image in graph.images)

    @staticmethod
    def backward(ctx: Any, *grads: Optional[torch.Tensor]) -> Any:
        graph, parameters = ctx.graph, ctx.parameters
        if graph is None:
            raise RuntimeError("GreedyUnrolled: backward was called twice for one forward")
        ctx.graph = None  # frees the activations
        gradients = graph.gradients
        of_module: Gradients = {}
        for image, grad in zip(graph.images, grads):
            if image.requires_grad and grad is not None:
                found = _gradient(image, graph.parameters, _weighted(graph.weight, grad))
                add_gradients(of_module, dict(zip(graph.parameters, found)))
        add_gradients(gradients, of_module)
        graph.on_done()
        return (None, *(gradients.pop(p, None) for p in parameters))
