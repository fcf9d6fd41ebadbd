"""What the hooks log."""

import contextlib

import pytest

from meddlr_greedy.engine import hooks
from meddlr_greedy.train_net import main
from tests.helpers.runs import metrics


class _Held(contextlib.AbstractContextManager):
    """Says that tensors of 12 345 678 bytes were held for backward, and counts how often it was asked to begin anew."""

    def __init__(self, exclude):
        self.exclude, self.peak_bytes, self.resets = list(exclude), 12_345_678, 0

    def reset_peak(self):
        self.resets += 1

    def __exit__(self, *_):
        assert self.resets == 3  # once for each module


def test_memory_of_modules_is_logged_in_megabytes(write_config, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "HeldForBackward", _Held)
    main(["--config-file", str(write_config(modules=3)), "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0"])
    for line in metrics(tmp_path / "run")[:2]:
        assert [line[f"module_{k}/memory_mb"] for k in (1, 2, 3)] == [pytest.approx(12.345678, rel=1e-9)] * 3
