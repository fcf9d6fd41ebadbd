"""The state of a run beside its network, optimizer and scheduler, which makes resuming exact."""

import logging
import random
from typing import Any, Dict, cast

import numpy as np
import torch
from meddlr.config import CfgNode

from meddlr_greedy.errors import UserError

__all__ = ["RunState"]

logger = logging.getLogger(__name__)


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
