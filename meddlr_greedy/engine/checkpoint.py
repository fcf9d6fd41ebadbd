"""Checkpoints: written whole or not at all, read without running code."""

import logging
import os
import re
from typing import Any, Dict, List, Optional, Tuple

import torch
from meddlr.checkpoint import Checkpointer
from torch import nn

from meddlr_greedy.config.rules import is_count
from meddlr_greedy.engine.moving_averages import MovingAverages
from meddlr_greedy.engine.stored_state import check_fits, check_weights
from meddlr_greedy.errors import UserError, keep_cause, shortened
from meddlr_greedy.files import reading, writing, written_atomically
from meddlr_greedy.zoo import local_file

__all__ = ["BEST_CHECKPOINT", "LAST_CHECKPOINT", "GreedyCheckpointer", "OtherNetworkError", "plain_name"]

logger = logging.getLogger(__name__)

#: The checkpoint with the best validation metric of a run.
BEST_CHECKPOINT = "model_best.pth"

#: The file that names the checkpoint to resume from.
LAST_CHECKPOINT = "last_checkpoint"

_LONGEST_NAME = 255  # of a file

_NUMBERED = re.compile(r"model_\d{7}\.pth")


class OtherNetworkError(UserError):
    """Weights are of another network than that of the config."""


class GreedyCheckpointer(Checkpointer):
    """meddlr's checkpointer with atomic writes, safe reads, and one line for a file that does not fit.

    A checkpoint of the plain network loads into ``GreedyUnrolled`` and the other way round.

    Args:
        model: The network.
        save_dir: Folder of the run.
        moving_averages: Of its weights, where there are any. A checkpoint holds them under the key "ema".
        **checkpointables: What else a checkpoint holds.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        moving_averages: Optional[MovingAverages] = None,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.moving_averages = moving_averages

    def save(self, name: str, tag: bool = True, **kwargs: Any) -> None:
        """Writes ``<name>.pth``; with ``tag`` it becomes the one to resume from."""
        if not self.save_dir:
            return
        self._write(name, {**self.state(), **kwargs})
        if tag:
            self.tag_last_checkpoint(f"{name}.pth")

    def save_averages(self, name: str, **kwargs: Any) -> None:
        """Writes the moving averages as ``<name>.pth``, the weights of a network like any others."""
        if self.save_dir:
            self._write(name, {"model": self.state()["ema"]["model"], **kwargs})

    def _write(self, name: str, data: Dict[str, Any]) -> None:
        path = os.path.join(self.save_dir, f"{name}.pth")
        with writing(path), written_atomically(path, durable=True) as partial:
            torch.save(data, partial)

    def state(self) -> Dict[str, Any]:
        """Returns what a checkpoint holds: weights, each part beside them by its name, and the averages as "ema"."""
        state = {"model": self._weights(), **{key: part.state_dict() for key, part in self.checkpointables.items()}}
        averages = self.moving_averages
        if averages is not None:
            with averages.in_place():
                state["ema"] = {"updates": averages.updates, "model": self._weights()}
        return state

    def _weights(self) -> Dict[str, torch.Tensor]:
        """The weights of the network, or of the part of it that this process holds."""
        return self.model.state_dict()

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Makes a file of the folder the checkpoint to resume from."""
        with written_atomically(os.path.join(self.save_dir, LAST_CHECKPOINT), durable=True) as partial:
            partial.write_text(last_filename_basename)

    def prune(self, keep: int) -> None:
        """Deletes all but the ``keep`` newest numbered checkpoints; 0 keeps all."""
        tagged = os.path.basename(self.get_checkpoint_file())
        for name in self._numbered()[:-keep] if keep else []:
            if name != tagged:
                os.remove(os.path.join(self.save_dir, name))

    # ---- which checkpoint is the last

    def has_checkpoint(self) -> bool:
        """Whether there is one to resume from."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """The path of the checkpoint to resume from; empty where the run has none.

        A run that was killed between a checkpoint and its tag has the newest numbered one.

        Raises:
            UserError: ``last_checkpoint`` is there, and names no checkpoint of the folder.
        """
        tag = os.path.join(self.save_dir, LAST_CHECKPOINT)
        if not os.path.lexists(tag):
            return self._newest_without_tag()
        with reading(tag, "the name of a checkpoint"):
            if not os.path.isfile(tag):
                raise ValueError("not a regular file")
            with open(tag, "rb") as file:
                name = file.read(_LONGEST_NAME + 1).decode().strip()
            allowed = "allowed is the name of a checkpoint in this folder; write one into it"
            if name in ("", ".", "..") or os.path.basename(name) != name or len(name) > _LONGEST_NAME:
                raise UserError(f"{tag}: found {shortened(name)}, {allowed}")
            path = os.path.join(self.save_dir, name)
            if not os.path.isfile(path):
                raise UserError(f"{tag}: names {shortened(name)}, which is not there; {allowed}")
        return path

    def _newest_without_tag(self) -> str:
        final = os.path.join(self.save_dir, "model_final.pth")
        newest = [os.path.join(self.save_dir, name) for name in self._numbered()[-1:]]
        return next((path for path in (final, *newest) if os.path.lexists(path)), "")

    def _numbered(self) -> List[str]:
        """The names of the numbered checkpoints, the oldest first."""
        names = os.listdir(self.save_dir) if os.path.isdir(self.save_dir) else []
        return sorted(name for name in names if _NUMBERED.fullmatch(name))

    # ---- loading

    def load(self, path: str, checkpointables: Optional[list] = None) -> Dict[str, Any]:
        """Loads a checkpoint into the model and the checkpointables.

        Args:
            path: The file, or a name in the zoo; empty loads nothing.
            checkpointables: Names of the parts to load beside the model, which must be in the file; None loads all.

        Returns:
            Dict[str, Any]: What else the file holds.

        Raises:
            UserError: The file is missing or damaged, holds no weights, holds values that are not finite, or does not
                fit the model or the parts beside it.
        """
        if not path:
            logger.info("No checkpoint: the network starts with new weights")
            return {}
        where = f"checkpoint {path}"
        logger.info("Loading %s", path)
        path = local_file(path)
        if not os.path.isfile(path):
            raise UserError(f"{where}: no such file; set MODEL.WEIGHTS to a .pth file")
        with reading(where, "a checkpoint of a training"):
            checkpoint = self._load_file(path)
            wanted = list(self.checkpointables) if checkpointables is None else checkpointables
            missing = [key for key in wanted if key not in checkpoint]
            if missing:
                raise UserError(
                    f"{where}: holds no {', '.join(missing)}, without which a run cannot be continued; start anew from"
                    " it with MODEL.WEIGHTS and another OUTPUT_DIR"
                )
            self._load_model(checkpoint, where)
            for key in wanted:
                part, state = self.checkpointables[key], self._own_part(key, checkpoint.pop(key))
                check_fits(where, key, state, part)
                part.load_state_dict(state)
            averages = checkpoint.pop("ema", None)
            self._load_averages(averages if checkpointables is None else None, where)
        return checkpoint

    def _load_file(self, f: str) -> Dict[str, Any]:
        try:
            loaded = torch.load(f, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (torch fails in many ways on a file that is none of its own)
            line = f"checkpoint {f}: damaged, or not a file of tensors written by torch.save"
            keep_cause(line, error)
            raise UserError(line) from error
        loaded = loaded if isinstance(loaded, dict) and "model" in loaded else {"model": loaded}
        weights = loaded["model"]
        if not isinstance(weights, dict) or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
        ):
            raise UserError(f"checkpoint {f}: holds no weights (a dictionary of tensors, or one under the key 'model')")
        return loaded

    def _load_averages(self, state: Optional[Dict[str, Any]], where: str) -> None:
        """Continues the averages of a checkpoint; without them they begin with the weights that were loaded."""
        averages = self.moving_averages
        if averages is None:
            return
        if state is None:
            logger.info("Moving averages (MISC.GREEDY.EMA) begin with the weights that were loaded")
            averages.begin()
            return
        if not is_count(state["updates"]):
            raise UserError(f"{where}: ema: updates is {shortened(state['updates'])}, allowed is an integer from 0")
        with averages.in_place():
            self._load_model({"model": state["model"]}, f"{where}: ema")
        averages.updates = state["updates"]

    def _own_part(self, key: str, state: Any) -> Any:  # noqa: ARG002 (an extension point)
        """Of the state of a part beside the model, what belongs to this process."""
        return state

    def _load_model(self, checkpoint: Any, where: str = "checkpoint") -> None:
        weights = {plain_name(key): value for key, value in checkpoint.pop("model").items()}
        shapes = {name: tuple(v.shape) for name, v in weights.items()}
        expected = {plain_name(key): shape for key, shape in self._shapes().items()}
        for name in sorted(expected.keys() | shapes.keys()):
            if expected.get(name) != shapes.get(name):
                raise OtherNetworkError(
                    f"{where}: '{name}' has shape {shapes.get(name, 'none')}, the model of this config has"
                    f" {expected.get(name, 'none')}; use the config that the checkpoint was trained with"
                )
        own = {plain_name(key): value for key, value in self.model.state_dict().items()}
        check_weights(where, {name: value for name, value in weights.items() if name in own}, own)
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
