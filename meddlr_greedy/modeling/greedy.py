r"""Greedy learning of an unrolled network.

The unrolled steps are cut into K modules of consecutive steps. For one mini-batch (Ozturkler et al., "GLEAM: Greedy
Learning for Large-Scale Accelerated MRI Reconstruction", arXiv 2207.08393)::

    x = A^H y                                  # zero-filled image
    for k in 1..K:
        x = module_k(detach(x))                # forward through the steps of module k only
        loss_k = loss(x, target)               # the same loss and target for every module
        gradient of loss_k with respect to the parameters of module k; frees the graph of module k
    update all parameters

K = 1 is end-to-end backpropagation. Activations are held for one module at a time.
"""

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from meddlr.config import CfgNode
from meddlr.config.config import configurable
from meddlr.modeling.loss_computer import LossComputer
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from meddlr.utils.events import get_event_storage
from torch import nn

from meddlr_greedy.config import GreedyConfig
from meddlr_greedy.errors import UserError, did_you_mean
from meddlr_greedy.modeling.inputs import MeasuredLines, prepare_inputs
from meddlr_greedy.modeling.invertible import check_invertible, run_reversibly
from meddlr_greedy.modeling.losses import LeanLossComputer, as_local_loss, complex_l1

__all__ = ["GreedyUnrolled", "partition_steps"]

#: Wrappers of meddlr that train an inner architecture with losses of their own.
_WRAPPERS = ("N2R", "M2R", "NM2R", "A2R", "SSDU", "DENOISING")

Gradients = Dict[nn.Parameter, torch.Tensor]


def partition_steps(num_steps: int, num_modules: Union[int, Sequence[int]]) -> List[range]:
    """Cuts ``num_steps`` unrolled steps into modules of consecutive steps.

    Args:
        num_steps: N, the unrolled steps of the network.
        num_modules: K, or the number of steps of each module. An uneven K gives the larger modules first.

    Returns:
        One range of step indices per module.

    Raises:
        UserError: where K is larger than N, or the sizes do not add up to N.
    """
    key = "MISC.GREEDY.NUM_MODULES"
    if isinstance(num_modules, int):
        if not 1 <= num_modules <= num_steps:
            raise UserError(
                f"{key}: found {num_modules}, allowed is 1 to {num_steps} (the number of unrolled steps,"
                " MODEL.UNROLLED.NUM_UNROLLED_STEPS)"
            )
        size, larger = divmod(num_steps, num_modules)
        sizes = [size + 1] * larger + [size] * (num_modules - larger)
    else:
        sizes = list(num_modules)
        if not sizes or min(sizes) < 1 or sum(sizes) != num_steps:
            raise UserError(
                f"{key}: found sizes {sizes}, allowed are positive sizes that add up to {num_steps}"
                " (the number of unrolled steps, MODEL.UNROLLED.NUM_UNROLLED_STEPS)"
            )
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [range(end - size, end) for end, size in zip(ends, sizes)]


class UnrolledProblem(NamedTuple):
    """What every unrolled step needs of one batch, prepared once."""

    inputs: Dict[str, Any]  #: the batch on the network's device, see prepare_inputs
    A: nn.Module  #: signal model
    zf_image: torch.Tensor  #: zero-filled image A^H y, (B, H, W, [T,] M)
    image: (
        torch.Tensor
    )  #: where the first module that runs here starts: zf_image, or what a module elsewhere made of it
    target: Optional[torch.Tensor]  #: fully sampled image, same shape
    measured: Optional[MeasuredLines]  #: what was measured on the lines held out for the loss
    dims: Tuple[int, ...]  #: shape of k-space, (B, H, W, [T,] C)

    @property
    def reference(self) -> Dict[str, Any]:
        """What the loss of a module compares its image with."""
        return {"target": self.target, "signal_model": self.A, "measured": self.measured}

    def handed_on(self, image: torch.Tensor) -> Dict[str, Any]:
        """The batch for the process that runs the next modules: without k-space where nobody needs it there."""
        unused = ["edge_mask", "signal_model", "measured"]
        if "postprocessing_mask" not in self.inputs:  # which puts the measured k-space into the result
            unused.append("kspace")
        kept = {key: value for key, value in self.inputs.items() if key not in unused}
        return {**kept, "zf_image": self.zf_image, "image": image.detach(), "dims": self.dims}


class WholeNetwork(NamedTuple):
    """Names in the whole network, of which a process may keep a part."""

    shapes: Dict[str, Tuple[int, ...]]  #: of parameters and buffers
    trainable: List[str]  #: parameters, in the order of the network


