"""Registries of what a config or a command can name; other packages register their own parts here.

Networks, regularizers, masks, normalizers and data sets have meddlr's registries.
"""

from typing import Any

from fvcore.common.registry import Registry

from meddlr_greedy.errors import UserError, did_you_mean

__all__ = ["HOOK_REGISTRY", "LOSS_REGISTRY", "READER_REGISTRY", "TRAINER_REGISTRY", "look_up"]

TRAINER_REGISTRY = Registry("TRAINER")
TRAINER_REGISTRY.__doc__ = """Trainers, ``MISC.GREEDY.RUN.TRAINER``: called with the config, subclasses of meddlr's
DefaultTrainer. One that trains over several processes declares ``for_several_processes = True``."""

HOOK_REGISTRY = Registry("HOOK")
HOOK_REGISTRY.__doc__ = """Extra hooks of a trainer, ``MISC.GREEDY.RUN.HOOKS``: called with the config, subclasses of
meddlr's HookBase. One that has a method close() is closed when a training ends, also by an error."""

LOSS_REGISTRY = Registry("LOSS")
LOSS_REGISTRY.__doc__ = """Losses of your own, ``MODEL.RECON_LOSS.NAME``: functions of (pred, target), complex tensors
(B, H, W, [T,] M), that return a real scalar, the mean over examples."""

READER_REGISTRY = Registry("READER")
READER_REGISTRY.__doc__ = """Readers of ``meddlr_greedy.prepare``, each a sub-command."""


def look_up(registry: Registry, name: str, key: str) -> Any:
    """What is registered under a name.

    Args:
        registry: Where to look.
        name: The name.
        key: The key of the config that holds it, for the message.

    Raises:
        UserError: Nothing is registered under it.
    """
    names = sorted(registered for registered, _ in registry)
    if name not in names:
        raise UserError(f"{key}: unknown name '{name}', allowed are {', '.join(names)}{did_you_mean(name, names)}")
    return registry.get(name)
