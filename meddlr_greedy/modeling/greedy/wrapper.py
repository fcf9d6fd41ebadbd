r"""Greedy learning of an unrolled network.

The unrolled steps are cut into K modules of consecutive steps. For one mini-batch (Ozturkler et al., "GLEAM: Greedy
Learning for Large-Scale Accelerated MRI Reconstruction", arXiv 2207.08393)::

    x = A^H y                                  # zero-filled image
    for k in 1..K:
        x = module_k(detach(x))                # forward through the steps of module k only
        loss_k = loss(x, target)               # the same loss and target for every module
        gradient of loss_k with respect to the parameters of module k; frees the graph of module k
    update all parameters

K = 1 is end-to-end backpropagation. Activations are held for one module at a time. The loop itself, and how far a loss
may reach beyond its module, are in :mod:`~meddlr_greedy.modeling.greedy.local_gradients`; how a single step runs is in
:mod:`~meddlr_greedy.modeling.greedy.unrolled_step`.
"""

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

import torch
from meddlr.config import CfgNode
from meddlr.config.config import configurable
from meddlr.modeling.loss_computer import LossComputer
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from meddlr.utils.events import get_event_storage
from torch import nn

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.errors import UserError, did_you_mean
from meddlr_greedy.modeling.contract import check_compatible, is_compatible
from meddlr_greedy.modeling.greedy.inversion import check_invertible, run_reversibly
from meddlr_greedy.modeling.greedy.local_gradients import forward_greedily
from meddlr_greedy.modeling.greedy.modules import WholeNetwork, partition_steps
from meddlr_greedy.modeling.greedy.unrolled_step import StepMode, block_of_step, run_step
from meddlr_greedy.modeling.losses import LeanLossComputer, as_local_loss, complex_l1
from meddlr_greedy.modeling.problem import UnrolledProblem, prepare_inputs

__all__ = ["GreedyUnrolled"]

#: Wrappers of meddlr that train an inner architecture with losses of their own.
_WRAPPERS = ("N2R", "M2R", "NM2R", "A2R", "SSDU", "DENOISING")