@META_ARCH_REGISTRY.register()
class GreedyUnrolled(nn.Module):
    """Trains an unrolled network greedily; in evaluation it is that network.

    Works under meddlr's unchanged trainer: in training, ``forward`` computes loss and gradient of all modules but the
    last, and returns the last module's image. The backward of the trainer's loss of that image then hands out the
    gradients of all modules at once. Inputs and outputs are those of the wrapped network; the outputs also hold the
    scalars ``loss_module_1`` to ``loss_module_<K-1>`` (the last module's loss is the trainer's). That loss has to be
    the local loss itself: a factor put before it (a loss scaler, a division by the accumulation steps) would reach the
    last module alone.

    Args:
        network: A ``GeneralizedUnrolledCNN`` or subclass that is driven through its ``step``. A subclass that
            overrides ``forward`` must declare ``greedy_compatible = True``; it may define
            ``build_signal_model(maps, mask)``.
        num_modules: K, or the number of unrolled steps of each module.
        loss: Local loss, a function (pred, target) -> scalar or one of meddlr's loss computers.
        num_inference_modules: Number of modules to run in evaluation; 0 runs all.
        reversible: Trains end to end through :func:`~meddlr_greedy.modeling.invertible.run_reversibly`; for one module
            and a network that can be run backwards. The outputs then also hold ``inversion_error``.

    Example::

        model = GreedyUnrolled(network, num_modules=4)
        loss = complex_l1(model(batch)["pred"], batch["target"])
        loss.backward()     # the gradients of all four modules

    Raises:
        UserError: where the network cannot be trained greedily or the modules do not fit it.
    """

    @configurable
    def __init__(
        self,
        network: GeneralizedUnrolledCNN,
        num_modules: Union[int, Sequence[int]] = 1,
        loss: Union[LossComputer, Callable[..., torch.Tensor]] = complex_l1,
        num_inference_modules: int = 0,
        reversible: bool = False,
    ):
        super().__init__()
        _check_compatible(network)
        # meddlr's checkpointer strips the prefix of this name when it loads into the plain network.
        self.model = network
        self.module_steps = partition_steps(len(network.step_sizes), num_modules)
        #: The modules that run in this process, and what the network was before the others were given up; see
        #: :meth:`keep_modules`.
        self.own_modules = range(len(self.module_steps))
        self.whole: Optional[WholeNetwork] = None
        self.reversible = reversible
        if reversible:
            check_invertible(network, self.num_modules)
        self.local_loss = as_local_loss(loss)
        if not 0 <= num_inference_modules <= len(self.module_steps):
            raise UserError(
                f"MISC.GREEDY.NUM_INFERENCE_MODULES: found {num_inference_modules}, allowed is 0 (all) to"
                f" {len(self.module_steps)} (the number of modules)"
            )
        self.num_inference_modules = num_inference_modules
        # Where given, what the random layers (dropout) of unrolled step i draw in training is a function of this number
        # and i alone, wherever and after whatever the step runs.
        self.seed_of_batch: Optional[int] = None
        # Called as on_module(k, begins) around the forward and backward of module k (from 0), for measurements.
        self.on_module: Optional[Callable[[int, bool], None]] = None

    @property
    def num_modules(self) -> int:
        return len(self.module_steps)

    @property
    def is_last(self) -> bool:
        """Whether the last module of the network runs in this process."""
        return self.own_modules.stop == self.num_modules

    def keep_modules(self, own: range) -> None:
        """Keeps the modules ``own`` alone, and lets go of the parameters of the others, which run in other processes.

        From then on ``forward`` runs these modules: from the batch that :meth:`UnrolledProblem.handed_on` gave to the
        process of the modules before them, to ``pred``, the image of the last of them. Where more modules follow,
        the outputs also hold the ``problem`` to hand on.

        Raises:
            UserError: where modules share parameters, so that they cannot be parted.
        """
        names = {id(p): name for name, p in self.model.named_parameters()}
        owners = [{id(p) for p in parameters} for parameters in self.module_parameters()]
        shared = set().union(*(owners[k] for k in own)) & set().union(*(owners[k] for k in self._others(own)))
        if shared:
            raise UserError(
                f"MISC.GREEDY.PARTITION: modules {own.start + 1} to {own.stop} share '{names[min(shared)]}' with"
                " modules of other processes; weights shared between modules (MODEL.UNROLLED.SHARE_WEIGHTS) allow one"
                " process"
            )
        self.whole = WholeNetwork(
            shapes={name: tuple(value.shape) for name, value in self.state_dict().items()},
            trainable=[name for name, p in self.named_parameters() if p.requires_grad],
        )
        for k in self._others(own):
            for i in self.module_steps[k]:
                self.model.resnets[i] = nn.Identity()
                self.model.step_sizes[i] = nn.Parameter(torch.empty(0), requires_grad=False)
        self.own_modules = own

    def own_state_dict(self) -> Dict[str, torch.Tensor]:
        """``state_dict`` without what stands in the place of modules that were given up."""
        given_up = {f"model.step_sizes.{i}" for k in self._others(self.own_modules) for i in self.module_steps[k]}
        return {name: value for name, value in self.state_dict().items() if name not in given_up}

    def _others(self, own: range) -> List[int]:
        return [k for k in range(self.num_modules) if k not in own]

    def forward(self, inputs: Dict[str, Any], return_pp: bool = False, vis_training: bool = False) -> Dict[str, Any]:
        """Reconstructs (B, H, W, [T,] M) from meddlr's batch, which is left as it is.

        Raises:
            UserError: for a training batch with neither ``target`` nor lines held out for the loss.
        """
        if not any(p.requires_grad for p in self.model.parameters()) and self.training:
            raise UserError(
                "GreedyUnrolled: no trainable parameters (a replica of torch.nn.DataParallel has none: use one device)"
            )
        problem = self.prepare(inputs)
        outputs: Dict[str, Any] = {**problem.reference, "zf_image": problem.zf_image}
        if self.training and torch.is_grad_enabled():
            forward = self._forward_reversibly if self.reversible else self._forward_greedily
            outputs.update(forward(problem))
        else:
            used = self.num_inference_modules if not self.training else 0
            outputs["pred"] = self._reconstruct(problem, used or self.num_modules)
        if not self.is_last:
            outputs["problem"] = problem
        if return_pp:
            outputs.update({key: problem.inputs[key] for key in ("mean", "std", "norm")})
        self._visualize(problem, outputs["pred"], vis_training)
        return outputs

    def prepare(self, inputs: Dict[str, Any]) -> UnrolledProblem:
        """Signal model and zero-filled image of a batch, as the plain network makes them."""
        inputs = prepare_inputs(self.model, inputs)
        A, reference = inputs["signal_model"], (inputs.get("target"), inputs.get("measured"))
        if "image" in inputs:  # handed on by the process of the modules before
            return UnrolledProblem(inputs, A, inputs["zf_image"], inputs["image"], *reference, tuple(inputs["dims"]))
        kspace = inputs["kspace"]
        zf_image = A(kspace, adjoint=True)
        return UnrolledProblem(inputs, A, zf_image, zf_image, *reference, tuple(kspace.size()))

    def run_module(self, k: int, image: torch.Tensor, problem: UnrolledProblem) -> torch.Tensor:
        """The unrolled steps of module ``k`` (from 0): image (B, H, W, [T,] M) to image."""
        for i in self.module_steps[k]:
            seed = self.seed_of_batch + i if self.training and self.seed_of_batch is not None else None
            with _seeded(seed, image.device):
                image = self.model.step(
                    image=image,
                    model=self._block(i),
                    A=problem.A,
                    zf_image=problem.zf_image,
                    step_size=self.model.step_sizes[i].to(image.device),
                    dims=problem.dims,
                )
        return image

    def module_parameters(self) -> List[List[nn.Parameter]]:
        """For each module that runs here, the parameters that its loss trains.

        Those of its steps, and those that belong to no step in particular.
        """
        ids_of_modules = [
            {id(p) for i in steps for p in (*self._block(i).parameters(), self.model.step_sizes[i])}
            for steps in (self.module_steps[k] for k in self.own_modules)
        ]
        ids_of_steps = set().union(*ids_of_modules)
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        return [[p for p in trainable if id(p) in own or id(p) not in ids_of_steps] for own in ids_of_modules]

    def _forward_greedily(self, problem: UnrolledProblem) -> Dict[str, Any]:
        if problem.target is None and problem.measured is None:
            raise UserError(
                "GreedyUnrolled: the training batch has no 'target'; every module has a loss of its own, which needs"
                " fully sampled targets, or lines held out of the acquired ones (MISC.GREEDY.LOSS_LINES, for cine)"
            )
        gradients: Gradients = {}
        losses: Dict[str, torch.Tensor] = {}
        image = problem.image
        *others, own = self.module_parameters()
        for k, parameters in zip(self.own_modules, others):
            self._mark(k, begins=True)
            with torch.set_grad_enabled(bool(parameters)):  # a frozen module only passes its image on
                image = self.run_module(k, image, problem)
                outputs = {"pred": image, **problem.reference}
                loss = self.local_loss(problem.inputs, outputs)
            if parameters:
                _accumulate(gradients, parameters, _gradient(loss, parameters))
            losses[f"loss_module_{k + 1}"] = loss.detach()
            # What still refers to the graph of this module must not outlive it.
            image = image.detach()
            del loss, outputs
            self._mark(k, begins=False)
        last = self.own_modules[-1]
        self._mark(last, begins=True)
        image = self.run_module(last, image, problem)
        graph = _Graph(image, own, gradients, lambda: self._mark(last, begins=False))
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return {"pred": _HandOutGradients.apply(graph, *parameters), **losses}

    def _forward_reversibly(self, problem: UnrolledProblem) -> Dict[str, Any]:
        self._mark(0, begins=True)
        network: Any = self.model
        signal_model: Any = problem.A
        pred, error = run_reversibly(network, signal_model, problem.zf_image, lambda: self._mark(0, begins=False))
        return {"pred": pred, "inversion_error": error}

    def _mark(self, k: int, begins: bool) -> None:
        if self.on_module is not None:
            self.on_module(k, begins)

    def _reconstruct(self, problem: UnrolledProblem, num_modules: int) -> torch.Tensor:
        image = problem.image
        for k in self.own_modules:
            if k < num_modules:
                image = self.run_module(k, image, problem)
        return image

    def _block(self, step: int) -> nn.Module:
        shared = self.model.num_repeat_steps > 0
        return self.model.resnets if shared else self.model.resnets[step]

    def _visualize(self, problem: UnrolledProblem, pred: torch.Tensor, force: bool) -> None:
        period = self.model.vis_period
        if force and not self.training:
            raise ValueError("vis_training is only applicable in training mode")
        if not self.training or not (force or period > 0):
            return
        if self.is_last and (force or get_event_storage().iter % period == 0):
            # Of k-space it shows the sampled points alone; where it was used up elsewhere, the mask tells them.
            kspace = problem.inputs.get("kspace", problem.inputs["mask"].to(problem.zf_image.dtype))
            self.model.visualize_training(kspace, problem.zf_image, problem.target, pred.detach())

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        """Lets the weights of a plain network load into the wrapper (meddlr's checkpointer does the other way)."""
        own = prefix + "model."
        if not any(key.startswith(own) for key in state_dict):
            for key in [key for key in state_dict if key.startswith(prefix)]:
                state_dict[own + key[len(prefix) :]] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        greedy = GreedyConfig.from_cfg(cfg)
        for wrapper in _WRAPPERS:
            if cfg.MODEL[wrapper].META_ARCHITECTURE == cls.__name__:
                raise UserError(
                    f"MODEL.{wrapper}.META_ARCHITECTURE: found '{cls.__name__}', which cannot be used inside"
                    f" {wrapper}: its losses are not the modules' local losses. Name the plain network there"
                )
        return {
            "network": build_network(cfg, greedy.META_ARCHITECTURE),
            "num_modules": greedy.NUM_MODULES,
            "num_inference_modules": greedy.NUM_INFERENCE_MODULES,
            "loss": LeanLossComputer(cfg),
            "reversible": greedy.TRAINING == "invertible",
        }


