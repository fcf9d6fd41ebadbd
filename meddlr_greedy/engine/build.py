"""Registries of trainers and hooks, chosen by ``MISC.GREEDY.TRAINER`` and ``MISC.GREEDY.HOOKS``."""

from typing import Any, List

from meddlr.config import CfgNode
from meddlr.engine.train_loop import HookBase
from meddlr.utils.registry import Registry

from meddlr_greedy.errors import UserError, did_you_mean
from meddlr_greedy.jobs.environment import in_job

__all__ = ["HOOK_REGISTRY", "TRAINER_REGISTRY", "build_hooks", "trainer_class"]

TRAINER_REGISTRY = Registry("TRAINER")
TRAINER_REGISTRY.__doc__ = "Trainers: called with the config, subclasses of meddlr's DefaultTrainer."

HOOK_REGISTRY = Registry("HOOK")
HOOK_REGISTRY.__doc__ = (
    "Extra hooks of a trainer: called with the config, subclasses of meddlr's HookBase. One that has a method close()"
    " is closed when a training ends, also by an error."
)


def trainer_class(cfg: CfgNode) -> Any:
    """The trainer that ``MISC.GREEDY.TRAINER`` names, or the one for the number of processes."""
    name = cfg.MISC.GREEDY.TRAINER
    if name == "auto":
        name = "ParallelGreedyTrainer" if in_job() else "GreedyTrainer"
    trainer = _look_up(TRAINER_REGISTRY, name, "MISC.GREEDY.TRAINER")
    if in_job() and not getattr(trainer, "for_several_processes", False):
        raise UserError(
            f"MISC.GREEDY.TRAINER: found '{name}', which trains in one process, but several were started; allowed is"
            " 'auto'"
        )
    return trainer


def build_hooks(cfg: CfgNode) -> List[HookBase]:
    """The hooks that ``MISC.GREEDY.HOOKS`` names, in that order."""
    names = cfg.MISC.GREEDY.HOOKS
    return [_look_up(HOOK_REGISTRY, name, "MISC.GREEDY.HOOKS")(cfg) for name in names]


def _look_up(registry: Registry, name: str, key: str) -> Any:
    names = sorted(n for n, _ in registry)
    if name not in names:
        raise UserError(f"{key}: unknown name '{name}', allowed are {', '.join(names)}{did_you_mean(name, names)}")
    return registry.get(name)
