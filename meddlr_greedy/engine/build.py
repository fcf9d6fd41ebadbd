"""The trainer and the hooks that ``MISC.GREEDY.RUN`` names."""

from typing import Any, List

from meddlr.config import CfgNode
from meddlr.engine.train_loop import HookBase

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.environment import in_job
from meddlr_greedy.registry import HOOK_REGISTRY, TRAINER_REGISTRY, look_up

__all__ = ["build_hooks", "trainer_class"]


def trainer_class(cfg: CfgNode) -> Any:
    """The trainer that ``MISC.GREEDY.RUN.TRAINER`` names, or the one for the number of processes.

    Raises:
        UserError: There is none of that name, or it trains in one process and several were started.
    """
    key = "MISC.GREEDY.RUN.TRAINER"
    name = cfg.MISC.GREEDY.RUN.TRAINER
    if name == "auto":
        name = "ParallelGreedyTrainer" if in_job() else "GreedyTrainer"
    trainer = look_up(TRAINER_REGISTRY, name, key)
    if in_job() and not getattr(trainer, "for_several_processes", False):
        raise UserError(
            f"{key}: found '{name}', which trains in one process, but several were started; allowed is 'auto'"
        )
    return trainer


def build_hooks(cfg: CfgNode) -> List[HookBase]:
    """The hooks that ``MISC.GREEDY.RUN.HOOKS`` names, in that order."""
    return [look_up(HOOK_REGISTRY, name, "MISC.GREEDY.RUN.HOOKS")(cfg) for name in cfg.MISC.GREEDY.RUN.HOOKS]
