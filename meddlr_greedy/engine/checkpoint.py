"""Checkpoints: written whole or not at all, read without running code, and the state that makes resuming exact."""

import logging
import os
import pickle
import random
import re
from typing import Any, Dict, Optional, Sequence, Tuple, cast

import numpy as np
import torch
from meddlr.checkpoint import Checkpointer
from meddlr.config import CfgNode
from meddlr.utils import env
from torch import nn

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError
from meddlr_greedy.files import written_atomically

__all__ = [
    "BEST_CHECKPOINT",
    "CONFIG_FILE",
    "GreedyCheckpointer",
    "RunState",
    "config_beside",
    "find_weights",
    "load_run_config",
    "plain_name",
]

#: The checkpoint with the best validation metric of a run.
BEST_CHECKPOINT = "model_best.pth"
#: The config of a run, beside its checkpoints.
CONFIG_FILE = "config.yaml"

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"model_\d{7}\.pth")


class GreedyCheckpointer(Checkpointer):
    """meddlr's checkpointer with atomic writes, safe reads, and one line for a file that does not fit.

    A checkpoint of the plain network loads into ``GreedyUnrolled`` and the other way round.
    """

    def save(self, name: str, tag: bool = True, **kwargs: Any) -> None:
        """Writes ``<name>.pth``; with ``tag`` it becomes the one to resume from."""
        if not self.save_dir:
            return
        data = {**self.state(), **kwargs}
        path = os.path.join(self.save_dir, f"{name}.pth")
        with written_atomically(path, durable=True) as partial:
            torch.save(data, partial)
        if tag:
            self.tag_last_checkpoint(os.path.basename(path))

    def state(self) -> Dict[str, Any]:
        """Returns what a checkpoint holds: the state of the model and of each part beside it, by name."""
        parts = {"model": self.model, **self.checkpointables}
        return {key: part.state_dict() for key, part in parts.items()}

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Makes a file of the folder the checkpoint to resume from."""
        with written_atomically(os.path.join(self.save_dir, "last_checkpoint"), durable=True) as partial:
            partial.write_text(last_filename_basename)

    def prune(self, keep: int) -> None:
        """Deletes all but the ``keep`` newest numbered checkpoints; 0 keeps all."""
        tagged = os.path.basename(self.get_checkpoint_file())
        numbered = sorted(name for name in os.listdir(self.save_dir) if _NUMBERED.fullmatch(name))
        for name in numbered[:-keep] if keep else []:
            if name != tagged:
                os.remove(os.path.join(self.save_dir, name))

    def load(self, path: str, checkpointables: Optional[list] = None) -> Dict[str, Any]:
        """Loads a checkpoint into the model and the checkpointables.

        Args:
            path: The file, or a URL that meddlr's path manager knows; empty loads nothing.
            checkpointables: Names of the parts to load beside the model; None loads all.

        Returns:
            Dict[str, Any]: What else the file holds.

        Raises:
            UserError: The file is missing or damaged, holds no weights, or does not fit the model.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise UserError(f"checkpoint {path}: no such file; set MODEL.WEIGHTS to a .pth file")
        return super().load(path, checkpointables)

    def _load_file(self, f: str) -> Dict[str, Any]:
        try:
            loaded = torch.load(f, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise UserError(f"checkpoint {f}: damaged, or not a file of tensors written by torch.save") from error
        loaded = loaded if isinstance(loaded, dict) and "model" in loaded else {"model": loaded}
        weights = loaded["model"]
        if not isinstance(weights, dict) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
            raise UserError(f"checkpoint {f}: holds no weights (a dictionary of tensors, or one under the key 'model')")
        return loaded

    def _load_model(self, checkpoint: Any) -> None:
        weights = {plain_name(key): value for key, value in checkpoint.pop("model").items()}
        shapes = {name: tuple(v.shape) for name, v in weights.items()}
        expected = {plain_name(key): shape for key, shape in self._shapes().items()}
        for name in sorted(expected.keys() | shapes.keys()):
            if expected.get(name) != shapes.get(name):
                raise UserError(
                    f"checkpoint: '{name}' has shape {shapes.get(name, 'none')}, the model of this config has"
                    f" {expected.get(name, 'none')}; use the config that the checkpoint was trained with"
                )
        self._load_weights(weights)

    def _shapes(self) -> Dict[str, Tuple[int, ...]]:
        """The shape of each tensor that a checkpoint for this model holds."""
        return {key: tuple(value.shape) for key, value in self.model.state_dict().items()}

    def _load_weights(self, weights: Dict[str, torch.Tensor]) -> None:
        """Loads weights by their names in the plain network."""
        self.model.load_state_dict({key: weights[plain_name(key)] for key in self.model.state_dict()})


def plain_name(key: str) -> str:
    """The parameter's name in the plain network: without the prefixes of wrappers."""
    while key.startswith(("module.", "model.")):
        key = key.split(".", 1)[1]
    return key


class RunState:
    """What a run needs beside model, optimizer and scheduler to continue bit for bit.

    The generators of torch, numpy and Python, the seed (which decides data order and sampling, see
    :mod:`meddlr_greedy.data.seeding`) and the number of threads (sums depend on it).
    """

    # A run continues with its own optimizer's state, and with its own schedule.
    _FIXED = ("OPTIMIZER", "GRAD_ACCUM_ITERS")
    _KEPT = ("BASE_LR", "LR_SCHEDULER_NAME", "MAX_ITER")

    def __init__(self, cfg: CfgNode):
        self.seed = cfg.SEED
        self.solver = {key: cfg.SOLVER[key] for key in self._FIXED + self._KEPT}
        self.lr_factors = list(cfg.MISC.GREEDY.LR_FACTORS)
        self._loaded: Dict[str, Any] = {}

    def state_dict(self) -> Dict[str, Any]:
        """Returns the state of the run as it is now, in types that torch loads without running code."""
        name, keys, *rest = cast(tuple, np.random.get_state())
        version, internal, gauss = random.getstate()
        return {
            "seed": self.seed,
            "solver": self.solver,
            "lr_factors": self.lr_factors,
            "threads": torch.get_num_threads(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy_rng": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
            "python_rng": [version, torch.tensor(internal), gauss],
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Compares a state with this run, and keeps it for :meth:`restore_generators`.

        Where the run continues, but with other learning rates or other last bits than its config says, it warns.

        Args:
            state: What :meth:`state_dict` gave.

        Raises:
            UserError: The seed, the optimizer or its accumulation are others, so that the run cannot be continued.
        """
        if state["seed"] != self.seed:
            raise UserError(
                f"SEED: found {self.seed}, but the checkpoint's run has {state['seed']}; resume with that seed"
            )
        for key, found in self.solver.items():
            before = state["solver"][key]
            if found != before and key in self._FIXED:
                raise UserError(
                    f"SOLVER.{key}: found {found}, but the checkpoint's run has {before}; resume with that, or start"
                    " anew from it with MODEL.WEIGHTS and another OUTPUT_DIR"
                )
            if found != before:
                logger.warning(
                    "SOLVER.%s: found %s, but the learning rate continues on the schedule of the checkpoint's run (%s)",
                    key,
                    found,
                    before,
                )
        if state.get("lr_factors", []) != self.lr_factors:
            logger.warning(
                "MISC.GREEDY.LR_FACTORS: found %s, but the learning rates continue as in the checkpoint's run (%s)",
                self.lr_factors,
                state.get("lr_factors", []),
            )
        if state["threads"] != torch.get_num_threads():
            logger.warning(
                "Resuming with %d threads, the checkpoint had %d: results can differ in the last bits"
                " (MISC.GREEDY.RUN.THREADS)",
                torch.get_num_threads(),
                state["threads"],
            )
        self._loaded = state

    def restore_generators(self) -> None:
        """Puts the generators where the loaded run left them.

        To be called right before the first iteration, after everything else that may draw from them.
        """
        state, self._loaded = self._loaded, {}
        if not state:
            return
        torch.set_rng_state(state["torch_rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            for device, generator in zip(range(torch.cuda.device_count()), state["cuda_rng"]):
                torch.cuda.set_rng_state(generator, device)
        name, keys, *rest = state["numpy_rng"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        version, internal, gauss = state["python_rng"]
        random.setstate((version, tuple(internal.tolist()), gauss))


def find_weights(output_dir: str, given: str = "", fallback: str = "", last: bool = False) -> str:
    """Chooses the weights to evaluate.

    Args:
        output_dir: Folder of the training run.
        given: Path that the user asked for; it is taken.
        fallback: Path from the config file (where training started), taken if the run left no checkpoint.
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
            "(python -m meddlr_greedy.train_net), or name the weights with --weights FILE"
        )
    if not env.get_path_manager().isfile(weights):
        raise UserError(f"MODEL.WEIGHTS: no file '{weights}'")
    return weights


def config_beside(weights: str) -> str:
    """The path of the ``config.yaml`` that a training wrote beside its weights; empty where there is none."""
    config_file = os.path.join(os.path.dirname(weights), CONFIG_FILE)
    return config_file if weights and os.path.isfile(config_file) else ""


def load_run_config(config_file: str, weights: str, opts: Sequence[str] = ()) -> CfgNode:
    """Loads the config of a trained network: the one that is given, else the one beside its weights.

    Of a config beside weights the folder is ``OUTPUT_DIR``, wherever it has been moved to.

    Args:
        config_file: Path of the config; empty: the one beside the weights.
        weights: Path of the weights, if they are given.
        opts: Overrides of the config.

    Returns:
        CfgNode: The frozen config.

    Raises:
        UserError: There is neither, or the config is wrong.
    """
    if config_file:
        return load_config(config_file, opts)
    if weights and not env.get_path_manager().isfile(weights):
        raise UserError(f"--weights: no file '{weights}'")
    beside = config_beside(weights)
    if not beside:
        found = f"no {CONFIG_FILE} beside '{weights}'" if weights else "missing"
        raise UserError(
            f"--config-file: {found}; give the config of the training run, or --weights FILE with the run's"
            f" {CONFIG_FILE} beside it"
        )
    if "OUTPUT_DIR" not in opts[::2]:
        opts = [*opts, "OUTPUT_DIR", os.path.dirname(os.path.abspath(weights))]
    # The file came with the weights and was not given: it may name no code to run.
    return load_config(beside, opts, may_import=False)
