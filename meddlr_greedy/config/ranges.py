"""What the keys of meddlr allow that a training uses: one table, applied where a config is loaded.

meddlr itself checks the type of a value alone, so that a number that makes no sense is trained with. The keys of
``MISC.GREEDY`` have their rules in :mod:`meddlr_greedy.config.schema`.
"""

from typing import Any, Callable, Dict, Iterator, NamedTuple, Sequence, Tuple

from meddlr.config import CfgNode, get_cfg

from meddlr_greedy.config.rules import is_finite, is_finite_from_0, is_int, is_one_of
from meddlr_greedy.errors import UserError, shortened
from meddlr_greedy.zoo import is_zoo_name, local_file, zoo_names

__all__ = ["RANGES", "Range", "check_ranges"]

# Far above what trains; a number beyond it is a slip, and would end without memory.
_LARGEST_NETWORK, _LARGEST_COUNT = 10_000, 2**31 - 1


class Range(NamedTuple):
    """What a key allows."""

    allowed: str  #: for messages
    holds: Callable[[Any], bool]


def _integer(low: int, high: int = _LARGEST_COUNT, note: str = "") -> Range:
    upper = f" to {high}" if high < _LARGEST_COUNT else " on"
    return Range(f"an integer from {low}{upper}{note}", lambda value: is_int(value) and low <= value <= high)


def _number(allowed: str, holds: Callable[[float], bool]) -> Range:
    return Range(allowed, lambda value: is_finite(value) and holds(value))


def _list(allowed: str, holds: Callable[[Any], bool], lengths: Sequence[int] = ()) -> Range:
    return Range(
        allowed,
        lambda values: (
            isinstance(values, (list, tuple))
            and (not lengths or len(values) in lengths)
            and all(holds(value) for value in values)
        ),
    )


def _choice(*allowed: str) -> Range:
    return Range(" or ".join(repr(name) for name in allowed), is_one_of(*allowed))


def _is_odd(value: Any) -> bool:
    return is_int(value) and 1 <= value <= _LARGEST_NETWORK and value % 2 == 1


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and ("://" not in value or value.startswith(_LOCAL_PREFIXES))


def _is_weights(value: Any) -> bool:
    if isinstance(value, str) and is_zoo_name(value):
        return bool(local_file(value))  # refuses an unknown name, and says which is near
    return _is_path(value)


def _is_layer(value: Any) -> bool:
    """Whether meddlr can take a value for a layer of a block: a name, or a mapping with "name" and options."""
    return isinstance(value, str) or isinstance(value, dict) and isinstance(value.get("name"), str)


# meddlr's names of local folders. Its path manager downloads what has another prefix.
_LOCAL_PREFIXES = ("results://", "data://", "cache://")

_PATH = Range("the path of a local file or folder", _is_path)
_WEIGHTS = Range(f"the path of a local file, or one of {', '.join(zoo_names())}", _is_weights)

_LAYERS = _list("a list of texts, or of mappings with a text 'name'", _is_layer)
_NAMES = _list("a list of texts", lambda value: isinstance(value, str))
_ACCELERATIONS = _list("one finite number from 1 on, or two (a range)", lambda r: is_finite(r) and r >= 1, (1, 2))
_ANY_INTEGER = Range(f"an integer of at most {_LARGEST_COUNT}", lambda value: is_int(value) and value <= _LARGEST_COUNT)
_SEED = Range("an integer below 2**32 (negative: a random one)", lambda value: is_int(value) and value < 2**32)
_SIZE = _integer(1, _LARGEST_NETWORK)
_COUNT = _integer(0)
_POSITIVE = _integer(1)
_PERIOD = _integer(0, note=" (0: at the end only)")
_ANY_PERIOD = _integer(-_LARGEST_COUNT, note=" (below 0: in iterations, where TIME_SCALE is 'epoch', else in epochs)")
_FROM_0 = Range("a finite number from 0 on", is_finite_from_0)
_PROBABILITY = _number("a number from 0 to 1", lambda p: 0 <= p <= 1)
_DROPOUT = _number("a number from 0 to below 1", lambda p: 0 <= p < 1)
_KERNEL = _list("a list of one to three odd positive integers", _is_odd, (1, 2, 3))
_ACTIVATION = _choice("relu", "leaky_relu")
_NORM = _choice("none", "instance", "batch")
_PADDING = Range("'' (zeros) or 'circular'", is_one_of("", "circular"))

