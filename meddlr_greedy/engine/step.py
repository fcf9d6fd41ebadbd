"""One training step."""

import itertools
from typing import Any, Callable, Dict, Optional

import torch
from meddlr.config import CfgNode
from meddlr.utils.events import EventStorage

from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.modeling.greedy.wrapper import GreedyUnrolled

__all__ = ["TrainingStep"]


class TrainingStep(GreedyTrainer):
    """The trainer's step on one batch again and again, without data, files and hooks.

    ``on_module`` is called as :attr:`GreedyUnrolled.on_module` is; of a network that is not trained greedily the whole
    step is the one module.
    """

    def __init__(self, cfg: CfgNode, batch: Dict[str, torch.Tensor]):
        self.cfg, self.iter, self.storage = cfg, 0, EventStorage(0)
        self.model = self.build_model(cfg).train()
        if cfg.MODEL.DEVICE != "cpu":  # where parameters are made; those without values cannot be moved
            self.model.to(cfg.MODEL.DEVICE)
        self.optimizer = self.build_optimizer(cfg, self.model)
        self.loss_computer = self.build_loss_computer(cfg)
        self._data_loader_iter = itertools.repeat(batch)
        self.on_module: Optional[Callable[[int, bool], None]] = None

    def run_step(self) -> None:
        whole = self.on_module
        if isinstance(self.model, GreedyUnrolled):
            self.model.on_module, whole = self.on_module, None
        with self.storage:
            if whole is not None:
                whole(0, True)
            super().run_step()
            if whole is not None:
                whole(0, False)

    def _next_batch(self) -> Dict[str, Any]:
        return dict(super()._next_batch())

    def _check_finite(self, values: Dict[str, float]) -> None:
        """The values of a made-up batch do not matter."""
