"""Reconstructions -> numbers and pictures."""

from meddlr_greedy.evaluation.evaluator import GreedyReconEvaluator, ZeroFilledEvaluator

__all__ = ["GreedyReconEvaluator", "ZeroFilledEvaluator"]
