"""One training step: a mini-batch through the network, the losses, the gradients and the update.

Trainers, the planner of memory and the benchmarks own one each; a process of a chain overrides the extension points.
"""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple, Type, TypeVar

import torch
from meddlr.config import CfgNode

from meddlr_greedy.data.seeding import example_seed, isolated_generators
from meddlr_greedy.engine.build import build_loss_computer, build_network_to_train, build_optimizer
from meddlr_greedy.errors import NonFiniteLossError
from meddlr_greedy.modeling.contract import inner_network
from meddlr_greedy.modeling.greedy.modules import Observer
from meddlr_greedy.modeling.parts import Part
from meddlr_greedy.modeling.wrappers.draws import Draws, seed_draws
from meddlr_greedy.modeling.wrappers.inside import greedy_inside
from meddlr_greedy.modeling.wrappers.pictures import draw_pictures
from meddlr_greedy.ops.devices import to_device

__all__ = ["StepOnBatch", "StepResult", "TrainingStep"]

_Step = TypeVar("_Step", bound="TrainingStep")

_INFINITY = float("inf")


class StepResult(NamedTuple):
    """What is logged of a step."""

    losses: Dict[str, float]  #: by name; "total_loss" is that of the whole network
    others: Dict[str, float]  #: metrics of the last image; errors of modules, see ``UnrolledProblem.errors``

    @classmethod
    def of(cls, values: Dict[str, float]) -> "StepResult":
        """Separates losses from other scalars as meddlr does, by the word "loss" in the name."""
        losses = {name: value for name, value in values.items() if "loss" in name}
        return cls(losses, {name: value for name, value in values.items() if name not in losses})

    @property
    def scalars(self) -> Dict[str, float]:
        """All of them, by name."""
        return {**self.others, **self.losses}


