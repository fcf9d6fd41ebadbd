"""The schema of ``MISC.GREEDY``: every key with its default, its meaning, what it allows and where it acts.

It is the one description of the keys. What reads configs, refuses combinations, plans memory or documents keys iterates
over it (:func:`schema_keys`), and keeps no list of its own.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Tuple, Type, TypeVar, Union

from meddlr.config import CfgNode

from meddlr_greedy.config.rules import (
    KeyRule,
    is_bool,
    is_count,
    is_factors,
    is_finite_from_0,
    is_memory,
    is_modules,
    is_name,
    is_one_of,
    is_positive,
    is_tile,
    key,
    literal,
    section,
)
from meddlr_greedy.config.sections import CineConfig, ParallelConfig, RunConfig
from meddlr_greedy.config.wrappers import GREEDY_NETWORK, name_inside
from meddlr_greedy.errors import UserError, did_you_mean, shortened

__all__ = [
    "PREFIX",
    "CineConfig",
    "GreedyConfig",
    "Key",
    "ParallelConfig",
    "RunConfig",
    "changed_keys",
    "is_greedy",
    "schema_keys",
    "value_of",
]

#: What the names of all keys begin with.
PREFIX = "MISC.GREEDY."

_Section = TypeVar("_Section")


@dataclass(frozen=True)
class GreedyConfig:
    """``MISC.GREEDY``: the method at the top, then its sections."""

    META_ARCHITECTURE: str = key(
        "GeneralizedUnrolledCNN",
        "The unrolled network to train (docs/networks.md), also one of your own (docs/extending.md, A network).",
        "the name of a registered unrolled network",
        is_name,
    )
    NUM_MODULES: Union[int, Tuple[int, ...]] = key(
        1,
        "Modules to cut the unrolled steps into. 1 is end-to-end backpropagation. A list gives the steps of each.",
        "a positive integer, or a list of positive integers (the steps of each module)",
        is_modules,
        methods=(4,),
    )
    TRAINING: str = key(
        "greedy",
        """'invertible' holds the activations of one unrolled step of a module, and runs the module backwards for the
        inputs of the others. For InvertibleCineUnrolledCNN and InvertibleCGCineUnrolledCNN.""",
        "'greedy' or 'invertible'",
        is_one_of("greedy", "invertible"),
        needs_greedy=True,
        methods=("invertible",),
    )
    NUM_INFERENCE_MODULES: int = key(
        0,
        "Modules to run in evaluation (every module emits an image). 0 runs all.",
        "a non-negative integer (0: all modules)",
        is_count,
        depends_on_modules=True,
    )
    CHECKPOINT: Union[bool, str] = key(
        "",
        """Activation checkpointing inside modules: backward computes again what it needs. 'step' (or True): unrolled
        steps, one by one, so that a module keeps the images between its steps and what one step needs. 'block': in a
        step the residual blocks, too, one by one. The gradients are the same, bit for bit where algorithms are
        deterministic.""",
        "'' (nothing), 'step' or 'block'; True is 'step', False is ''",
        lambda value: is_bool(value) or is_one_of("", "step", "block")(value),
        needs_greedy=True,
        not_with=("TRAINING",),
        methods=("step", "block"),
    )
    SAVED: str = key(
        "",
        """How the activations of the regularizer are held for backward. 'int8': as integers of 8 bits, in blocks of 256
        with a scale. The image is the same; the gradient is that of rounded activations.""",
        "'' (as they are) or 'int8'",
        is_one_of("", "int8"),
        needs_greedy=True,
        not_with=("CHECKPOINT",),
        methods=("int8",),
    )
    OVERLAP: int = key(
        0,
        "Unrolled steps of the module before that the local loss of a module reaches, too.",
        "a non-negative integer (0: none)",
        is_count,
        needs_greedy=True,
        needs_whole_network=True,
        methods=(1,),
    )
    AMP: str = key(
        "",
        """Precision of the regularizer's layers, in training and evaluation. Parameters and data consistency stay
        float32.""",
        "'' (float32) or 'bf16'",
        is_one_of("", "bf16"),
        needs_greedy=True,
        not_with=("TRAINING",),
        methods=("bf16",),
    )
    TILE: Tuple[int, ...] = key(
        (0, 0),
        """Rows (readout) and columns (phase encode) of tiles on which the regularizer runs one after the other, in
        training and evaluation, with the image and the gradient of the whole. 0 is the whole axis.""",
        "a list of two non-negative integers (0: the whole axis)",
        is_tile,
        needs_greedy=True,
        not_with=("TRAINING",),
        methods=((8, 0),),
    )
    DC_MEMORY: Union[str, int] = key(
        "auto",
        """Megabytes (10^6 bytes) of the coil images that data consistency makes at a time, in training and evaluation:
        of as many cardiac phases as fit, or of as many coils of one. 0 is no limit. 'auto' is 16 with TILE, else 0. On
        a CPU it never makes more than a few phases, which is faster.""",
        "'auto', or a non-negative integer (MB; 0: no limit)",
        is_memory,
        needs_greedy=True,
        methods=(1,),
    )
    LOSS_WEIGHTS: Tuple[float, ...] = key(
        (),
        """Weights of the local losses, one for each module. () is 1 for all. Under Adam without weight decay they
        matter where several losses reach one parameter: with OVERLAP, or where modules share weights.""",
        "a list of positive numbers (one for each module), or []",
        is_factors,
        one_per_module=True,
        depends_on_modules=True,
        needs_greedy=True,
    )
    CLIP_NORM: float = key(
        0.0,
        """Largest norm of the (weighted) gradient of each module, clipped on its own before the update (of the whole
        gradient, where a network is not trained greedily). 0 clips nothing.""",
        "a non-negative number (0: off)",
        is_finite_from_0,
        depends_on_modules=True,
        acts_in_trainer=True,
    )
    LR_FACTORS: Tuple[float, ...] = key(
        (),
        "Factors of the learning rate (SOLVER.BASE_LR and its schedule), one for each module. () is 1 for all.",
        "a list of positive numbers (one for each module), or []",
        is_factors,
        one_per_module=True,
        depends_on_modules=True,
        needs_greedy=True,
        acts_in_trainer=True,
    )
    EMA: float = key(
        0.0,
        """Decay of exponential moving averages of the weights. They are validated beside the weights, kept in
        checkpoints, and written as weights of their own (docs/evaluation.md, Averages of the weights). 0.999 is the
        mean over about the last 1000 updates. The first updates, n from 0, decay by (1 + n) / (10 + n). 0 is off.""",
        "a number from 0 (off) to below 1",
        lambda value: is_finite_from_0(value) and value < 1,
        acts_in_trainer=True,
    )
    CG_BACKWARD: str = key(
        "unrolled",
        """Networks that solve data consistency by conjugate gradients of this plugin: 'unrolled' is the gradient of the
        iterations, each of which holds its images for backward. 'implicit' is the gradient of the solution, by a second
        solve in backward: it holds one image, but is exact only where both solves converge (MODEL.UNROLLED.DC.MAX_ITER
        and EPS).""",
        "'unrolled' or 'implicit'",
        is_one_of("unrolled", "implicit"),
        needs_trait="chooses_cg_backward",
        methods=("implicit",),
    )
    PADDING: str = key(
        "zeros",
        """What the convolutions of a regularizer see beyond the edges of an image: zeros, or ('circular') the opposite
        edge, as in every image of sampled k-space. 'phase_encode' is circular along phase encode alone. Where the body
        reaches an edge, zeros make bright lines there. The weights have the same shapes, whatever the padding.""",
        "'zeros', 'circular' or 'phase_encode'",
        is_one_of("zeros", "circular", "phase_encode"),
        needs_regularizer="takes_padding",
    )
    CHANNEL_MULTIPLE: int = key(
        1,
        """The intermediate channels of each (2+1)D convolution are rounded up to a multiple of it. GPUs are faster at
        multiples of 8. It makes another network, with a few more weights: a checkpoint belongs to one value.""",
        "an integer from 1 to 10000",
        lambda value: is_positive(value) and value <= 10_000,
        needs_regularizer="takes_channel_multiple",
    )
    CONSISTENCY_TARGET: str = key(
        "network",
        """Inside of meddlr's wrappers with consistency (N2R, M2R, NM2R, VORTEX): what a module's image of the perturbed
        batch is compared with. The image that the whole network makes of the clean batch, or ('module') the one that
        the same module makes of it. A chain of processes needs 'module'.""",
        "'network' or 'module'",
        is_one_of("network", "module"),
        needs_greedy=True,
    )
    PARALLEL: ParallelConfig = section(ParallelConfig)
    RUN: RunConfig = section(RunConfig)
    CINE: CineConfig = section(CineConfig)

    def __post_init__(self):
        object.__setattr__(self, "CHECKPOINT", {False: "", True: "step"}.get(self.CHECKPOINT, self.CHECKPOINT))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "GreedyConfig":
        """Checks keys and values.

        Raises:
            UserError: for an unknown key or a value that is not allowed.
        """
        return _checked(cls, values, PREFIX)

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "GreedyConfig":
        """``MISC.GREEDY`` of a meddlr config, defaults where it is absent."""
        return cls.from_mapping(cfg.MISC.get("GREEDY", {}))

    def as_node(self) -> CfgNode:
        """All keys with their values, as a node of a meddlr config."""
        return CfgNode(asdict(self))


def is_greedy(cfg: CfgNode) -> bool:
    """Whether a config trains its network greedily, whatever the number of modules, also inside of a wrapper."""
    return name_inside(cfg) == GREEDY_NETWORK


class Key(NamedTuple):
    """A key of the schema."""

    name: str  #: below ``MISC.GREEDY``, for example "RUN.THREADS"
    default: Any
    rule: KeyRule

    @property
    def full_name(self) -> str:
        """The name in a config, for example "MISC.GREEDY.RUN.THREADS"."""
        return PREFIX + self.name


def schema_keys(kind: type = GreedyConfig, below: str = "") -> Iterator[Key]:
    """All keys of the schema, or of one of its sections, in the order of their definition.

    Args:
        kind: :class:`GreedyConfig`, or one of the sections in it.
        below: What the names begin with.
    """
    for f in fields(kind):  # type: ignore[arg-type]
        if "section" in f.metadata:
            yield from schema_keys(f.metadata["section"], f"{below}{f.name}.")
        else:
            yield Key(below + f.name, f.default, f.metadata["rule"])


def value_of(config: GreedyConfig, wanted: Key) -> Any:
    """The value that a config has for a key."""
    value: Any = config
    for name in wanted.name.split("."):
        value = getattr(value, name)
    return value


def changed_keys(config: GreedyConfig, kind: type = GreedyConfig, below: str = "") -> Iterator[Tuple[Key, Any]]:
    """The keys whose value differs from the default, with that value; ``kind`` and ``below`` as in `schema_keys`."""
    for known in schema_keys(kind, below):
        value = value_of(config, known)
        if value != known.default:
            yield known, value


def _checked(kind: Type[_Section], values: Any, prefix: str) -> _Section:
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix[:-1]}: found {shortened(values)}, allowed is a mapping of keys to values")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    checked: Dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{prefix}{name}: unknown key, allowed are {', '.join(known)}{_nearest(name)}")
        metadata = known[name].metadata
        if "section" in metadata:
            checked[name] = _checked(metadata["section"], value, f"{prefix}{name}.")
            continue
        value = literal(value)
        rule: KeyRule = metadata["rule"]
        if not rule.holds(value):
            raise UserError(f"{prefix}{name}: found {shortened(value)}, allowed is {rule.allowed}")
        checked[name] = tuple(value) if isinstance(value, list) else value
    return kind(**checked)


def _nearest(name: Any) -> str:
    """A hint at the key that was meant, also one of another section."""
    full_names: Dict[str, List[str]] = {}
    for known in schema_keys():
        full_names.setdefault(known.name.split(".")[-1], []).append(known.full_name)
    if name in full_names:
        return f"; did you mean '{full_names[name][0]}'?"
    near = did_you_mean(name, full_names)
    for last, (full_name, *_) in full_names.items():
        near = near.replace(f"'{last}'", f"'{full_name}'")
    return near
