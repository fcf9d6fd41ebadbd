"""Losses and gradients of the modules for one mini-batch: the greedy algorithm itself."""

from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.inputs import UnrolledProblem

if TYPE_CHECKING:
    from meddlr_greedy.modeling.greedy import GreedyUnrolled

__all__ = ["forward_greedily"]

Gradients = Dict[nn.Parameter, torch.Tensor]


def forward_greedily(model: "GreedyUnrolled", problem: UnrolledProblem) -> Tuple[torch.Tensor, Dict[str, torch.Tensor]]:
    """Loss and gradient of all modules that run here but the last, and the last module's image.

    Returns:
        The last module's image (B, H, W, [T,] M), whose backward gives every parameter its gradient; and the scalars
        ``loss_module_<k>`` of the others.

    Raises:
        UserError: for a batch with neither ``target`` nor lines held out for the loss.
    """
    if problem.target is None and problem.measured is None:
        raise UserError(
            "GreedyUnrolled: the training batch has no 'target'; every module has a loss of its own, which needs"
            " fully sampled targets, or lines held out of the acquired ones (MISC.GREEDY.LOSS_LINES, for cine)"
        )
    gradients: Gradients = {}
    losses: Dict[str, torch.Tensor] = {}
    image = problem.image
    *others, own = model.module_parameters()
    for k, parameters in zip(model.own_modules, others):
        model.mark(k, begins=True)
        with torch.set_grad_enabled(bool(parameters)):  # a frozen module only passes its image on
            image = model.run_module(k, image, problem)
            outputs = {"pred": image, **problem.reference}
            loss = model.local_loss(problem.inputs, outputs)
        if parameters:
            _accumulate(gradients, parameters, _gradient(loss, parameters))
        losses[f"loss_module_{k + 1}"] = loss.detach()
        # What still refers to the graph of this module must not outlive it.
        image = image.detach()
        del loss, outputs
        model.mark(k, begins=False)
    last = model.own_modules[-1]
    model.mark(last, begins=True)
    image = model.run_module(last, image, problem)
    graph = _Graph(image, own, gradients, lambda: model.mark(last, begins=False))
    trainable = [p for p in model.model.parameters() if p.requires_grad]
    return _HandOutGradients.apply(graph, *trainable), losses


def _gradient(
    outputs: torch.Tensor,
    parameters: Sequence[nn.Parameter],
    grad_outputs: Optional[torch.Tensor] = None,
) -> Sequence[Optional[torch.Tensor]]:
    return torch.autograd.grad(outputs, parameters, grad_outputs, allow_unused=True)


def _accumulate(
    gradients: Gradients,
    parameters: Sequence[nn.Parameter],
    module_gradient: Sequence[Optional[torch.Tensor]],
) -> None:
    """Adds one module's complete gradient; modules share parameters only where weights are shared."""
    for p, g in zip(parameters, module_gradient):
        if g is not None:
            gradients[p] = gradients[p] + g if p in gradients else g


class _Graph(NamedTuple):
    """The last module's image with its graph, and the gradients of the modules before it."""

    image: torch.Tensor
    parameters: Sequence[nn.Parameter]
    gradients: Gradients
    on_done: Callable[[], None]


class _HandOutGradients(torch.autograd.Function):
    """The last module's image; backward gives every parameter its gradient, summed over modules in module order.

    The graph is passed as one object, which autograd does not look into: so the last module's gradient is complete
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
        if graph.parameters:
            _accumulate(gradients, graph.parameters, _gradient(graph.image, graph.parameters, grad))
        graph.on_done()
        return (None, *(gradients.pop(p, None) for p in parameters))
