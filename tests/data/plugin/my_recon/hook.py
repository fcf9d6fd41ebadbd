"""A hook, ``MISC.GREEDY.RUN.HOOKS: [LossTable]``."""

from pathlib import Path

from meddlr.engine.train_loop import HookBase

from meddlr_greedy.registry import HOOK_REGISTRY


@HOOK_REGISTRY.register()
class LossTable(HookBase):
    """Writes the loss of the whole network at every iteration to ``OUTPUT_DIR/losses.csv``.

    Every process of a training has the hook; only one of them, ``trainer.is_io_rank``, writes files.
    """

    def __init__(self, cfg):
        self.path = Path(cfg.OUTPUT_DIR) / "losses.csv"
        self.file = None

    def before_train(self):
        """Opens the file; a training that is continued goes on in it."""
        if self.trainer.is_io_rank:
            self.file = open(self.path, "a")  # noqa: SIM115 (closed by close)

    def after_step(self):
        """Writes a line."""
        if self.file is not None:
            self.file.write(f"{self.trainer.iter},{self.trainer.storage.history('loss').latest()}\n")

    def close(self):
        """Called when the training ends, also by an error."""
        if self.file is not None:
            self.file.close()
