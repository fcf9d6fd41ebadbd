"""Networks, batches and stock trainings to compare greedy learning with."""

import copy
import os

import torch
from meddlr.config import CfgNode, get_cfg
from meddlr.engine import DefaultTrainer
from meddlr.modeling import build_model
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY
from meddlr.modeling.meta_arch.unrolled import CGUnrolledCNN

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.modeling.losses import complex_l1
from meddlr_greedy.modeling.networks.cine import CGCineUnrolledCNN
from meddlr_greedy.modeling.networks.invertible import InvertibleCGCineUnrolledCNN, InvertibleCineUnrolledCNN

#: Of the networks that do not allow meddlr's default, and of those derived from them.
STEP_SIZES = {
    CGUnrolledCNN: 0.1,
    CGCineUnrolledCNN: 0.1,
    InvertibleCineUnrolledCNN: -0.4,
    InvertibleCGCineUnrolledCNN: 0.5,
}


def small_config(name, **greedy):
    """A config of a registered unrolled network of four small steps; ``greedy`` are keys of ``MISC.GREEDY``."""
    cfg = get_cfg()
    step_sizes = (STEP_SIZES[c] for c in META_ARCH_REGISTRY.get(name).__mro__ if c in STEP_SIZES)
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "GreedyUnrolled"
    unrolled = cfg.MODEL.UNROLLED
    unrolled.NUM_UNROLLED_STEPS, unrolled.NUM_FEATURES, unrolled.NUM_RESBLOCKS, unrolled.KERNEL_SIZE = 4, 4, 1, (3,)
    unrolled.STEP_SIZES = (next(step_sizes, -1.0),)
    cfg.MODEL.RECON_LOSS.NAME, cfg.MODEL.RECON_LOSS.RENORMALIZE_DATA = "l1", False
    cfg.MISC.GREEDY = CfgNode({"META_ARCHITECTURE": name, "NUM_MODULES": 2, **greedy})
    return cfg


def train_stock(cfg):
    """meddlr's own trainer, as upstream's tools/train_net.py uses it; returns start and end state."""
    cfg = cfg.clone().defrost()
    cfg.DATASETS.VAL = cfg.DATASETS.TEST = ()  # meddlr's validation loader fails without workers
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    torch.manual_seed(cfg.SEED)
    trainer = DefaultTrainer(cfg)
    start = copy.deepcopy(trainer.model.state_dict())
    torch.manual_seed(7)
    trainer.train()
    return start, trainer.model.state_dict()


def plain_network(cfg, name):
    cfg = cfg.clone().defrost()
    cfg.MODEL.META_ARCHITECTURE = name
    return build_model(cfg)


def batches(cfg):
    loader = DefaultTrainer.build_train_loader(cfg)
    torch.manual_seed(7)
    iterator = iter(loader)
    for _ in range(cfg.SOLVER.MAX_ITER):
        try:
            batch = next(iterator)
        except StopIteration:
            iterator = iter(loader)
            batch = next(iterator)
        yield batch


def held_bytes(model, batch):
    tensors = [v for v in batch.values() if isinstance(v, torch.Tensor)]
    with HeldForBackward(exclude=[*model.parameters(), *tensors]) as held:
        loss = complex_l1(model(batch)["pred"], batch["target"])
    loss.backward()
    return held.peak_bytes


def shapes_given_to(monkeypatch, module, name):
    """The shape of the first tensor of each call of a function of ``module`` from now on, in their order."""
    function, found = getattr(module, name), []

    def told(*operands):
        found.append(operands[0].shape)
        return function(*operands)

    monkeypatch.setattr(module, name, told)
    return found