#: Keys of the config that take effect in the update, which is the trainer's.
_KEYS_OF_TRAINER = ("CLIP_NORM", "LR_FACTORS")


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
        checkpoint: Whether backward runs the unrolled steps again, one by one, so that a module keeps the images
            between its steps alone (gradient checkpointing); gradients are the same, bit for bit.
        overlap: m, the number of unrolled steps of the module before that a module's loss reaches, too; see
            :mod:`~meddlr_greedy.modeling.greedy.local_gradients`.
        amp: "bf16" lets the layers of the regularizer compute in bfloat16, in evaluation too; "" does not.
        loss_weights: Weights of the local losses, that of the last module too, one for each; () is 1 for all.
        reversible: Trains end to end by :func:`~meddlr_greedy.modeling.greedy.inversion.run_reversibly`: for one module
            and a network that can be run backwards. The outputs then also hold ``inversion_error``.
        asked_of_trainer: Keys of the config that the trainer has to act on, with their values. It clears them; training
            is refused as long as there are any.

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
        checkpoint: bool = False,
        overlap: int = 0,
        amp: str = "",
        loss_weights: Sequence[float] = (),
        reversible: bool = False,
        asked_of_trainer: Optional[Mapping[str, Any]] = None,
    ):
        super().__init__()
        check_compatible(network)
        knobs = {"CHECKPOINT": checkpoint, "OVERLAP": overlap, "AMP": amp, "LOSS_WEIGHTS": loss_weights}
        GreedyConfig.from_mapping(knobs)
        # meddlr's checkpointer strips the prefix of this name when it loads into the plain network.
        self.model = network
        self.module_steps = partition_steps(len(network.step_sizes), num_modules)
        #: The modules that run in this process, and what the network was before the others were given up; see
        #: :meth:`keep_modules`.
        self.own_modules = range(len(self.module_steps))
        self.whole: Optional[WholeNetwork] = None
        self.reversible = reversible
        if reversible:
            check_invertible(network, self.num_modules, knobs)
        self.local_loss = as_local_loss(loss)
        if not 0 <= num_inference_modules <= len(self.module_steps):
            raise UserError(
                f"MISC.GREEDY.NUM_INFERENCE_MODULES: found {num_inference_modules}, allowed is 0 (all) to"
                f" {len(self.module_steps)} (the number of modules)"
            )
        self.num_inference_modules = num_inference_modules
        self.checkpoint = checkpoint
        self.overlap = overlap
        self.amp = amp
        if loss_weights:
            self.check_one_for_each_module("LOSS_WEIGHTS", loss_weights)
        self.loss_weights = list(loss_weights) or [1.0] * self.num_modules
        self.asked_of_trainer = dict(asked_of_trainer or {})
        shortest = min((len(steps) for steps in self.module_steps[:-1]), default=overlap)
        if overlap > shortest:
            raise UserError(
                f"MISC.GREEDY.OVERLAP: found {overlap}, allowed is 0 to {shortest} (the fewest unrolled steps of a"
                " module that has a successor)"
            )
        # Where given, what the random layers (dropout) of unrolled step i draw in training is a function of this number
        # and i alone, wherever and after whatever the step runs.
        self.seed_of_batch: Optional[int] = None
        # Called as on_module(k, begins) around the forward and backward of module k (from 0), for measurements.
        self.on_module: Optional[Callable[[int, bool], None]] = None

    @property
    def num_modules(self) -> int:
        return len(self.module_steps)

    def check_one_for_each_module(self, key: str, numbers: Sequence[float]) -> None:
        """Raises a UserError where a key of ``MISC.GREEDY`` has another number of elements than there are modules."""
        if len(numbers) != self.num_modules:
            raise UserError(
                f"MISC.GREEDY.{key}: found {len(numbers)} numbers, allowed are {self.num_modules} (one for each module)"
            )

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
                f"MISC.GREEDY.PARALLEL.PARTITION: modules {own.start + 1} to {own.stop} share"
                f" '{names[min(shared)]}' with"
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
            UserError: for a training batch with neither ``target`` nor lines held out for the loss, and under a trainer
                that does not act on a key of the config.
        """
        if not any(p.requires_grad for p in self.model.parameters()) and self.training:
            raise UserError(
                "GreedyUnrolled: no trainable parameters (a replica of torch.nn.DataParallel has none: use one device)"
            )
        if self.asked_of_trainer and self.training:
            key, value = next(iter(self.asked_of_trainer.items()))
            raise UserError(
                f"MISC.GREEDY.{key}: found {value!r}, which this trainer does not know; train with python -m"
                " meddlr_greedy.train_net, or leave the key out"
            )
        problem = self.prepare(inputs)
        outputs: Dict[str, Any] = {**problem.reference, "zf_image": problem.zf_image}
        if self.training and torch.is_grad_enabled():
            outputs["pred"], scalars = (
                self._forward_reversibly(problem) if self.reversible else forward_greedily(self, problem)
            )
            outputs.update(scalars)
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
        return self.run_steps(self.module_steps[k], image, problem)

    def run_steps(self, steps: Sequence[int], image: torch.Tensor, problem: UnrolledProblem) -> torch.Tensor:
        """Unrolled steps (from 0), image (B, H, W, [T,] M) to image."""
        mode = StepMode(recompute=self.checkpoint and self.training, bfloat16=self.amp == "bf16")
        for i in steps:
            seed = self.seed_of_batch + i if self.training and self.seed_of_batch is not None else None
            image = run_step(self.model, i, image, problem, mode, seed)
        return image

    def module_parameters(self) -> List[List[nn.Parameter]]:
        """For each module that runs here, the parameters that its loss trains.

        Those of its steps, and those that belong to no step in particular.
        """
        return [self.parameters_of(self.module_steps[k]) for k in self.own_modules]

    def parameters_of(self, steps: range) -> List[nn.Parameter]:
        """The trainable parameters of unrolled steps, and those that belong to no step; of no steps, none."""
        if not steps:
            return []
        own = self._ids_of_parameters(steps)
        of_any_step = self._ids_of_parameters(range(len(self.model.step_sizes)))
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        return [p for p in trainable if id(p) in own or id(p) not in of_any_step]

    def _ids_of_parameters(self, steps: range) -> Set[int]:
        blocks = [block_of_step(self.model, i) for i in steps]
        return {id(p) for block in blocks for p in block.parameters()} | {id(self.model.step_sizes[i]) for i in steps}

    def _forward_reversibly(self, problem: UnrolledProblem) -> Tuple[torch.Tensor, Dict[str, torch.Tensor]]:
        self.mark(0, begins=True)
        network: Any = self.model
        pred, error = run_reversibly(network, problem, on_done=lambda: self.mark(0, begins=False))
        return pred, {"inversion_error": error}

    def mark(self, k: int, begins: bool) -> None:
        """Tells the observer, where there is one, that forward and backward of module ``k`` begin or have ended."""
        if self.on_module is not None:
            self.on_module(k, begins)

    def _reconstruct(self, problem: UnrolledProblem, num_modules: int) -> torch.Tensor:
        image = problem.image
        for k in self.own_modules:
            if k < num_modules:
                image = self.run_module(k, image, problem)
        return image

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
            "checkpoint": greedy.CHECKPOINT,
            "overlap": greedy.OVERLAP,
            "amp": greedy.AMP,
            "loss_weights": greedy.LOSS_WEIGHTS,
            "reversible": greedy.TRAINING == "invertible",
            "asked_of_trainer": {key: getattr(greedy, key) for key in _KEYS_OF_TRAINER if getattr(greedy, key)},
            "loss": LeanLossComputer(cfg),
        }


def build_network(cfg: CfgNode, name: str) -> nn.Module:
    """The network that ``MISC.GREEDY.META_ARCHITECTURE`` names, built by meddlr's registry."""
    key = "MISC.GREEDY.META_ARCHITECTURE"
    if name == GreedyUnrolled.__name__ or name not in META_ARCH_REGISTRY:
        networks = [n for n, c in META_ARCH_REGISTRY if isinstance(c, type) and is_compatible(c)]
        raise UserError(
            f"{key}: found '{name}', allowed are {', '.join(sorted(networks))}{did_you_mean(name, networks)}"
        )
    cfg = cfg.clone().defrost()
    cfg.MODEL.META_ARCHITECTURE = name
    return META_ARCH_REGISTRY.get(name)(cfg.freeze())
