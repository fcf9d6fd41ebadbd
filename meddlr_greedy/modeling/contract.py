"""The contract with an unrolled network: what greedy learning uses of it, and what the network declares of itself.

A network of your own is a subclass of meddlr's ``GeneralizedUnrolledCNN``. One that leaves ``forward`` alone, and
overrides ``step``, ``dc`` or ``reg``, has nothing to declare. One with a ``forward`` of its own declares
:class:`NetworkTraits` as its class attribute ``traits``: they say what greedy learning cannot see.
"""

from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, Optional, Protocol, Tuple, TypeVar

import torch
from meddlr.config import CfgNode
from meddlr.forward.mri import SenseModel
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from torch import nn

from meddlr_greedy.config.schema import GreedyConfig, changed_keys, is_greedy
from meddlr_greedy.config.wrappers import name_inside
from meddlr_greedy.errors import UserError, did_you_mean
from meddlr_greedy.ops.axes import CINE_AXES, PLAIN_AXES

__all__ = [
    "CINE_AXES",
    "PLAIN_AXES",
    "REPLACED",
    "NetworkTraits",
    "UnrolledNetwork",
    "build_network",
    "check_compatible",
    "check_keys_of_network",
    "forward_of",
    "inner_class",
    "inner_name",
    "inner_network",
    "is_compatible",
    "is_local",
    "local",
    "network_class",
    "regularizes_then_solves",
    "then_solves",
    "traits_of",
]

#: Networks of meddlr -> the subclasses that are built in their place: with the same weights and results.
REPLACED: Dict[Any, Any] = {}


@dataclass(frozen=True)
class NetworkTraits:
    """What a network declares of itself, as its class attribute ``traits``.

    Attributes:
        kspace_axes: Number of axes of its batches of k-space, :data:`PLAIN_AXES` or :data:`CINE_AXES`.
        forward_runs_steps: Its own ``forward`` is nothing but preparation and its unrolled steps, each run once through
            ``step``. Greedy learning runs the steps itself and never calls that ``forward``.
        signal_model: Called with maps and mask, makes the signal model A that its steps get.
        chooses_cg_backward: It acts on ``MISC.GREEDY.CG_BACKWARD``.
        invertible: It has ``inverse_step``, so that training can run it backwards.
    """

    kspace_axes: int = PLAIN_AXES
    forward_runs_steps: bool = False
    signal_model: Callable[[torch.Tensor, Optional[torch.Tensor]], nn.Module] = SenseModel
    chooses_cg_backward: bool = False
    invertible: bool = False

    @property
    def is_cine(self) -> bool:
        """Whether it takes cine (2D+t)."""
        return self.kspace_axes == CINE_AXES


class UnrolledNetwork(Protocol):
    """What greedy learning uses of a network; ``GeneralizedUnrolledCNN`` has it all but ``traits``.

    H is the readout, W the phase encode, T the cardiac phases, C the coils and M the map sets; T is there in cine
    alone.
    """

    traits: ClassVar[NetworkTraits]
    resnets: Any  #: nn.ModuleList with one regularizer for each unrolled step, or one module that all steps share
    step_sizes: Any  #: nn.ParameterList with one scalar for each unrolled step
    num_repeat_steps: int  #: above 0 where all steps share ``resnets``
    num_emaps: int  #: M
    vis_period: int  #: iterations between two pictures in TensorBoard; 0 or less draws none

    def step(
        self,
        *,
        image: torch.Tensor,
        model: Callable[[torch.Tensor], torch.Tensor],
        A: nn.Module,  # noqa: N803 (meddlr's name)
        zf_image: torch.Tensor,
        step_size: torch.Tensor,
        dims: Tuple[int, ...],
    ) -> torch.Tensor:
        """Runs one unrolled step.

        Args:
            image: Complex, (B, H, W, [T,] M). The first step gets ``zf_image`` itself.
            model: The regularizer of the step.
            A: The signal model; ``A(image)`` is k-space (B, H, W, [T,] C), ``A(kspace, adjoint=True)`` an image.
            zf_image: The zero-filled image A^H y, complex, (B, H, W, [T,] M).
            step_size: The step's scalar.
            dims: The shape of k-space.

        Returns:
            torch.Tensor: The next image, complex, (B, H, W, [T,] M).
        """

    def visualize_training(self, kspace: Any, zfs: Any, targets: Any, preds: Any) -> None:
        """Writes pictures to meddlr's event storage."""

    def parameters(self) -> Any:
        """As of ``nn.Module``."""


