from meddlr_greedy.engine.build import HOOK_REGISTRY, TRAINER_REGISTRY
from meddlr_greedy.engine.hooks import DecoupledTraining
from meddlr_greedy.engine.parallel import ParallelGreedyTrainer
from meddlr_greedy.engine.trainer import GreedyTrainer

__all__ = ["DecoupledTraining", "GreedyTrainer", "HOOK_REGISTRY", "ParallelGreedyTrainer", "TRAINER_REGISTRY"]
