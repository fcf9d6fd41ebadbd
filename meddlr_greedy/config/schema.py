"""The typed definition of ``MISC.GREEDY``: every key with its default, its meaning and what it allows."""

import ast
from dataclasses import dataclass, field, fields
from typing import Any, Callable, Dict, Mapping, Tuple, Union

from meddlr.config import CfgNode

from meddlr_greedy.errors import UserError, did_you_mean

__all__ = ["GreedyConfig"]


PREFIX = "MISC.GREEDY."


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_int(value) and value >= 0


def _is_positive(value: Any) -> bool:
    return _is_int(value) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_modules(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_is_positive(size) for size in value)
    return _is_positive(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(_is_name(name) for name in value)


def _is_factors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        _is_number(factor) and 0 < factor < float("inf") for factor in value
    )


def _is_partition(value: Any) -> bool:
    return value == "auto" or (isinstance(value, (list, tuple)) and _is_modules(value))


def _key(default: Any, allowed: str, check: Callable[[Any], bool]) -> Any:
    return field(default=default, metadata={"allowed": allowed, "check": check})


@dataclass(frozen=True)
class GreedyConfig:
    """``MISC.GREEDY``: every key with its default, what it means and what is allowed."""

    # The unrolled network to train greedily: any registered GeneralizedUnrolledCNN driven through step().
    META_ARCHITECTURE: str = _key("GeneralizedUnrolledCNN", "the name of a registered unrolled network", _is_name)
    # Modules to cut the unrolled steps into; 1 is end-to-end backpropagation. A list gives the steps of each.
    NUM_MODULES: Union[int, Tuple[int, ...]] = _key(
        1,
        "a positive integer, or a list of positive integers (the steps of each module)",
        _is_modules,
    )
    # "greedy" trains the modules, see above. "invertible" is end-to-end backpropagation that holds the activations of
    # one unrolled step, and runs the network backwards for the inputs of the others: with NUM_MODULES 1, one process,
    # and InvertibleCineUnrolledCNN or InvertibleCGCineUnrolledCNN.
    TRAINING: str = _key("greedy", "'greedy' or 'invertible'", lambda value: value in ("greedy", "invertible"))
    # Modules to run in evaluation (every module emits an image); 0 runs all.
    NUM_INFERENCE_MODULES: int = _key(0, "a non-negative integer (0: all modules)", _is_count)
    # Gradient checkpointing inside modules: backward runs the unrolled steps again, one by one, so that a module keeps
    # the images between its steps and what one step needs. The gradients are the same, bit for bit.
    CHECKPOINT: bool = _key(False, "True or False", lambda value: isinstance(value, bool))
    # Unrolled steps of the module before that the local loss of a module reaches, too (one process in a chain).
    OVERLAP: int = _key(0, "a non-negative integer (0: none)", _is_count)
    # Precision of the regularizer's layers, in training and evaluation; parameters and data consistency stay float32.
    AMP: str = _key("", "'' (float32) or 'bf16'", lambda value: value in ("", "bf16"))
    # Weights of the local losses, one for each module; () is 1 for all. Under Adam without weight decay they matter
    # where several losses reach one parameter: with OVERLAP, or where modules share weights.
    LOSS_WEIGHTS: Tuple[float, ...] = _key((), "a list of positive numbers (one for each module), or []", _is_factors)
    # Largest norm of the (weighted) gradient of each module, clipped on its own before the update (of the whole
    # gradient, where a network is not trained greedily); 0 clips nothing.
    CLIP_NORM: float = _key(
        0.0, "a non-negative number (0: off)", lambda value: _is_number(value) and 0 <= value < float("inf")
    )
    # Factors of the learning rate (SOLVER.BASE_LR and its schedule), one for each module; () is 1 for all.
    LR_FACTORS: Tuple[float, ...] = _key((), "a list of positive numbers (one for each module), or []", _is_factors)
    # Modules of each process of a chain, where several processes train one network; "auto" balances measured times.
    PARTITION: Union[str, Tuple[int, ...]] = _key(
        "auto", "'auto', or a list of positive integers (the modules of each process)", _is_partition
    )
    # Chains of processes that each train on their share of every batch; in one process without effect.
    REPLICAS: int = _key(1, "a positive integer", _is_positive)
    # Batches that may queue on each side of the way between two neighboring processes.
    BATCHES_IN_FLIGHT: int = _key(2, "a positive integer", _is_positive)
    # Trainer of meddlr_greedy.train_net, a name in TRAINER_REGISTRY; "auto" is GreedyTrainer, or ParallelGreedyTrainer
    # where several processes were started.
    TRAINER: str = _key("auto", "the name of a registered trainer", _is_name)
    # Extra hooks of the trainer, names in HOOK_REGISTRY.
    HOOKS: Tuple[str, ...] = _key(("DecoupledTraining",), "a list of names of registered hooks", _is_names)
    # Intra-op threads; 0 keeps torch's choice. Resuming is bit-exact at an equal number only.
    THREADS: int = _key(0, "a non-negative integer (0: torch's choice)", _is_count)
    # Newest checkpoints to keep, beside the best and the final one; 0 keeps all.
    KEEP_CHECKPOINTS: int = _key(3, "a non-negative integer (0: all)", _is_count)
    # Validation metric that decides which checkpoint is kept as model_best.pth, for example "val_psnr_scan"; "" is the
    # first of TEST.VAL_METRICS.RECON. Without DATASETS.VAL none is kept.
    BEST_METRIC: str = _key("", "the name of a validation metric", lambda value: isinstance(value, str))
    # Iterations between two lines of the console, metrics.json and TensorBoard.
    LOG_PERIOD: int = _key(20, "a positive integer", _is_positive)
    # CGCineUnrolledCNN and its subclasses: "unrolled" is the gradient of the conjugate gradient iterations, each of
    # which holds its images for backward. "implicit" is the gradient of the solution, by a second solve in backward: it
    # holds one image, but is exact only where both solves converge (MODEL.UNROLLED.DC.MAX_ITER and EPS).
    CG_BACKWARD: str = _key("unrolled", "'unrolled' or 'implicit'", lambda value: value in ("unrolled", "implicit"))
    # Cine: the part of every readout that is not sampled, at its beginning (asymmetric echo).
    PARTIAL_ECHO: float = _key(
        0.0, "a number from 0 to below 0.5", lambda value: _is_number(value) and 0 <= value < 0.5
    )
    # Cine, training only: points to keep along the readout, around a random center; 0 keeps all.
    READOUT_CROP: int = _key(0, "a non-negative integer (0: no crop)", _is_count)
    # Standard deviation of the center of READOUT_CROP, in pixels.
    READOUT_CROP_JITTER: float = _key(
        32.0, "a non-negative number of pixels", lambda value: _is_number(value) and 0 <= value < float("inf")
    )
    # Cine, training only: probability of a flip, for each of readout, phase encode and time.
    FLIP_PROBABILITY: float = _key(0.0, "a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
    # Cine, training without targets (SSDU): the part of the acquired lines, the central ones apart, that is held out in
    # each example for the loss, which is then in k-space (MODEL.RECON_LOSS.NAME); 0 trains with targets.
    LOSS_LINES: float = _key(0.0, "a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "GreedyConfig":
        """Checks keys and values.

        Raises:
            UserError: for an unknown key or a value that is not allowed.
        """
        known = {f.name: f for f in fields(cls)}
        # meddlr's habit: tuples are written (2, 3) in YAML, which is a string
        values = {key: _literal(value) for key, value in values.items()}
        for key, value in values.items():
            if key not in known:
                raise UserError(f"{PREFIX}{key}: unknown key, allowed are {', '.join(known)}{did_you_mean(key, known)}")
            metadata = known[key].metadata
            if not metadata["check"](value):
                raise UserError(f"{PREFIX}{key}: found {value!r}, allowed is {metadata['allowed']}")
        checked: Dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**checked)

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "GreedyConfig":
        """``MISC.GREEDY`` of a meddlr config, defaults where it is absent."""
        values = cfg.MISC.get("GREEDY", {})
        if not isinstance(values, Mapping):
            raise UserError(f"MISC.GREEDY: found {values!r}, allowed is a mapping of keys to values")
        return cls.from_mapping(values)


def _literal(value: Any) -> Any:
    """What is written as text, also inside a list: to YAML, 1e-3 is text."""
    if isinstance(value, list):
        return [_literal(element) for element in value]
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value
