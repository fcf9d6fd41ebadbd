"""Fixtures of the tests of parallel greedy learning."""

import pytest
import torch

from meddlr_greedy.engine.trainer import GreedyTrainer
from tests.helpers.jobs import start, start_job  # noqa: F401


@pytest.fixture
def batch_of():
    """batch_of(cfg): the tensors of the first batch of the training."""

    def load(cfg):
        batch = next(iter(GreedyTrainer.build_train_loader(cfg)))
        return {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}

    return load
