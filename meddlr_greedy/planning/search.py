"""Plans of other configs of the same network, and the largest that fits."""

import itertools
import math
from typing import Any, Dict, NamedTuple, Optional, Tuple

from meddlr.config import CfgNode

from meddlr_greedy.config.schema import is_greedy, schema_keys
from meddlr_greedy.config.wrappers import GREEDY_NETWORK
from meddlr_greedy.modeling.greedy.modules import partition_steps
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import StepMemory, plan_step

__all__ = [
    "FEATURES",
    "Largest",
    "STEPS",
    "alternatives",
    "largest",
    "modules_of",
    "with_modules",
    "with_value",
]


FEATURES = "MODEL.UNROLLED.NUM_FEATURES"
STEPS = "MODEL.UNROLLED.NUM_UNROLLED_STEPS"


# A share of the growth by one step that rounding of sizes may take away.
_ROUNDED = 0.05


def _forget_modules(cfg: CfgNode) -> None:
    """Sets the keys that are for one number of modules to their defaults; none of them needs memory."""
    for key in schema_keys():
        if key.rule.depends_on_modules:
            cfg.set_recursive(key.full_name, key.default)


def with_value(cfg: CfgNode, key: str, value: int) -> CfgNode:
    """The config with another number of features, or of unrolled steps in modules of the same size.

    One module stays one: backpropagation.
    """
    new = cfg.clone().defrost()
    new.set_recursive(key, value)
    modules = modules_of(cfg)
    if key == STEPS:
        if modules != 1:
            size = max(len(steps) for steps in partition_steps(cfg.get_recursive(STEPS), modules))
            new.MISC.GREEDY.NUM_MODULES = -(-value // size)
            _forget_modules(new)
        new.MODEL.UNROLLED.STEP_SIZES = tuple(cfg.MODEL.UNROLLED.STEP_SIZES[:1])
    return new.freeze()


def with_modules(cfg: CfgNode, num_modules: int, checkpoint: bool) -> CfgNode:
    """The config with its network in ``num_modules`` modules; one module without checkpointing is backpropagation.

    An invertible network is trained without being run backwards.
    """
    new = cfg.clone().defrost()
    if not is_greedy(new):
        new.MISC.GREEDY.META_ARCHITECTURE = new.MODEL.META_ARCHITECTURE
        new.MODEL.META_ARCHITECTURE = GREEDY_NETWORK
    new.MISC.GREEDY.NUM_MODULES = num_modules
    _forget_modules(new)
    new.MISC.GREEDY.CHECKPOINT = checkpoint
    new.MISC.GREEDY.TRAINING = "greedy"
    return new.freeze()


def alternatives(cfg: CfgNode) -> Dict[Tuple[int, bool], CfgNode]:
    """(modules, checkpointed) -> config: 1, 2, 4, ... and N modules of the N unrolled steps, each both ways.

    Without those that ``MISC.GREEDY.OVERLAP`` is too long for.
    """
    steps, overlap = cfg.get_recursive(STEPS), cfg.MISC.GREEDY.OVERLAP
    counts = {steps, *itertools.takewhile(lambda k: k < steps, (2**i for i in itertools.count()))}
    counts = {k for k in counts if k == 1 or min(map(len, partition_steps(steps, k)[:-1])) >= overlap}
    return {(k, again): with_modules(cfg, k, again) for k in sorted(counts) for again in (False, True)}


def modules_of(cfg: CfgNode) -> Any:
    """NUM_MODULES of a greedy config, 1 of another."""
    return cfg.MISC.GREEDY.NUM_MODULES if is_greedy(cfg) else 1


class Largest(NamedTuple):
    """The largest value of a key whose training step fits; 0 if none does."""

    value: int
    memory: Optional[StepMemory]
    is_bound: bool  #: the largest that was tried: more might fit


def largest(cfg: CfgNode, example: Example, budget: int, key: str, bound: int) -> Largest:
    """The largest value of ``key`` with which training and evaluation stay within a budget.

    Args:
        cfg: The config; everything but ``key`` is kept (and the steps of a module, not the number of modules).
        example: A training example.
        budget: Bytes.
        key: :data:`FEATURES` or :data:`STEPS`.
        bound: The largest value to try.

    Returns:
        The value, and what its step needs.
    """
    plans: Dict[int, StepMemory] = {}
    low, high = 0, bound + 1  # the largest that is known to fit, the smallest that does not or is not to be tried
    value = min(cfg.get_recursive(key), bound)
    while high - low > 1:
        plans[value] = plan_step(with_value(cfg, key, value), example)
        low, high = (max(low, value), high) if plans[value].fits(budget) else (low, min(high, value))
        if key == STEPS and _is_last_to_fit(plans, budget, low):
            high = low + 1
        value = _next(plans, budget, low, high)
    return Largest(low, plans.get(low), is_bound=low == bound)


def _is_last_to_fit(plans: Dict[int, StepMemory], budget: int, low: int) -> bool:
    """Whether one step more than ``low``, the most that are known to fit, cannot fit; it need not be planned then.

    The memory of each moment of a training step is a line in the number of unrolled steps, and the peak is the largest
    of these lines. So it grows at least as fast beyond ``low`` as it did before.
    """
    before = [value for value in plans if value < low]
    if not before:
        return False
    needs, nearest = {value: plans[value].largest for value in (*before, low)}, max(before)
    growth = (needs[low] - needs[nearest]) / (low - nearest)
    return needs[low] + (1 - _ROUNDED) * growth > budget


def _next(plans: Dict[int, StepMemory], budget: int, low: int, high: int) -> int:
    """The value to plan next: beside the first one between ``low`` and ``high``.

    Memory is a line in the number of steps and a parabola in that of features, but for what is rounded and for other
    moments of a step that become its peak. So a few plans tell the answer; it is planned, and the value beside it.
    """
    if len(plans) == 1:
        (value,) = plans
        return value // 2 or 2
    if len(plans) > 6:  # plans are on no curve
        return (low + high) // 2
    needs = {value: memory.largest for value, memory in plans.items()}
    nearest = sorted(needs, key=lambda value: abs(needs[value] - budget))[:3]

    def need(value: int) -> float:
        """Lagrange's polynomial through what is known nearest to the budget."""
        terms = [needs[a] * math.prod((value - b) / (a - b) for b in nearest if b != a) for a in nearest]
        return math.fsum(terms)

    fitting, too_large = low, high
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        fitting, too_large = (middle, too_large) if need(middle) <= budget else (fitting, middle)
    return max(fitting, low + 1)