#: Key -> what it allows.
RANGES: Dict[str, Range] = {
    "VERSION": Range("1", lambda value: value == 1),
    "MODEL.WEIGHTS": _WEIGHTS,
    "MODEL.UNROLLED.NUM_UNROLLED_STEPS": _SIZE,
    "MODEL.UNROLLED.NUM_RESBLOCKS": _SIZE,
    "MODEL.UNROLLED.NUM_FEATURES": _SIZE,
    "MODEL.UNROLLED.DROPOUT": _DROPOUT,
    "MODEL.UNROLLED.PADDING": _PADDING,
    "MODEL.UNROLLED.STEP_SIZES": _list("a list of finite numbers, at least one", is_finite, range(1, 10_001)),
    "MODEL.UNROLLED.KERNEL_SIZE": _KERNEL,
    "MODEL.UNROLLED.NUM_EMAPS": _integer(1, 100),
    "MODEL.UNROLLED.CONV_BLOCK.ACTIVATION": _ACTIVATION,
    "MODEL.UNROLLED.CONV_BLOCK.NORM": _NORM,
    "MODEL.UNROLLED.CONV_BLOCK.ORDER": _LAYERS,
    "MODEL.UNROLLED.DC.MAX_ITER": _SIZE,
    "MODEL.UNROLLED.DC.EPS": _FROM_0,
    "MODEL.UNET.OUT_CHANNELS": _SIZE,
    "MODEL.UNET.IN_CHANNELS": _SIZE,
    "MODEL.UNET.CHANNELS": _SIZE,
    "MODEL.UNET.NUM_POOL_LAYERS": _integer(1, 20),
    "MODEL.UNET.DROPOUT": _DROPOUT,
    "MODEL.UNET.BLOCK_ORDER": _NAMES,
    "MODEL.RESNET.IN_CHANNELS": _SIZE,
    "MODEL.RESNET.CHANNELS": _SIZE,
    "MODEL.RESNET.NUM_BLOCKS": _SIZE,
    "MODEL.RESNET.KERNEL_SIZE": _KERNEL,
    "MODEL.RESNET.DROPOUT": _DROPOUT,
    "MODEL.RESNET.PADDING": _PADDING,
    "MODEL.RESNET.CONV_BLOCK.NUM_BLOCKS": _SIZE,
    "MODEL.RESNET.CONV_BLOCK.ACTIVATION": _ACTIVATION,
    "MODEL.RESNET.CONV_BLOCK.NORM": _NORM,
    "MODEL.RESNET.CONV_BLOCK.ORDER": _LAYERS,
    "MODEL.CONSISTENCY.AUG.NOISE.STD_DEV": _list("a list of finite numbers from 0 on", is_finite_from_0),
    "MODEL.CONSISTENCY.AUG.NOISE.MASK.RHO": _PROBABILITY,
    "MODEL.CONSISTENCY.AUG.MOTION.RANGE": _list("two finite numbers", is_finite, (2,)),
    "MODEL.CONSISTENCY.LOSS_WEIGHT": _FROM_0,
    "MODEL.CONSISTENCY.LATENT_LOSS_WEIGHT": _FROM_0,
    "DATASETS.TRAIN": _NAMES,
    "DATASETS.VAL": _NAMES,
    "DATASETS.TEST": _NAMES,
    "DATALOADER.NUM_WORKERS": _integer(0, 256),
    "DATALOADER.PREFETCH_FACTOR": _integer(0, 1000),
    "DATALOADER.SUBSAMPLE_TRAIN.NUM_TOTAL": _integer(-1, note=" (-1: all)"),
    "DATALOADER.SUBSAMPLE_TRAIN.NUM_UNDERSAMPLED": _integer(-1, note=" (-1: all)"),
    "DATALOADER.SUBSAMPLE_TRAIN.NUM_VAL": _integer(-1, note=" (-1: all)"),
    "DATALOADER.SUBSAMPLE_TRAIN.SEED": _SEED,
    "AUG_TRAIN.UNDERSAMPLE.ACCELERATIONS": _ACCELERATIONS,
    "AUG_TRAIN.UNDERSAMPLE.CALIBRATION_SIZE": _COUNT,
    "AUG_TRAIN.UNDERSAMPLE.CENTER_FRACTIONS": _list("a list of numbers from 0 to 1", _PROBABILITY.holds),
    "AUG_TRAIN.UNDERSAMPLE.MAX_ATTEMPTS": _POSITIVE,
    "AUG_TRAIN.NOISE_P": _PROBABILITY,
    "AUG_TRAIN.MOTION_P": _PROBABILITY,
    "AUG_TEST.UNDERSAMPLE.ACCELERATIONS": _ACCELERATIONS,
    "SOLVER.MAX_ITER": _integer(1, note=" (TIME_SCALE 'epoch' counts epochs)"),
    "SOLVER.BASE_LR": _FROM_0,
    "SOLVER.BIAS_LR_FACTOR": _FROM_0,
    "SOLVER.MOMENTUM": _number("a number from 0 to below 1", lambda m: 0 <= m < 1),
    "SOLVER.WEIGHT_DECAY": _FROM_0,
    "SOLVER.WEIGHT_DECAY_NORM": _FROM_0,
    "SOLVER.WEIGHT_DECAY_BIAS": _FROM_0,
    "SOLVER.GAMMA": _FROM_0,
    "SOLVER.STEPS": _list("a list of positive integers", _POSITIVE.holds),
    "SOLVER.WARMUP_FACTOR": _FROM_0,
    "SOLVER.WARMUP_ITERS": _COUNT,
    "SOLVER.WARMUP_METHOD": _choice("linear", "constant"),
    "SOLVER.GRAD_ACCUM_ITERS": _POSITIVE,
    "SOLVER.CHECKPOINT_PERIOD": _PERIOD,
    "SOLVER.TRAIN_BATCH_SIZE": _POSITIVE,
    "SOLVER.TEST_BATCH_SIZE": _POSITIVE,
    "TEST.EVAL_PERIOD": _PERIOD,
    "TEST.VAL_METRICS.RECON": _NAMES,
    "TEST.FLUSH_PERIOD": _ANY_INTEGER,
    "VIS_PERIOD": _ANY_PERIOD,
    "OUTPUT_DIR": _PATH,
    "SEED": _SEED,
    "TIME_SCALE": _choice("epoch", "iter"),
}


def check_ranges(cfg: CfgNode) -> None:
    """Refuses values that the keys of meddlr do not allow, and values of kinds that no key takes.

    Raises:
        UserError: names the key, what was found and what is allowed.
    """
    for key, value in _values(cfg):
        if value is None and (default := get_cfg().get_recursive(key, None)) is not None:
            raise UserError(f"{key}: found None, allowed is a value such as {shortened(default)}")
        if not _is_plain(value):
            raise UserError(
                f"{key}: found {shortened(value)}, allowed are texts, numbers, True, False, and lists and mappings"
            )
        if key in RANGES and not RANGES[key].holds(value):
            raise UserError(f"{key}: found {shortened(value)}, allowed is {RANGES[key].allowed}")


def _values(node: CfgNode, above: str = "") -> Iterator[Tuple[str, Any]]:
    """The keys of a config or of a section, with their full names, and the values."""
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _values(value, f"{above}{name}.")
        else:
            yield above + name, value


def _is_plain(value: Any) -> bool:
    """Whether a value is of the kinds that a dumped config holds."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(element) for element in value)
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(element) for name, element in value.items())
    if is_int(value):
        return abs(value) < 2**64
    return value is None or isinstance(value, (bool, float, str))
