"""The schema of ``MISC.GREEDY``: every key with its default, its meaning, what it allows and where it acts.

It is the one description of the keys. What reads configs, refuses combinations, plans memory or documents keys iterates
over it (:func:`schema_keys`), and keeps no list of its own.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Tuple, Type, TypeVar, Union

from meddlr.config import CfgNode

from meddlr_greedy.config.cine_section import CineConfig
from meddlr_greedy.config.rules import (
    KeyRule,
    is_bool,
    is_count,
    is_factors,
    is_finite_from_0,
    is_import_names,
    is_memory,
    is_modules,
    is_name,
    is_names,
    is_one_of,
    is_partition,
    is_positive,
    is_subset_of,
    is_text,
    is_tile,
    key,
    literal,
    section,
)
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
class ParallelConfig:
    """``MISC.GREEDY.PARALLEL``: how several processes train one network; in one process without effect."""

    PARTITION: Union[str, Tuple[int, ...]] = key(
        "auto",
        "Modules of each process of a chain. 'auto' balances measured times.",
        "'auto', or a list of positive integers (the modules of each process)",
        is_partition,
    )
    REPLICAS: int = key(
        1, "Chains of processes. Each trains on its share of every batch.", "a positive integer", is_positive
    )
    BATCHES_IN_FLIGHT: int = key(
        2,
        "Batches that may queue on each side of the way between two neighboring processes.",
        "a positive integer",
        is_positive,
    )


@dataclass(frozen=True)
class RunConfig:
    """``MISC.GREEDY.RUN``: what a run loads, writes and keeps."""

    IMPORTS: Tuple[str, ...] = key(
        (),
        """Packages to import before the config is checked, in every process: those that register networks,
        regularizers, losses, masks, hooks, trainers or readers of your own. Dotted names of importable modules.""",
        "a list of dotted names of modules",
        is_import_names,
    )
    TRAINER: str = key(
        "auto",
        """The trainer, a name in TRAINER_REGISTRY. 'auto' is GreedyTrainer, or ParallelGreedyTrainer where several
        processes were started.""",
        "the name of a registered trainer",
        is_name,
    )
    HOOKS: Tuple[str, ...] = key(
        ("ModuleMonitor",),
        "Extra hooks of the trainer, names in HOOK_REGISTRY.",
        "a list of names of registered hooks",
        is_names,
    )
    THREADS: int = key(
        0,
        "Intra-op threads. 0 keeps torch's choice. Resuming is bit-exact at an equal number only.",
        "a non-negative integer (0: torch's choice), at most 1024",
        lambda value: is_count(value) and value <= 1024,
    )
    TF32: bool = key(
        True,
        """Whether convolutions on an NVIDIA GPU (Ampere and newer) may round what they multiply to TF32 (10 bits), as
        torch lets them: faster, with relative errors of about 1e-3 in each. False computes in float32, as a CPU does.
        Matrix products and FFTs use float32 either way.""",
        "True or False",
        is_bool,
    )
    KEEP_CHECKPOINTS: int = key(
        3,
        "Newest checkpoint files to keep, beside the best and the final one. 0 keeps all.",
        "a non-negative integer (0: all)",
        is_count,
    )
    BEST_METRIC: str = key(
        "",
        """Validation metric that decides which checkpoint is kept as model_best.pth, for example 'val_psnr_scan'. ''
        is the first of TEST.VAL_METRICS.RECON. Without DATASETS.VAL none is kept.""",
        "the name of a validation metric",
        is_text,
    )
    LOG_PERIOD: int = key(
        20,
        "Iterations between two lines of the console, metrics.json and WRITERS.",
        "a positive integer",
        is_positive,
    )
    WRITERS: Tuple[str, ...] = key(
        ("tensorboard",),
        """Where curves are written beside metrics.json. 'wandb' (Weights & Biases) and 'mlflow' have to be installed.
        They write into OUTPUT_DIR and send nothing, unless WANDB_MODE or MLFLOW_TRACKING_URI in the environment says
        so.""",
        "a list of 'tensorboard', 'wandb', 'mlflow', each once",
        is_subset_of("tensorboard", "wandb", "mlflow"),
    )


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
    )
    TRAINING: str = key(
        "greedy",
        """'greedy' trains the modules. 'invertible' is end-to-end backpropagation that holds the activations of one
        unrolled step, and runs the network backwards for the inputs of the others: with NUM_MODULES 1, one process, and
        InvertibleCineUnrolledCNN or InvertibleCGCineUnrolledCNN.""",
        "'greedy' or 'invertible'",
        is_one_of("greedy", "invertible"),
        needs_greedy=True,
        needs_one_process=True,
    )
    NUM_INFERENCE_MODULES: int = key(
        0,
        "Modules to run in evaluation (every module emits an image). 0 runs all.",
        "a non-negative integer (0: all modules)",
        is_count,
        depends_on_modules=True,
    )
    CHECKPOINT: bool = key(
        False,
        """Activation checkpointing inside modules: backward runs the unrolled steps again, one by one, so that a module
        keeps the images between its steps and what one step needs. The gradients are the same, bit for bit where
        algorithms are deterministic.""",
        "True or False",
        is_bool,
        needs_greedy=True,
        suits_inversion=False,
    )
    OVERLAP: int = key(
        0,
        "Unrolled steps of the module before that the local loss of a module reaches, too.",
        "a non-negative integer (0: none)",
        is_count,
        needs_greedy=True,
        needs_whole_network=True,
        suits_inversion=False,
    )
    AMP: str = key(
        "",
        """Precision of the regularizer's layers, in training and evaluation. Parameters and data consistency stay
        float32.""",
        "'' (float32) or 'bf16'",
        is_one_of("", "bf16"),
        needs_greedy=True,
        suits_inversion=False,
    )
    TILE: Tuple[int, ...] = key(
        (0, 0),
        """Rows (readout) and columns (phase encode) of tiles on which the regularizer runs one after the other, in
        training and evaluation, with the image and the gradient of the whole. 0 is the whole axis.""",
        "a list of two non-negative integers (0: the whole axis)",
        is_tile,
        needs_greedy=True,
        suits_inversion=False,
    )
    DC_MEMORY: Union[str, int] = key(
        "auto",
        """Megabytes (10^6 bytes) of the coil images that data consistency makes at a time, in training and evaluation:
        of as many cardiac phases as fit, or of as many coils of one. 0 is no limit. 'auto' is 16 with TILE, else 0.""",
        "'auto', or a non-negative integer (MB; 0: no limit)",
        is_memory,
        needs_greedy=True,
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
        suits_inversion=False,
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
    CG_BACKWARD: str = key(
        "unrolled",
        """Networks that solve data consistency by conjugate gradients of this plugin: 'unrolled' is the gradient of the
        iterations, each of which holds its images for backward. 'implicit' is the gradient of the solution, by a second
        solve in backward: it holds one image, but is exact only where both solves converge (MODEL.UNROLLED.DC.MAX_ITER
        and EPS).""",
        "'unrolled' or 'implicit'",
        is_one_of("unrolled", "implicit"),
        needs_trait="chooses_cg_backward",
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
    PARALLEL: ParallelConfig = section(ParallelConfig)
    RUN: RunConfig = section(RunConfig)
    CINE: CineConfig = section(CineConfig)

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
    """Whether a config trains its network greedily: with the wrapper, whatever the number of modules."""
    return cfg.MODEL.META_ARCHITECTURE == "GreedyUnrolled"


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
