"""Sections of the schema below ``MISC.GREEDY``: several processes, the run, and the data of cine."""

from dataclasses import dataclass
from typing import Tuple, Union

from meddlr_greedy.config.rules import (
    is_bool,
    is_count,
    is_finite_from_0,
    is_import_names,
    is_name,
    is_names,
    is_number,
    is_partition,
    is_positive,
    is_subset_of,
    is_text,
    key,
)

__all__ = ["CineConfig", "ParallelConfig", "RunConfig"]


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
        A convolution that is computed by matrix products rounds with the others. FFTs, and all other matrix products,
        use float32 either way.""",
        "True or False",
        is_bool,
    )
    CUDA_GRAPHS: bool = key(
        False,
        """Whether forward and backward of a step are recorded as a CUDA graph and launched as one: the same bits, and
        faster where kernels are shorter than their launches (small images, 2D, conjugate gradients). A graph is of one
        shape of batches, and holds the memory of its step for ever, beside that of evaluations and of iterations that
        run without it (RUN.LOG_PERIOD with ModuleMonitor, VIS_PERIOD). For one process with MODEL.DEVICE cuda, without
        dropout, gradient accumulation, TRAINING 'invertible' and meddlr's wrappers.""",
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
class CineConfig:
    """``MISC.GREEDY.CINE``: the data of cine (2D+t). For 2D data, any value but the default is refused."""

    PARTIAL_ECHO: float = key(
        0.0,
        "The part of every readout that is not sampled, at its beginning (asymmetric echo).",
        "a number from 0 to below 0.5",
        lambda value: is_number(value) and 0 <= value < 0.5,
    )
    READOUT_CROP: int = key(
        0,
        "Training only: points to keep along the readout, around a random center. 0 keeps all. Evaluation keeps all.",
        "a non-negative integer (0: no crop)",
        is_count,
    )
    READOUT_CROP_JITTER: float = key(
        32.0,
        "Standard deviation of the center of READOUT_CROP, in pixels.",
        "a non-negative number of pixels",
        is_finite_from_0,
    )
    FLIP_PROBABILITY: float = key(
        0.0,
        "Training only: probability of a flip, for each of readout, phase encode and time.",
        "a number from 0 to 1",
        lambda value: is_number(value) and 0 <= value <= 1,
    )
    LOSS_LINES: float = key(
        0.0,
        """Training without targets (SSDU): the part of the acquired lines, the central ones apart, that each example
        holds out for the loss. The loss is then in k-space (MODEL.RECON_LOSS.NAME). 0 trains with targets.""",
        "a number from 0 to below 1",
        lambda value: is_number(value) and 0 <= value < 1,
    )
