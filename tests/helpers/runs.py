"""Trainings, what they leave in their folder, and whether two are the same."""

import json
import time
from pathlib import Path

import torch

from meddlr_greedy.train_net import main as train_main

#: How long a test waits for what must come. It is long, since machines may be busy; only a test that fails needs it.
PATIENCE_S = 600

ROOT = Path(__file__).resolve().parents[2]


def train(config, *opts):
    return train_main(["--config-file", str(config), *opts])


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_equal(x, y, where="", equal=torch.equal):
    """Two nested states are equal, with their keys in the same order and their tensors by ``equal``."""
    if isinstance(x, torch.Tensor):
        assert equal(x, y), where
    elif isinstance(x, dict):
        assert list(x) == list(y), where
        for key in x:
            assert_equal(x[key], y[key], f"{where}.{key}", equal)
    elif isinstance(x, (list, tuple)):
        assert len(x) == len(y), where
        for i, (u, v) in enumerate(zip(x, y)):
            assert_equal(u, v, f"{where}[{i}]", equal)
    else:
        assert x == y, where


def assert_same_run(a, b):
    """Model, optimizer, scheduler and generators of two checkpoints are equal, bit for bit."""
    assert_equal(load(a), load(b))


def assert_same_training(a, b, equal=torch.equal):
    """Weights, optimizer, scheduler and iteration of two checkpoints are equal, bit for bit."""
    a, b = load(a), load(b)
    assert a.keys() == b.keys()
    for key in a:
        assert_equal(a[key], b[key], key, equal)


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]


def wait_for(condition, process=None):
    """Waits for a condition; it fails where ``process`` ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)
