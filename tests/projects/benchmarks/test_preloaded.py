"""Trainers on one batch: what they read, and that they train as the others do."""

import torch

from meddlr_greedy.data.loader import ExampleLoader
from meddlr_greedy.parallel.trainer import ParallelGreedyTrainer
from meddlr_greedy.registry import TRAINER_REGISTRY
from projects.cine.benchmarks.preloaded import PreloadedGreedyTrainer, PreloadedParallelGreedyTrainer
from tests.helpers.runs import load, metrics, train

MASK = ["AUG_TRAIN.UNDERSAMPLE.NAME", "VariableDensityKtMaskFunc"]


def test_loader_gives_its_first_batch_again_and_again(make_cfg):
    cfg = make_cfg(["DATALOADER.NUM_WORKERS", 0], arch="CineUnrolledCNN", data="beat")
    loader = PreloadedGreedyTrainer.build_train_loader(cfg)
    stock = super(PreloadedGreedyTrainer, PreloadedGreedyTrainer).build_train_loader(cfg)
    assert isinstance(loader.loader, ExampleLoader) and len(loader.dataset) == len(stock.dataset)
    first = next(iter(stock))
    batches = iter(loader)
    for _ in range(3):
        batch = next(batches)
        assert torch.equal(batch["kspace"], first["kspace"]) and torch.equal(batch["mask"], first["mask"])
        batch.clear()  # what a step does to its batch stays there


def test_trains_by_name(write_config, tmp_path):
    """The first iteration is that of the other trainer; then the batch stays the same."""
    config = write_config("CineUnrolledCNN", data="beat")
    for trainer in ("auto", "PreloadedGreedyTrainer"):
        train(config, *MASK, "MISC.GREEDY.RUN.TRAINER", trainer, "OUTPUT_DIR", str(tmp_path / trainer))
    usual, repeated = (metrics(tmp_path / trainer) for trainer in ("auto", "PreloadedGreedyTrainer"))
    assert repeated[0]["total_loss"] == usual[0]["total_loss"]
    assert repeated[1]["total_loss"] != usual[1]["total_loss"]
    assert load(tmp_path / "PreloadedGreedyTrainer" / "model_final.pth")["iteration"] == 4


def test_the_parallel_one_is_for_several_processes():
    assert issubclass(PreloadedParallelGreedyTrainer, ParallelGreedyTrainer)
    assert PreloadedParallelGreedyTrainer.for_several_processes
    assert TRAINER_REGISTRY.get("PreloadedParallelGreedyTrainer") is PreloadedParallelGreedyTrainer
    assert not getattr(PreloadedGreedyTrainer, "for_several_processes", False)
