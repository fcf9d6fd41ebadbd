"""Checkpoints: written whole or not at all, read without running code."""

import os
import pickle
import re
from typing import Any, Dict, Optional, Tuple

import torch
from meddlr.checkpoint import Checkpointer

from meddlr_greedy.errors import UserError
from meddlr_greedy.files import writing, written_atomically

__all__ = ["BEST_CHECKPOINT", "GreedyCheckpointer", "plain_name"]

#: The checkpoint with the best validation metric of a run.
BEST_CHECKPOINT = "model_best.pth"

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
        with writing(path), written_atomically(path, durable=True) as partial:
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
