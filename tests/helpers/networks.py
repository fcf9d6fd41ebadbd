"""Networks, batches and stock trainings to compare greedy learning with."""

import copy
import os

import torch
from meddlr.engine import DefaultTrainer
from meddlr.modeling import build_model

from meddlr_greedy.engine.memory import HeldForBackward
from meddlr_greedy.modeling.losses import complex_l1


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