def build_network(cfg: CfgNode, name: str) -> nn.Module:
    """The network that ``MISC.GREEDY.META_ARCHITECTURE`` names, built by meddlr's registry."""
    key = "MISC.GREEDY.META_ARCHITECTURE"
    if name == GreedyUnrolled.__name__ or name not in META_ARCH_REGISTRY:
        networks = [n for n, c in META_ARCH_REGISTRY if isinstance(c, type) and _is_compatible(c)]
        raise UserError(
            f"{key}: found '{name}', allowed are {', '.join(sorted(networks))}{did_you_mean(name, networks)}"
        )
    cfg = cfg.clone().defrost()
    cfg.MODEL.META_ARCHITECTURE = name
    return META_ARCH_REGISTRY.get(name)(cfg.freeze())


def _is_compatible(network_class: Any) -> bool:
    if not issubclass(network_class, GeneralizedUnrolledCNN):
        return False
    if network_class.forward is GeneralizedUnrolledCNN.forward:
        return True
    # Declared by the class whose forward it is, or by a subclass that knows it; not by one that it overrides.
    classes = network_class.__mro__
    owner = next(i for i, c in enumerate(classes) if "forward" in vars(c))
    return any(vars(c).get("greedy_compatible", False) for c in classes[: owner + 1])


def _check_compatible(network: nn.Module) -> None:
    if not _is_compatible(type(network)):
        raise UserError(
            f"MISC.GREEDY.META_ARCHITECTURE: {type(network).__name__} cannot be trained greedily: allowed is a"
            " GeneralizedUnrolledCNN, or a subclass driven through step() (one that overrides forward declares"
            " greedy_compatible = True)"
        )
    if not isinstance(network.resnets, nn.Module):
        raise UserError(
            "GreedyUnrolled: the network's blocks are a plain list, so it has no trainable blocks; pass an"
            " nn.ModuleList"
        )


@contextmanager
def _seeded(seed: Optional[int], device: torch.device) -> Iterator[None]:
    """Seeds torch's generators of the CPU and of ``device``, and puts them back at the end; None leaves them alone."""
    if seed is None:
        yield
        return
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            torch.cuda.default_generators[device.index].manual_seed(seed)
        yield


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
