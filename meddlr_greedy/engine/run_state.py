"""The state of a run beside its network, optimizer and scheduler, which makes resuming exact."""

import logging
import random
from typing import Any, Dict, cast

import numpy as np
import torch
from meddlr.config import CfgNode

from meddlr_greedy.engine.fingerprint import fingerprint
from meddlr_greedy.errors import UserError, shortened

__all__ = ["RunState"]

logger = logging.getLogger(__name__)


class RunState:
    """What a run needs beside model, optimizer and scheduler to continue bit for bit.

    The generators of torch, numpy and Python, the seed (which decides data order and sampling, see
    :mod:`meddlr_greedy.data.seeding`) and the number of threads (sums depend on it).
    """

    # A run continues with its own optimizer's state, and with its own schedule.
    _FIXED = ("OPTIMIZER", "GRAD_ACCUM_ITERS")
    _KEPT = (
        *("BASE_LR", "BIAS_LR_FACTOR", "LR_SCHEDULER_NAME", "MAX_ITER", "GAMMA", "STEPS"),
        *("WARMUP_FACTOR", "WARMUP_ITERS", "WARMUP_METHOD"),
        *("MOMENTUM", "WEIGHT_DECAY", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS"),
    )

    def __init__(self, cfg: CfgNode, dataset: Any):
        """Describes a run.

        Args:
            cfg: Its config.
            dataset: The training data, a :class:`~meddlr_greedy.data.dataset.CheckedSliceData`.
        """
        self.seed = cfg.SEED
        self.data = fingerprint(cfg, dataset)
        self.solver = {key: _storable(cfg.SOLVER[key]) for key in self._FIXED + self._KEPT}
        self.lr_factors = list(cfg.MISC.GREEDY.LR_FACTORS)
        self.ema = cfg.MISC.GREEDY.EMA
        self._loaded: Dict[str, Any] = {}

    def state_dict(self) -> Dict[str, Any]:
        """Returns the state of the run as it is now, in types that torch loads without running code."""
        name, keys, *rest = cast(tuple, np.random.get_state())
        version, internal, gauss = random.getstate()
        return {
            "seed": self.seed,
            "solver": self.solver,
            "lr_factors": self.lr_factors,
            "ema": self.ema,
            "data": self.data,
            "threads": torch.get_num_threads(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy_rng": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
            "python_rng": [version, torch.tensor(internal), gauss],
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Compares a state with this run, and keeps it for :meth:`restore_generators`.

        Where the run continues, but with other batches, another loss, other learning rates or other last bits than its
        config says, it warns, with both values. Checkpoints of earlier versions hold less, which is not compared.

        Args:
            state: What :meth:`state_dict` gave.

        Raises:
            UserError: The seed, the optimizer or its accumulation are others, so that the run cannot be continued.
            Exception: The state is damaged: of any kind, for the wrapper around what reads the checkpoint.
        """
        if state["seed"] != self.seed:
            raise UserError(
                f"SEED: found {self.seed}, but the checkpoint's run has {shortened(state['seed'])}; resume with that"
                " seed"
            )
        self._compare_solver(state["solver"])
        for key, before in state.get("data", {}).items():
            if self.data.get(key, before) != before:
                logger.warning(
                    "%s: found %s, but the checkpoint's run has %s: from here on it is another run"
                    " than the interrupted one",
                    key,
                    self.data[key],
                    before,
                )
        if state.get("ema", self.ema) != self.ema:
            logger.warning(
                "MISC.GREEDY.EMA: found %s, but the checkpoint's run has %s: the averages follow the new value, and the"
                " weights are trained as before",
                self.ema,
                state["ema"],
            )
        if state.get("lr_factors", []) != self.lr_factors:
            logger.warning(
                "MISC.GREEDY.LR_FACTORS: found %s, but the learning rates continue as in the checkpoint's run (%s)",
                self.lr_factors,
                state.get("lr_factors", []),
            )
        if int(state["threads"]) != torch.get_num_threads():
            logger.warning(
                "Resuming with %d threads, the checkpoint had %d: results can differ in the last bits"
                " (MISC.GREEDY.RUN.THREADS)",
                torch.get_num_threads(),
                state["threads"],
            )
        # Tried on generators of their own: a damaged state is told of now, and not after the first files are written.
        torch.Generator().set_state(state["torch_rng"])
        np.random.RandomState().set_state(_numpy_state(state))
        random.Random().setstate(_python_state(state))
        if not all(isinstance(generator, torch.Tensor) for generator in state["cuda_rng"]):
            raise ValueError("cuda_rng: no states of generators")
        self._loaded = state

    def _compare_solver(self, solver: Dict[str, Any]) -> None:
        for key, found in self.solver.items():
            before = solver[key] if key in self._FIXED else solver.get(key, found)
            if found != before and key in self._FIXED:
                raise UserError(
                    f"SOLVER.{key}: found {found}, but the checkpoint's run has {shortened(before)}; resume with that,"
                    " or start anew from it with MODEL.WEIGHTS and another OUTPUT_DIR"
                )
            if found != before:
                logger.warning(
                    "SOLVER.%s: found %s, but the optimizer and the schedule of the learning rate continue as in the"
                    " checkpoint's run (%s)",
                    key,
                    found,
                    before,
                )

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
        np.random.set_state(_numpy_state(state))
        random.setstate(_python_state(state))


def _numpy_state(state: Dict[str, Any]) -> tuple:
    name, keys, position, has_gauss, gauss = state["numpy_rng"]
    own = cast(tuple, np.random.get_state())
    # numpy reads 624 words, whatever it is given.
    if name != own[0] or keys.shape != own[1].shape or keys.dtype != torch.int64 or not 0 <= position <= len(own[1]):
        raise ValueError("numpy_rng: no state of a generator")
    return (name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), float(gauss))


def _python_state(state: Dict[str, Any]) -> tuple:
    version, internal, gauss = state["python_rng"]
    return (version, tuple(internal.tolist()), gauss)


def _storable(value: Any) -> Any:
    """Lists in one form: a config has them as lists or tuples, as they were written."""
    return list(value) if isinstance(value, (list, tuple)) else value
