"""The parts of a training, built from the config: trainer, hooks, network, optimizer, loss computer."""

from typing import Any, List, Sequence

import torch
from meddlr.config import CfgNode
from meddlr.engine import DefaultTrainer
from meddlr.engine.train_loop import HookBase
from meddlr.modeling import build_loss_computer as build_loss_computer_by_name
from meddlr.modeling import build_model
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from meddlr.solver import GradAccumOptimizer
from meddlr.solver import build_optimizer as build_stock_optimizer

from meddlr_greedy.config.schema import is_greedy, schema_keys
from meddlr_greedy.config.wrappers import GREEDY_NETWORK, SECTIONS, wrappers_of
from meddlr_greedy.data.seeding import EVAL_EPOCH, example_seed
from meddlr_greedy.engine.accumulation import ResumableGradAccumOptimizer
from meddlr_greedy.engine.update_sets import update_in_sets
from meddlr_greedy.engine.updates import clip_gradients, scale_learning_rates
from meddlr_greedy.errors import UserError, naming
from meddlr_greedy.jobs.environment import in_job
from meddlr_greedy.modeling.contract import REPLACED, network_class
from meddlr_greedy.modeling.wrappers.draws import seed_draws
from meddlr_greedy.modeling.wrappers.inside import greedy_inside
from meddlr_greedy.modeling.wrappers.limits import check_wrappers
from meddlr_greedy.modeling.wrappers.losses import WrapperLossComputer
from meddlr_greedy.registry import HOOK_REGISTRY, TRAINER_REGISTRY, look_up

__all__ = [
    "HANDLED_KEYS",
    "build_hooks",
    "build_loss_computer",
    "build_network_to_train",
    "build_optimizer",
    "seed_evaluation",
    "trainer_class",
]

#: Keys of ``MISC.GREEDY`` that are a trainer's work: :func:`build_optimizer` acts on those of the update,
#: ``GreedyTrainer`` on that of the averages (``EMA``).
HANDLED_KEYS = tuple(key.name for key in schema_keys() if key.rule.acts_in_trainer)

# meddlr's networks that have a loss computer of their own.
_CONSISTENCY_MODELS = ("N2RModel", "M2RModel", "NM2RModel", "A2RModel")


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


def build_network_to_train(cfg: CfgNode, handled_keys: Sequence[str] = HANDLED_KEYS) -> torch.nn.Module:
    """The network of a config, for a trainer that acts on ``handled_keys``.

    A network refuses to be trained with keys that are a trainer's work, unless its trainer acts on them.

    Raises:
        UserError: names the key that is wrong.
    """
    check_wrappers(cfg)
    cfg = cfg.clone().defrost()
    for key in schema_keys():
        if key.name in handled_keys:
            cfg.set_recursive(key.full_name, key.default)
    if wrappers_of(cfg) and is_greedy(cfg):  # every batch seeds what it draws; meddlr's VORTEX fails without a seed
        cfg.SEED = max(cfg.SEED, 0)
    for section in {*SECTIONS.values()} - {*wrappers_of(cfg)}:  # of wrappers that are not used
        if cfg.MODEL[section].META_ARCHITECTURE == GREEDY_NETWORK:
            cfg.MODEL[section].META_ARCHITECTURE = cfg.MISC.GREEDY.META_ARCHITECTURE
    with naming("MODEL"):
        name = cfg.MODEL.META_ARCHITECTURE
        if name in META_ARCH_REGISTRY and META_ARCH_REGISTRY.get(name) in REPLACED:
            return network_class(name)(cfg.freeze())
        model = build_model(cfg.freeze())
    seed_evaluation(model, cfg.SEED)
    return model


def seed_evaluation(model: torch.nn.Module, seed: int) -> None:
    """Lets what a wrapper around a greedy network draws in evaluation be a function of the seed and the examples.

    meddlr's denoising adds noise there, too.
    """
    if greedy_inside(model) in (None, model):
        return

    def reseed(model: torch.nn.Module, args: Any) -> None:
        if not model.training:
            names = [f"{example['scan_id']}-{example['slice_id']}" for example in args[0].get("metadata", [])]
            drawn = example_seed(max(seed, 0), EVAL_EPOCH, f"{', '.join(names)}, draws of wrappers")
            seed_draws(model, drawn, next(model.parameters()).device)

    model.register_forward_pre_hook(reseed)


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> Any:
    """meddlr's optimizer, with a state that resumes exactly, and the keys of ``MISC.GREEDY`` that concern the update.

    Raises:
        UserError: names the key that is wrong.
    """
    with naming("SOLVER.OPTIMIZER"):
        optimizer = build_stock_optimizer(cfg, model)
    update_in_sets(getattr(optimizer, "optimizer", optimizer))
    if isinstance(optimizer, GradAccumOptimizer):
        optimizer = ResumableGradAccumOptimizer(optimizer.optimizer, optimizer.accumulation_iters)
    if cfg.MISC.GREEDY.CLIP_NORM:
        clip_gradients(optimizer, model, cfg.MISC.GREEDY.CLIP_NORM)
    if cfg.MISC.GREEDY.LR_FACTORS:
        scale_learning_rates(optimizer, model, cfg.MISC.GREEDY.LR_FACTORS)
    return optimizer


def build_loss_computer(cfg: CfgNode) -> Any:
    """The lean loss computer; for meddlr's networks that have losses of their own meddlr's, or that of their parts.

    Raises:
        UserError: names the key that is wrong.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if wrappers_of(cfg) and is_greedy(cfg):
        return WrapperLossComputer(cfg)
    if name not in _CONSISTENCY_MODELS:
        return build_loss_computer_by_name(cfg, "LeanLossComputer")
    if cfg.MISC.GREEDY.CINE.LOSS_LINES:
        raise UserError(
            f"MISC.GREEDY.CINE.LOSS_LINES: found {cfg.MISC.GREEDY.CINE.LOSS_LINES:g}, but {name}"
            " (MODEL.META_ARCHITECTURE) has losses of its own; 0 is allowed"
        )
    return DefaultTrainer.build_loss_computer(cfg)
