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

from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, Union

import torch
from meddlr.config import CfgNode
from meddlr.config.config import configurable
from meddlr.modeling.loss_computer import LossComputer
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN
from meddlr.utils.events import get_event_storage
from torch import nn

from meddlr_greedy.config.combinations import check_combinable
from meddlr_greedy.config.schema import GreedyConfig, changed_keys
from meddlr_greedy.config.wrappers import SECTIONS
from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.contract import build_network, check_compatible
from meddlr_greedy.modeling.greedy.clean_targets import CleanTargets
from meddlr_greedy.modeling.greedy.inversion import check_invertible
from meddlr_greedy.modeling.greedy.local_gradients import LocalLosses, Stream, forward_greedily, forward_streams
from meddlr_greedy.modeling.greedy.modules import UnrolledModules, WholeNetwork
from meddlr_greedy.modeling.greedy.unrolled_step import StepMode
from meddlr_greedy.modeling.losses import LeanLossComputer, LocalLoss, as_local_loss, as_separable_loss, complex_l1
from meddlr_greedy.modeling.parts import Part
from meddlr_greedy.modeling.problem import UnrolledProblem
from meddlr_greedy.plugins import import_plugins

__all__ = ["GreedyUnrolled"]

# Of coil images, with tiles: what fits into the cache of a processor, where FFTs of parts take half the time.
_AUTOMATIC_MB = 16

