"""The files in the folder of a run: which weights are taken, and the config beside them."""

import os
from contextlib import suppress
from typing import List, Optional, Sequence, Tuple

from meddlr.config import CfgNode
from meddlr.modeling.meta_arch.build import build_model
from torch import nn

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.console import say
from meddlr_greedy.engine.build import seed_evaluation
from meddlr_greedy.engine.checkpoint import BEST_CHECKPOINT, GreedyCheckpointer, OtherNetworkError
from meddlr_greedy.errors import UserError, naming
from meddlr_greedy.zoo import is_zoo_name, local_file, seen, zoo_names

__all__ = ["CONFIG_FILE", "config_beside", "find_weights", "load_network", "load_run_config"]

#: The config of a run, beside its checkpoints.
CONFIG_FILE = "config.yaml"

_NAMED = 5  # checkpoints of a folder, at most: the last by name, and the best


def find_weights(output_dir: str, given: str = "", fallback: str = "", last: bool = False) -> str:
    """Chooses the weights to evaluate.

    Args:
        output_dir: Folder of the training run.
        given: Path, or name in the zoo, that the user asked for; it is taken.
        fallback: The same from the config file (where training started), taken if the run left no checkpoint.
        last: Take the last checkpoint even if there is a best one.

    Returns:
        str: ``given``, else the best checkpoint, else the last one, else ``fallback``.

    Raises:
        UserError: There are no such weights.
    """
    best = os.path.join(output_dir, BEST_CHECKPOINT)
    checkpointer = GreedyCheckpointer(nn.Module(), output_dir)  # only asked for names of files
    if given:
        weights = given
    elif os.path.isfile(best) and not last:
        weights = best
    elif checkpointer.has_checkpoint():
        weights = checkpointer.get_checkpoint_file()
    else:
        weights = fallback
    if not weights:
        raise UserError(
            f"OUTPUT_DIR: no {BEST_CHECKPOINT} and no last checkpoint in '{output_dir}'; train first "
            "(meddlr-greedy train), or name the weights with --weights FILE"
        )
    _check_is_there(weights, "MODEL.WEIGHTS")
    return weights


def _check_is_there(weights: str, option: str) -> None:
    """Refuses weights that are neither a file nor in the zoo; every other URL is neither."""
    if os.path.isfile(local_file(weights, option)):
        return
    if "://" in weights:
        hint = f"; nothing is downloaded, allowed are the path of a local file, {', '.join(zoo_names())}"
    else:
        folder = weights if os.path.isdir(weights) else os.path.dirname(weights) or os.curdir
        names: List[str] = []
        with suppress(OSError):  # there is no folder either, or it cannot be listed
            names = [name for name in os.listdir(folder) if name.endswith(".pth")]
        names.sort(key=lambda name: (name == BEST_CHECKPOINT, name))
        hint = f"; {folder} holds {', '.join(names[-_NAMED:])}" if names else ""
    raise UserError(f"{option}: no file '{weights}'{hint}")


def config_beside(weights: str) -> str:
    """The path of the ``config.yaml`` that a training wrote beside its weights; empty where there is none."""
    config_file = os.path.join(os.path.dirname(local_file(weights)), CONFIG_FILE)
    return config_file if weights and os.path.isfile(config_file) else ""


def load_run_config(config_file: str, weights: str, opts: Sequence[str] = ()) -> CfgNode:
    """Loads the config of a trained network: the one that is given, else the one beside its weights.

    Of a config beside weights the folder is ``OUTPUT_DIR``, wherever it has been moved to. That of the zoo belongs to
    the installed package: there it is the folder that the config names.

    Args:
        config_file: Path of the config; empty: the one beside the weights.
        weights: Path of the weights, or their name in the zoo, if they are given.
        opts: Overrides of the config.

    Returns:
        CfgNode: The frozen config.

    Raises:
        UserError: There is neither, or the config is wrong.
    """
    if config_file:
        return load_config(config_file, opts)
    if weights:
        _check_is_there(weights, "--weights")
    beside = config_beside(weights)
    if not beside:
        found = f"no {CONFIG_FILE} beside '{weights}'" if weights else "missing"
        raise UserError(
            f"--config-file: {found}; give the config of the training run, or --weights FILE with the run's"
            f" {CONFIG_FILE} beside it"
        )
    if "OUTPUT_DIR" not in opts[::2] and not is_zoo_name(weights):
        opts = [*opts, "OUTPUT_DIR", os.path.dirname(os.path.abspath(weights))]
    # The file came with the weights and was not given: it may name no code to run.
    return load_config(beside, opts, may_import=False)


def load_network(cfg: CfgNode, weights: str, config_file: str = "") -> Tuple[nn.Module, Optional[int]]:
    """Builds the network of a config with trained weights, on ``MODEL.DEVICE``; of one of the zoo it tells the limits.

    Args:
        cfg: The config.
        weights: Path of the checkpoint, or its name in the zoo.
        config_file: The config file that the user gave, if any.

    Returns:
        Tuple[nn.Module, Optional[int]]: The network, and the iteration that wrote the checkpoint, where it says so.

    Raises:
        UserError: The network cannot be built, or the weights do not fit it.
    """
    with naming("MODEL"):
        model = build_model(cfg).to(cfg.MODEL.DEVICE)
    seed_evaluation(model, cfg.SEED)
    try:
        loaded = GreedyCheckpointer(model, cfg.OUTPUT_DIR).load(weights)
    except OtherNetworkError as error:
        beside = config_beside(weights)
        hint = f", {beside}: with --weights and without --config-file it is taken" if config_file and beside else ""
        raise UserError(f"{error}{hint}") from error
    if is_zoo_name(weights):
        say(f"note: {weights}: {seen(weights)} Not for clinical use.")
    return model, loaded.get("iteration")
