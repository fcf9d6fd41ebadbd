from meddlr_greedy.engine.build import HOOK_REGISTRY, TRAINER_REGISTRY
from meddlr_greedy.engine.hooks import DecoupledTraining
from meddlr_greedy.engine.trainer import GreedyTrainer
from meddlr_greedy.parallel.trainer import ParallelGreedyTrainer

__all__ = ["DecoupledTraining", "GreedyTrainer", "HOOK_REGISTRY", "ParallelGreedyTrainer", "TRAINER_REGISTRY"]
