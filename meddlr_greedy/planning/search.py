"""Plans of other configs of the same network, and the largest that fits."""

import itertools
import math
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from meddlr.config import CfgNode

from meddlr_greedy.config.schema import is_greedy, schema_keys
from meddlr_greedy.config.wrappers import GREEDY_NETWORK
from meddlr_greedy.modeling.contract import inner_class, traits_of
from meddlr_greedy.modeling.greedy.modules import partition_steps
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.step_memory import StepMemory, plan_step

__all__ = [
    "FEATURES",
    "Growth",
    "IMAGE",
    "Largest",
    "Method",
    "STEPS",
    "alternatives",
    "growth_of",
    "image_of",
    "largest",
    "modules_of",
    "with_method",
    "with_value",
]


FEATURES = "MODEL.UNROLLED.NUM_FEATURES"
STEPS = "MODEL.UNROLLED.NUM_UNROLLED_STEPS"
IMAGE = "image"

# The largest values that are tried; of the image, rows in units of this many.
_BOUNDS = {FEATURES: 2048, STEPS: 32, IMAGE: 128}
_ROWS = 16

# Rows of the tiles that are tried; more rows than half of the image are none.
_TILES = (96, 48, 24)

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


class Method(NamedTuple):
    """A way to train a network; one module and nothing else is backpropagation."""

    modules: int
    checkpoint: str = ""  #: as MISC.GREEDY.CHECKPOINT
    saved: str = ""  #: as MISC.GREEDY.SAVED
    tile: int = 0  #: rows of a tile, as wide as the image; 0 is the whole image
    training: str = "greedy"  #: as MISC.GREEDY.TRAINING

    @property
    def suits_every_network(self) -> bool:
        """Whether every network can be trained like that."""
        return self == Method(self.modules)

    @property
    def keys(self) -> str:
        """What is set besides the number of modules, as keys of MISC.GREEDY."""
        parts = {
            "CHECKPOINT": self.checkpoint,
            "SAVED": self.saved,
            "TILE": f"[{self.tile}, 0]" if self.tile else "",
            "TRAINING": "" if self.training == "greedy" else self.training,
        }
        return ", ".join(f"{key} {value}" for key, value in parts.items() if value)

    @property
    def gives_up_digits(self) -> bool:
        """Whether its gradient is another one than that of backpropagation through the same modules."""
        return bool(self.saved)


def with_method(cfg: CfgNode, method: Method) -> CfgNode:
    """The config whose network is trained in another way."""
    new = cfg.clone().defrost()
    if not is_greedy(new):
        new.MISC.GREEDY.META_ARCHITECTURE = new.MODEL.META_ARCHITECTURE
        new.MODEL.META_ARCHITECTURE = GREEDY_NETWORK
    new.MISC.GREEDY.NUM_MODULES = method.modules
    _forget_modules(new)
    new.MISC.GREEDY.CHECKPOINT, new.MISC.GREEDY.SAVED = method.checkpoint, method.saved
    new.MISC.GREEDY.TILE = (method.tile, 0)
    new.MISC.GREEDY.TRAINING = method.training
    return new.freeze()


def alternatives(cfg: CfgNode, rows: int) -> Dict[Method, CfgNode]:
    """Ways to train the network of a config: 1, 2, 4, ... and N modules of its N unrolled steps.

    With checkpoints where a module has several steps, and run backwards there where the network can be; of the fewest
    and the most modules also with checkpoints of blocks, activations of 8 bits, and tiles. Without what
    ``MISC.GREEDY.OVERLAP`` is too long for.

    Args:
        cfg: The config.
        rows: H, of the image in training.
    """
    steps, overlap = cfg.get_recursive(STEPS), cfg.MISC.GREEDY.OVERLAP
    counts = {steps, *itertools.takewhile(lambda k: k < steps, (2**i for i in itertools.count()))}
    counts = {k for k in counts if k == 1 or min(map(len, partition_steps(steps, k)[:-1])) >= overlap}
    methods = [method for k in sorted(counts) for method in _with_modules(k, steps, k in (1, max(counts)), rows)]
    is_invertible = traits_of(inner_class(cfg)).invertible
    return {m: with_method(cfg, m) for m in methods if m.training == "greedy" or is_invertible}


def _with_modules(modules: int, steps: int, is_end: bool, rows: int) -> Iterator[Method]:
    yield Method(modules)
    if modules < steps or steps == 1:
        yield Method(modules, checkpoint="step")
    if modules < steps:
        yield Method(modules, training="invertible")
    if is_end:
        yield Method(modules, checkpoint="block")
        yield Method(modules, saved="int8")
        for tile in _TILES:
            if 2 * tile <= rows:
                yield Method(modules, tile=tile)


def modules_of(cfg: CfgNode) -> Any:
    """NUM_MODULES of a greedy config, 1 of another."""
    return cfg.MISC.GREEDY.NUM_MODULES if is_greedy(cfg) else 1


class Growth(NamedTuple):
    """What grows until it does not fit."""

    start: int  #: the value to begin with
    bound: int  #: the largest value to try
    plan: Callable[[int], StepMemory]  #: of a value
    in_lines: bool = False  #: whether the memory of each moment of a step is a line in the value


def growth_of(cfg: CfgNode, example: Example, key: str) -> Growth:
    """What is known of a config when one thing of it grows, and everything else is kept.

    Args:
        cfg: The config.
        example: A training example.
        key: :data:`FEATURES`, :data:`STEPS` (in modules of the same size) or :data:`IMAGE`, see :func:`image_of`.
    """
    bound = _BOUNDS[key]
    if key == IMAGE:
        start = max(example.tensors["kspace"][0][0] // _ROWS, 1)
        return Growth(start, bound, lambda n: plan_step(cfg, example.resized(*image_of(example, n))))
    return Growth(
        cfg.get_recursive(key), bound, lambda n: plan_step(with_value(cfg, key, n), example), in_lines=key == STEPS
    )


def image_of(example: Example, value: int) -> Tuple[int, int]:
    """H and W of an image of ``16 value`` rows, of the proportions of the example's."""
    height, width = example.tensors["kspace"][0][:2]
    return _ROWS * value, max(round(_ROWS * value * width / height), 1)


class Largest(NamedTuple):
    """The largest value whose training step fits; 0 if none does."""

    value: int
    memory: Optional[StepMemory]
    is_bound: bool  #: the largest that was tried: more might fit


def largest(growth: Growth, budget: int) -> Largest:
    """The largest value with which training and evaluation stay within a budget, in bytes, and what its step needs."""
    plans: Dict[int, StepMemory] = {}
    low, high = (
        0,
        growth.bound + 1,
    )  # the largest that is known to fit, the smallest that does not or is not to be tried
    value = min(growth.start, growth.bound)
    while high - low > 1:
        plans[value] = growth.plan(value)
        low, high = (max(low, value), high) if plans[value].fits(budget) else (low, min(high, value))
        if growth.in_lines and _is_last_to_fit(plans, budget, low):
            high = low + 1
        value = _next(plans, budget, low, high)
    return Largest(low, plans.get(low), is_bound=low == growth.bound)


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