# What each part of a batch adds to the seed of random layers, so that no two draw the same: more than there are
# unrolled steps, and no multiple of 2**32, beyond which torch's generator on the CPU does not look.
_SEEDS_APART = 2**16


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
        network: Meets the contract, see :mod:`meddlr_greedy.modeling.contract`.
        num_modules: K, or the number of unrolled steps of each module.
        loss: Local loss, a function (pred, target) -> scalar or one of meddlr's loss computers.
        num_inference_modules: Number of modules to run in evaluation; 0 runs all.
        checkpoint: Activation checkpointing. With "step" (or True) backward runs the unrolled steps again, one by one,
            so that a module keeps the images between its steps alone; with "block" also the residual blocks in a step.
            Gradients are the same, bit for bit.
        saved: "int8" holds the activations of the regularizer as integers of 8 bits, which rounds the gradient.
        overlap: m, the number of unrolled steps of the module before that a module's loss reaches, too; see
            :mod:`~meddlr_greedy.modeling.greedy.local_gradients`.
        amp: "bf16" lets the layers of the regularizer compute in bfloat16, in evaluation too; "" does not.
        tile: Rows and columns of the tiles that the regularizer runs on, see
            :mod:`~meddlr_greedy.modeling.greedy.tiled_regularizer`; 0 is the whole axis.
        dc_memory: MB of the coil images that data consistency makes at a time; 0 is no limit, "auto" limits them where
            there are tiles.
        loss_weights: Weights of the local losses, that of the last module too, one for each; () is 1 for all.
        invertible: Whether backward runs the steps of a module back, see
            :func:`~meddlr_greedy.modeling.greedy.inversion.run_inverting`: for networks that have an inverse. The
            outputs then also hold ``inversion_error_module_<k>``, which backward writes.
        consistency_target: Inside of meddlr's wrappers with consistency, whose image of the clean batch the images of
            the perturbed one are compared with: that of the whole "network", or of the same "module".
        left_to_trainer: Keys of the config that the trainer has to act on, with their values; with any of them,
            training is refused. A trainer that acts on them builds the network from a config without them.

    Attributes:
        model: The network. Its name is one that meddlr's checkpointer strips when it loads into the plain network.
        unrolled: The network as modules.
        losses: What they are trained by.
        whole: What the network was before modules were given up, see :meth:`keep_modules`.

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
        checkpoint: Union[bool, str] = "",
        saved: str = "",
        overlap: int = 0,
        amp: str = "",
        tile: Sequence[int] = (0, 0),
        dc_memory: Union[int, str] = "auto",
        loss_weights: Sequence[float] = (),
        invertible: bool = False,
        consistency_target: str = "network",
        left_to_trainer: Optional[Mapping[str, Any]] = None,
    ):
        super().__init__()
        check_compatible(network)
        config = GreedyConfig.from_mapping(
            {
                "CHECKPOINT": checkpoint,
                "SAVED": saved,
                "OVERLAP": overlap,
                "AMP": amp,
                "TILE": tile,
                "DC_MEMORY": dc_memory,
                "LOSS_WEIGHTS": loss_weights,
                "TRAINING": "invertible" if invertible else "greedy",
                "CONSISTENCY_TARGET": consistency_target,
            }
        )
        check_combinable(config)
        if invertible:
            check_invertible(network)
        mode = StepMode(
            bfloat16=amp == "bf16",
            tile=(config.TILE[0], config.TILE[1]),
            recompute=str(config.CHECKPOINT),
            inverts=invertible,
            saved=saved,
        )
        self.model = network
        self.unrolled = UnrolledModules(network, num_modules, mode)
        self.whole: Optional[WholeNetwork] = None
        self.largest_part = _bytes_of_coil_images(config)
        _check_inference_modules(num_inference_modules, self.num_modules)
        self.num_inference_modules = num_inference_modules
        self._check_one_per_module(config)
        _check_overlap(overlap, self.unrolled)
        weights = list(loss_weights) or [1.0] * self.num_modules
        self.losses = LocalLosses(as_local_loss(loss), weights, overlap, as_separable_loss(loss))
        self.consistency_target = consistency_target
        self._left_to_trainer = dict(left_to_trainer or {})

    @property
    def num_modules(self) -> int:
        """K, the number of modules of the whole network."""
        return len(self.unrolled)

    def forward(
        self,
        inputs: Dict[str, Any],
        return_pp: bool = False,
        vis_training: bool = False,
        seed: Optional[int] = None,
        takes_last_loss: bool = False,
    ) -> Dict[str, Any]:
        """Reconstructs (B, H, W, [T,] M) from meddlr's batch, which is left as it is.

        Args:
            inputs: meddlr's batch, or one that the process of the modules before has handed on.
            return_pp: Whether the outputs hold "mean", "std" and "norm" of the batch.
            vis_training: Whether to draw a picture, whatever the iteration.
            seed: Of the random layers in training, see :meth:`UnrolledModules.run_steps`.
            takes_last_loss: Whether the loss of "pred" that is going to be taken is the local loss, and nothing else,
                so that its gradient may be taken here, tile by tile.

        Returns:
            Dict[str, Any]: "pred", "target", "signal_model", without ``takes_last_loss`` "zf_image" and, in training,
            the modules' losses. Where more modules follow in another process, also the "problem" to hand on.

        Raises:
            UserError: for a training batch with neither ``target`` nor lines held out for the loss, and under a trainer
                that does not act on a key of the config.
        """
        if self.training:
            self._check_trainable()
        problem = self.problem(inputs)
        outputs: Dict[str, Any] = {**problem.reference}
        if self.training and torch.is_grad_enabled():
            outputs["pred"], scalars = forward_greedily(self.unrolled, self.losses, problem, seed, takes_last_loss)
            outputs.update({**scalars, **problem.errors})
        else:
            used = self.num_inference_modules if not self.training else 0
            outputs["pred"] = self._reconstruct(problem, used or self.num_modules, seed)
        if not takes_last_loss:  # or nobody reads it, and it need not be made again
            outputs["zf_image"] = problem.zf_image
        if not self.unrolled.holds_last:
            outputs["problem"] = problem
        if return_pp:
            outputs.update({key: problem.inputs[key] for key in ("mean", "std", "norm")})
        self._visualize(problem, outputs["pred"], vis_training)
        return outputs

    def forward_parts(
        self, parts: Mapping[str, Part], losses: Mapping[str, LocalLoss], seed: Optional[int] = None
    ) -> Tuple[Dict[str, Dict[str, Any]], Dict[str, torch.Tensor]]:
        """Trains on the parts of a batch that a wrapper of meddlr gives to the network inside of it.

        Args:
            parts: By name, in the order in which their gradients are added up.
            losses: The local loss of each part, with its weight inside.
            seed: Of the random layers, see :meth:`UnrolledModules.run_steps`; each part draws on its own.

        Returns:
            Of each part the outputs that :meth:`forward` gives of a batch, with the "inputs" that the network saw and
            the "clean_inputs" before they were perturbed; and the scalars, the modules' losses, which are sums over the
            parts, among them.

        Raises:
            UserError: where the network has no trainable parameters.
        """
        self._check_parameters()
        streams = [self._stream(part, losses[name], seed, i) for i, (name, part) in enumerate(parts.items())]
        images, scalars = forward_streams(self.unrolled, streams)
        outputs = {}
        for name, stream, image in zip(parts, streams, images):
            problem, targets = stream.problem, stream.targets
            outputs[name] = {**problem.reference, "zf_image": problem.zf_image, "pred": image, "inputs": problem.inputs}
            if targets is not None:
                outputs[name].update({"target": targets.target, "clean_inputs": targets.problem.inputs})
            scalars.update(problem.errors)
            if not self.unrolled.holds_last:
                outputs[name]["problem"] = problem
                if targets is not None:
                    outputs[name]["clean"] = targets
        return outputs, scalars

    def _stream(self, part: Part, loss: LocalLoss, seed: Optional[int], i: int) -> Stream:
        seeds = [None if seed is None else seed + j * _SEEDS_APART for j in (2 * i, 2 * i + 1)]
        losses = self.losses._replace(loss=loss, separable=None)
        targets = None
        if part.clean is not None:
            of_network = self.consistency_target == "network"
            targets = CleanTargets(self.unrolled, self.problem(part.clean), seeds[1], part.transform, of_network)
        return Stream(self.problem(part.inputs), losses, seeds[0], targets)

    @property
    def vis_period(self) -> int:
        """Iterations between two pictures; wrappers of meddlr set it to -1 where they make them themselves."""
        return self.model.vis_period

    @vis_period.setter
    def vis_period(self, period: int) -> None:
        self.model.vis_period = period

    def problem(self, inputs: Dict[str, Any]) -> UnrolledProblem:
        """What the steps need of meddlr's batch, or of one that was handed on; it is left as it is."""
        return UnrolledProblem.prepare(self.model, inputs, self.largest_part)

    def _check_trainable(self) -> None:
        self._check_parameters()
        if self._left_to_trainer:
            key, value = next(iter(self._left_to_trainer.items()))
            raise UserError(
                f"{key}: found {value!r}, which this trainer does not know; train with python -m"
                " meddlr_greedy.train_net, or leave the key out"
            )

    def _check_parameters(self) -> None:
        if not any(p.requires_grad for p in self.model.parameters()):
            raise UserError(
                "GreedyUnrolled: no trainable parameters (a replica of torch.nn.DataParallel has none: use one device)"
            )

    def _check_one_per_module(self, config: GreedyConfig) -> None:
        for key, value in changed_keys(config):
            if key.rule.one_per_module:
                self.unrolled.check_one_for_each(key.name, value)

    def _reconstruct(self, problem: UnrolledProblem, num_modules: int, seed: Optional[int]) -> torch.Tensor:
        image = problem.image
        for k in self.unrolled.own:
            if k < num_modules:
                image = self.unrolled.run(k, image, problem, seed if self.training else None)
        return image

    def _visualize(self, problem: UnrolledProblem, pred: torch.Tensor, force: bool) -> None:
        period = self.model.vis_period
        if force and not self.training:
            raise ValueError("vis_training is only applicable in training mode")
        if not self.training or not (force or period > 0):
            return
        if self.unrolled.holds_last and (force or get_event_storage().iter % period == 0):
            # Of k-space it shows the sampled points alone; where it was used up elsewhere, the mask tells them.
            kspace = problem.inputs.get("kspace", problem.inputs["mask"].to(problem.zf_image.dtype))
            self.model.visualize_training(kspace, problem.zf_image, problem.target, pred.detach())

    # ---- names in checkpoints

    def keep_modules(self, own: range) -> None:
        """Keeps the modules ``own`` alone, and lets go of the parameters of the others, which run in other processes.

        From then on ``forward`` runs these modules: from the batch that :meth:`UnrolledProblem.handed_on` gave to the
        process of the modules before them, to ``pred``, the image of the last of them. Where more modules follow,
        the outputs also hold the ``problem`` to hand on.

        Raises:
            UserError: where modules share parameters, which cannot be separated.
        """
        whole = WholeNetwork(
            shapes={name: tuple(value.shape) for name, value in self.state_dict().items()},
            trainable=[name for name, p in self.named_parameters() if p.requires_grad],
        )
        self.unrolled.keep(own)
        self.whole = whole

    def own_state_dict(self) -> Dict[str, torch.Tensor]:
        """``state_dict`` without what stands in the place of modules that were given up."""
        given_up = {f"model.step_sizes.{i}" for i in self.unrolled.given_up_steps()}
        return {name: value for name, value in self.state_dict().items() if name not in given_up}

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        """Lets the weights of a plain network load into the wrapper (meddlr's checkpointer does the other way)."""
        own = prefix + "model."
        if not any(key.startswith(own) for key in state_dict):
            for key in [key for key in state_dict if key.startswith(prefix)]:
                state_dict[own + key[len(prefix) :]] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """The arguments of ``__init__``, from ``MISC.GREEDY``.

        Raises:
            UserError: names the key.
        """
        greedy = GreedyConfig.from_cfg(cfg)
        import_plugins(greedy.RUN.IMPORTS, "MISC.GREEDY.RUN.IMPORTS")  # under meddlr's own train_net nothing else does
        # A wrapper does not tell the network inside of it what its images are compared with; the plugin's trainer does.
        # Denoising puts it into the batch.
        names = {f"MODEL.{section}.META_ARCHITECTURE" for section in SECTIONS.values() if section != "DENOISING"}
        around = {name: cls.__name__ for name in sorted(names) if cfg.get_recursive(name) == cls.__name__}
        return {
            "network": build_network(cfg, greedy.META_ARCHITECTURE),
            "num_modules": greedy.NUM_MODULES,
            "num_inference_modules": greedy.NUM_INFERENCE_MODULES,
            "checkpoint": greedy.CHECKPOINT,
            "saved": greedy.SAVED,
            "overlap": greedy.OVERLAP,
            "amp": greedy.AMP,
            "tile": greedy.TILE,
            "dc_memory": greedy.DC_MEMORY,
            "loss_weights": greedy.LOSS_WEIGHTS,
            "invertible": greedy.TRAINING == "invertible",
            "consistency_target": greedy.CONSISTENCY_TARGET,
            "left_to_trainer": {
                **{key.full_name: value for key, value in changed_keys(greedy) if key.rule.acts_in_trainer},
                **around,
            },
            "loss": LeanLossComputer(cfg),
        }


def _bytes_of_coil_images(config: GreedyConfig) -> Optional[int]:
    """How many bytes of coil images data consistency may make at a time; None is no limit."""
    megabytes = config.DC_MEMORY
    if megabytes == "auto":
        megabytes = _AUTOMATIC_MB if any(config.TILE) else 0
    return int(megabytes) * 10**6 or None


def _check_inference_modules(found: int, num_modules: int) -> None:
    if not 0 <= found <= num_modules:
        raise UserError(
            f"MISC.GREEDY.NUM_INFERENCE_MODULES: found {found}, allowed is 0 (all) to {num_modules} (the number of"
            " modules)"
        )


def _check_overlap(overlap: int, modules: UnrolledModules) -> None:
    shortest = min((len(steps) for steps in modules.steps[:-1]), default=overlap)
    if overlap > shortest:
        raise UserError(
            f"MISC.GREEDY.OVERLAP: found {overlap}, allowed is 0 to {shortest} (the fewest unrolled steps of a"
            " module that has a successor)"
        )
