"""What the update of a module can have of its own: a bound on the norm of its gradient, a learning rate."""

from collections import Counter
from typing import Any, Dict, List, Sequence

from meddlr.engine.hooks import LRScheduler
from torch import nn

from meddlr_greedy.errors import UserError
from meddlr_greedy.modeling.wrappers.inside import greedy_inside

__all__ = ["LearningRates", "clip_gradients", "scale_learning_rates"]


def clip_gradients(optimizer: Any, model: nn.Module, max_norm: float) -> None:
    """From now on every update clips the norm of each module's gradient to ``max_norm``, each on its own.

    Of a network that is not trained greedily, the norm of the whole gradient. With accumulation, the gradient is that
    of the whole window; with replicas, their mean.

    Args:
        optimizer: One of torch's, or one that accumulates for it (and holds it as ``optimizer``).
        model: The network.
        max_norm: Largest norm.

    Raises:
        UserError: where modules share weights.
    """
    modules = _parameters_of_modules(model, "CLIP_NORM", max_norm)

    def clip(*_: Any) -> None:
        for parameters in modules:
            nn.utils.clip_grad_norm_(parameters, max_norm)

    getattr(optimizer, "optimizer", optimizer).register_step_pre_hook(clip)


def scale_learning_rates(optimizer: Any, model: nn.Module, factors: Sequence[float]) -> None:
    """Multiplies the learning rate of each module; before a scheduler is built, which starts from these.

    Args:
        optimizer: meddlr's, with a group for each parameter.
        model: The network; of one that is spread over processes, the own modules.
        factors: One for each module of the whole network.

    Raises:
        UserError: for another number of factors, and where modules share weights.
    """
    modules = _parameters_of_modules(model, "LR_FACTORS", list(factors))
    greedy = greedy_inside(model)
    assert greedy is not None, "refused with the config"
    greedy.unrolled.check_one_for_each("LR_FACTORS", factors)
    factor_of = {id(p): factors[k] for k, parameters in zip(greedy.unrolled.own, modules) for p in parameters}
    for group in optimizer.param_groups:
        (parameter,) = group["params"]
        group["lr"] *= factor_of[id(parameter)]


class LearningRates(LRScheduler):
    """meddlr's hook where each module has a learning rate: logs ``module_<k>/lr``, and the last one as ``lr``."""

    def __init__(self, optimizer: Any, scheduler: Any, model: nn.Module):
        super().__init__(optimizer, scheduler)
        greedy = greedy_inside(model)
        assert greedy is not None, "refused with the config"
        position = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self._groups: Dict[int, int] = {}  # of each module, one with its most common rate
        for k, parameters in zip(greedy.unrolled.own, greedy.unrolled.own_parameters()):
            rates = {position[id(p)]: optimizer.param_groups[position[id(p)]]["lr"] for p in parameters}
            if rates:
                common = Counter(rates.values()).most_common(1)[0][0]
                self._groups[k] = next(i for i, rate in rates.items() if rate == common)
        self._best_param_group_id = self._groups[max(self._groups)]

    def after_step(self) -> None:
        """Logs the rates that this iteration was trained with, then takes the schedule's next."""
        for k, i in self._groups.items():
            rate = self._optimizer.param_groups[i]["lr"]
            self.trainer.storage.put_scalar(f"module_{k + 1}/lr", rate, smoothing_hint=False)
        super().after_step()


def _parameters_of_modules(model: nn.Module, key: str, value: Any) -> List[List[nn.Parameter]]:
    """The parameters of each module, each in one module alone; of any other network, all in one."""
    greedy = greedy_inside(model)
    if greedy is None:
        return [[p for p in model.parameters() if p.requires_grad]]
    modules = greedy.unrolled.own_parameters()
    owners = Counter(id(p) for parameters in modules for p in parameters)
    for name, p in greedy.model.named_parameters():
        if owners[id(p)] > 1:
            raise UserError(
                f"MISC.GREEDY.{key}: found {value}, but modules share '{name}', which has one gradient and one update;"
                " allowed are weights of its own for each module (MODEL.UNROLLED.SHARE_WEIGHTS False), or"
                " MISC.GREEDY.NUM_MODULES 1"
            )
    return modules