class TrainingStep:
    """The step of a network under an optimizer.

    The extension points are :meth:`parts`, :meth:`seed`, :meth:`hand_on`, :meth:`last_loss`, :meth:`read`,
    :meth:`check` and :meth:`average`, in the order in which they are called.

    Args:
        model: The network, in training mode.
        optimizer: meddlr's.
        loss_computer: Of the last image.
        run_seed: The seed of the run.

    Attributes:
        greedy: The greedy network, which may stand inside of a wrapper of meddlr; None where there is none.
        in_wrapper: Whether it stands inside of one.
    """

    draws: Draws  #: what a wrapper around a greedy network draws for a batch

    def __init__(self, model: torch.nn.Module, optimizer: Any, loss_computer: Any, run_seed: int = 0):
        self.model, self.optimizer, self.loss_computer = model, optimizer, loss_computer
        self.run_seed = run_seed
        self.greedy = greedy_inside(model)
        self.in_wrapper = self.greedy is not None and self.greedy is not model
        if self.in_wrapper:
            self.draws = Draws(loss_computer.use_consistency)
        _keep_fixed_step_sizes_with(model)

    @classmethod
    def from_config(cls: Type[_Step], cfg: CfgNode, **options: Any) -> _Step:
        """A step of its own, without a trainer, data and files.

        Raises:
            UserError: names the key that is wrong.
        """
        model = build_network_to_train(cfg).train()
        if cfg.MODEL.DEVICE != "cpu":  # where parameters are made; those without values cannot be moved
            model.to(cfg.MODEL.DEVICE)
        return cls(model, build_optimizer(cfg, model), build_loss_computer(cfg), max(cfg.SEED, 0), **options)

    def __call__(self, inputs: Dict[str, Any], iteration: int = 0) -> StepResult:
        """Trains on one mini-batch.

        Args:
            inputs: meddlr's batch, on any device; it is left as it is.
            iteration: The iteration of the run, from 0.

        Raises:
            NonFiniteLossError: A loss is NaN or infinite; nothing was updated.
        """
        assert self.model.training, "the model was left in evaluation mode"
        inputs = to_device(inputs, next(self.model.parameters()).device)
        # Before the forward, which makes gradients in a greedy network: those of the last step need no memory then.
        self.optimizer.zero_grad()
        values = self.read(self.gradients(inputs, iteration))
        self.check(StepResult.of(values), iteration)
        self.average(values)
        self.optimizer.step()
        if "loss" in values:
            values["total_loss"] = values["loss"]
        return StepResult.of(values)

    def gradients(self, inputs: Dict[str, Any], iteration: int) -> Dict[str, torch.Tensor]:
        """Gives the parameters their gradients, by forward and backward of a batch; returns the scalars to log."""
        outputs, scalars = self.forward(inputs, iteration)
        loss, computed = self.last_loss(inputs, outputs)
        scalars.update(computed)
        del outputs

        loss.backward()
        return scalars

    def observe(self, observer: Observer) -> Any:
        """A context inside which ``observer`` is told where the forward and backward of each module begin and end.

        Of a network that is not trained greedily, the whole step is the one module.
        """
        # Backpropagation through several parts of a batch has no modules to tell of.
        if self.greedy is None or self.in_wrapper and self.greedy.num_modules == 1:
            return _WholeStep(observer)
        return self.greedy.unrolled.observed(observer)

    def forward(self, inputs: Dict[str, Any], iteration: int) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """The outputs of the network, of a wrapper those of each part, and the scalars to log."""
        if self.in_wrapper:
            assert self.greedy is not None
            parts, losses = self.parts(inputs, iteration), self.loss_computer.local_losses
            outputs, scalars = self.greedy.forward_parts(parts, losses, self.seed(iteration))
            self.hand_on(outputs)
            if self.greedy.unrolled.holds_last:
                draw_pictures(self.model, outputs)
            return outputs, scalars
        if self.greedy is not None:
            outputs = self.greedy(inputs, seed=self.seed(iteration), takes_last_loss=True)
        else:
            outputs = self.model(inputs)
        self.hand_on(outputs)
        outputs.update({key: inputs[key] for key in ("mean", "std", "norm") if key in inputs})
        # As meddlr's trainer does, of the outputs those with "loss" in their name are logged.
        words = ("loss", "inversion_error", "cg_residual")
        return outputs, {key: value for key, value in outputs.items() if any(word in key for word in words)}

    @contextmanager
    def drawing(self, iteration: int) -> Iterator[None]:
        """Inside the block, all that a wrapper draws is a function of the run's seed and the iteration."""
        seed = example_seed(self.run_seed, iteration, "draws of wrappers")
        with isolated_generators(seed), torch.no_grad():
            seed_draws(self.model, seed, next(self.model.parameters()).device)
            yield

    # ---- extension points

    def parts(self, inputs: Dict[str, Any], iteration: int) -> Dict[str, Part]:
        """What a wrapper makes of a batch."""
        with self.drawing(iteration):
            return self.draws.parts(self.model, inputs)

    def seed(self, iteration: int) -> Optional[int]:
        """What random layers draw (dropout) is a function of the run's seed, the iteration and the unrolled step."""
        return example_seed(self.run_seed, iteration, "random layers")

    def hand_on(self, outputs: Dict[str, Any]) -> None:
        """Called between forward and backward; for a network that goes on in another process."""

    def last_loss(
        self, inputs: Dict[str, Any], outputs: Dict[str, Any]
    ) -> Tuple[torch.Tensor, Dict[str, torch.Tensor]]:
        """The loss of the last image, and the scalars to log of it."""
        computed = self.loss_computer(inputs, outputs)
        loss = computed["loss"]
        if self.greedy is not None:
            name = f"loss_module_{self.greedy.num_modules}"
            return loss, {name: outputs.get(name, loss), **computed}
        return loss, computed

    def read(self, scalars: Dict[str, torch.Tensor]) -> Dict[str, float]:
        """The values of all scalars, by one synchronization with the device."""
        values = torch.stack([value.detach().float().mean() for value in scalars.values()]).cpu().tolist()
        return dict(zip(scalars, values))

    def check(self, result: StepResult, iteration: int) -> None:
        """Refuses losses that are not finite, before the update.

        Raises:
            NonFiniteLossError: names the module.
        """
        for name, value in result.losses.items():
            if not -_INFINITY < value < _INFINITY:
                module = name.replace("loss_module_", "module ") if "module" in name else "the network"
                raise NonFiniteLossError(
                    f"iteration {iteration}: the loss of {module} is {value}; stopped before the update"
                )

    def average(self, values: Dict[str, float]) -> None:
        """Called before the update; for replicas, which average gradients and ``values``."""


class StepOnBatch(TrainingStep):
    """The step on one batch again and again, for measurements: what the losses are does not matter.

    Args:
        model: See :class:`TrainingStep`.
        optimizer: See there.
        loss_computer: See there.
        run_seed: See there.
        batch: meddlr's batch.
    """

    def __init__(
        self, model: torch.nn.Module, optimizer: Any, loss_computer: Any, run_seed: int, batch: Dict[str, Any]
    ):
        super().__init__(model, optimizer, loss_computer, run_seed)
        self.batch = batch

    def run(self) -> StepResult:
        """Trains on the batch once more."""
        return self(dict(self.batch))

    def check(self, result: StepResult, iteration: int) -> None:
        """Lets any loss pass: the values of a made-up batch do not matter."""


def _keep_fixed_step_sizes_with(model: torch.nn.Module) -> None:
    """Puts step sizes that are not trained beside the parameters.

    With ``MODEL.UNROLLED.FIX_STEP_SIZE`` meddlr keeps them as a list of tensors, which stays on the CPU when the
    network is moved: each unrolled step would copy its own, and wait for that.
    """
    network = inner_network(model)
    step_sizes = getattr(network, "step_sizes", None)
    if isinstance(step_sizes, list):
        network.step_sizes = to_device(step_sizes, next(model.parameters()).device)


class _WholeStep:
    """Observes a step as one module."""

    def __init__(self, observer: Observer):
        self._observer = observer

    def __enter__(self) -> None:
        self._observer(0, True)

    def __exit__(self, *exception: Any) -> None:
        self._observer(0, False)
