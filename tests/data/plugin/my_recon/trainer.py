"""A trainer, ``MISC.GREEDY.RUN.TRAINER: TimedTrainer``."""

import time
from pathlib import Path

from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.registry import TRAINER_REGISTRY


@TRAINER_REGISTRY.register()
class TimedTrainer(GreedyTrainer):
    """Writes how long the training took to ``OUTPUT_DIR/seconds.txt``.

    It trains in one process. One for several processes is a subclass of ``ParallelGreedyTrainer``.
    """

    def train(self):
        """Trains; returns the results of the last evaluation."""
        start = time.perf_counter()
        results = super().train()
        Path(self.cfg.OUTPUT_DIR, "seconds.txt").write_text(f"{time.perf_counter() - start:.1f}\n")
        return results