def traits_of(network: Any) -> NetworkTraits:
    """The traits of a network or of its class; those of a plain 2D network where it declares none."""
    traits = getattr(network, "traits", None)
    return traits if isinstance(traits, NetworkTraits) else NetworkTraits()


def forward_of(regularizer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What meddlr's unrolled step calls of a regularizer: of some its ``base_forward``, in the place of itself."""
    base_forward = getattr(regularizer, "base_forward", None)
    return base_forward if callable(base_forward) else regularizer


_Method = TypeVar("_Method", bound=Callable[..., Any])


def local(method: _Method) -> _Method:
    """Marks a network's ``reg``: of a part of an image, of any size, it does what it does there in the whole image.

    The regularizer that it gets may return a part of what it is given. A method that overrides it has no mark.
    """
    method.is_local = True  # type: ignore[attr-defined]
    return method


def is_local(method: Callable[..., Any]) -> bool:
    """Whether a network's ``reg`` can be given a part of an image; that of meddlr's networks can."""
    return method is GeneralizedUnrolledCNN.reg or getattr(method, "is_local", False)


def then_solves(method: _Method) -> _Method:
    r"""Marks a network's ``step``: it regularizes an image x, and then solves data consistency around that.

    That is ``reg``, and then the x* of :math:`(N + \mu) x^* = A^H y + \mu R(x)` that the network's ``solver(A, mu)``
    finds from x, an :class:`~meddlr_greedy.ops.conjugate_gradient.ImplicitSolve`. Where that is None, autograd goes
    through the iterations. A method that overrides it has no mark.

    A network whose attribute ``relies_on_convergence`` is true gets, as its attribute ``residual``, what its solves
    raise to their relative residuals; trainings log it as ``cg_residual_module_<k>``.
    """
    method.then_solves = True  # type: ignore[attr-defined]
    return method


def regularizes_then_solves(network: Any) -> bool:
    """Whether the step of a network does nothing but that, with a ``solver`` of its own."""
    return getattr(type(network).step, "then_solves", False) and hasattr(network, "solver")


def network_class(name: str) -> Any:
    """The class that is built for a registered name: the registered one, or what replaces it (:data:`REPLACED`)."""
    registered = META_ARCH_REGISTRY.get(name)
    return REPLACED.get(registered, registered)


def inner_name(cfg: CfgNode) -> str:
    """The registered name of the network inside of wrappers, and of ``GreedyUnrolled``."""
    return GreedyConfig.from_cfg(cfg).META_ARCHITECTURE if is_greedy(cfg) else name_inside(cfg)


def inner_class(cfg: CfgNode) -> Any:
    """The class of that network, as it is registered; ``None`` where its name is not."""
    return dict(META_ARCH_REGISTRY).get(inner_name(cfg))


def inner_network(model: Any) -> Any:
    """The network inside of wrappers, which hold it as ``model``."""
    while hasattr(model, "model"):
        model = model.model
    return model


def is_compatible(network_class: Any) -> bool:
    """Whether a class of networks can be trained greedily."""
    if not isinstance(network_class, type) or not issubclass(network_class, GeneralizedUnrolledCNN):
        return False
    # Declared by the class whose forward it is, or by a subclass that knows it; not by one that it overrides.
    classes = network_class.__mro__
    owner = next(i for i, c in enumerate(classes) if "forward" in vars(c))
    if classes[owner] is GeneralizedUnrolledCNN:
        return True
    declared = [vars(c)["traits"] for c in classes[: owner + 1] if "traits" in vars(c)]
    return any(isinstance(traits, NetworkTraits) and traits.forward_runs_steps for traits in declared)


def check_compatible(network: nn.Module) -> None:
    """Refuses a network that does not meet the contract.

    Raises:
        UserError: says what is missing.
    """
    name, traits = type(network).__name__, getattr(network, "traits", NetworkTraits())
    if not isinstance(traits, NetworkTraits):
        raise UserError(f"{name}: traits: found {type(traits).__name__}, allowed is NetworkTraits(...)")
    if not is_compatible(type(network)):
        raise UserError(
            f"MISC.GREEDY.META_ARCHITECTURE: {name} cannot be trained greedily: allowed is a"
            " GeneralizedUnrolledCNN, or a subclass driven through step() (one that overrides forward declares"
            " traits = NetworkTraits(forward_runs_steps=True), see meddlr_greedy.modeling.contract)"
        )
    if not isinstance(network.resnets, nn.Module):
        raise UserError(
            "GreedyUnrolled: the network's blocks are a plain list, so it has no trainable blocks; pass an"
            " nn.ModuleList"
        )
    if traits.invertible and not hasattr(network, "inverse_step"):
        raise UserError(f"{name}: traits: found invertible=True, allowed is False without a method inverse_step")


def check_keys_of_network(cfg: CfgNode) -> None:
    """Refuses keys of ``MISC.GREEDY`` that the network of a config, or its regularizer, would ignore.

    Raises:
        UserError: names the key.
    """
    config, name = GreedyConfig.from_cfg(cfg), cfg.MODEL.META_ARCHITECTURE
    networks: Dict[str, Any] = {registered: network for registered, network in META_ARCH_REGISTRY}
    network = inner_class(cfg)
    for key, value in changed_keys(config):
        trait = key.rule.needs_trait
        if trait and not getattr(traits_of(network), trait):
            suited = sorted(n for n, other in networks.items() if getattr(traits_of(other), trait))
            raise UserError(
                f"{key.full_name}: found {value!r}, which {getattr(network, '__name__', name)} would ignore; allowed is"
                f" {key.default!r}, or one of the networks {', '.join(suited)}"
            )
    _check_keys_of_regularizer(cfg, network)


def _check_keys_of_regularizer(cfg: CfgNode, network: Any) -> None:
    """Refuses keys of ``MISC.GREEDY`` that the regularizer of a network (its class) would ignore."""
    regularizers, name = dict(META_ARCH_REGISTRY), cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE
    regularizer = regularizers.get(getattr(network, "regularizer", name) if name == "ResNet" else name)
    for key, value in changed_keys(GreedyConfig.from_cfg(cfg)):
        attribute = key.rule.needs_regularizer
        if attribute and not getattr(regularizer, attribute, False):
            suited = sorted(n for n, other in regularizers.items() if getattr(other, attribute, False))
            raise UserError(
                f"{key.full_name}: found {value!r}, which the regularizer '{name}' (MODEL.UNROLLED.BLOCK_ARCHITECTURE)"
                f" of {getattr(network, '__name__', network)} would ignore; allowed is {key.default!r}, or one of the"
                f" regularizers {', '.join(suited)}"
            )


def build_network(cfg: CfgNode, name: str) -> nn.Module:
    """The network that ``MISC.GREEDY.META_ARCHITECTURE`` names, built by meddlr's registry.

    Raises:
        UserError: No network of that name can be trained greedily, or its regularizer would ignore a key.
    """
    networks = sorted(n for n, c in META_ARCH_REGISTRY if is_compatible(c))
    if name not in META_ARCH_REGISTRY or name == "GreedyUnrolled":
        raise UserError(
            f"MISC.GREEDY.META_ARCHITECTURE: found '{name}', allowed are {', '.join(networks)}"
            f"{did_you_mean(name, networks)}"
        )
    _check_keys_of_regularizer(cfg, META_ARCH_REGISTRY.get(name))
    cfg = cfg.clone().defrost()
    cfg.MODEL.META_ARCHITECTURE = name
    return network_class(name)(cfg.freeze())
