"""The demo, small: it shows no more than fits on a screen or two."""

import pytest

from meddlr_greedy import eval_net, prepare, train_net
from meddlr_greedy.data.catalog import register_datasets
from projects.cine import demo

SIZES = ["--subjects", "3", "--slices", "1", "--frames", "4", "--matrix", "16", "16", "--coils", "2", "--calib", "12"]
SMALL = ["MODEL.UNROLLED.NUM_FEATURES", "4", "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "2"]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The demo with less data and fewer iterations, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDDLR_GREEDY_DATASETS", raising=False)
    for command, more in ((prepare, SIZES), (train_net, SMALL), (eval_net, SMALL)):
        monkeypatch.setattr(command, "main", lambda argv, main=command.main, more=more: main([*argv, *more]))
    yield
    monkeypatch.undo()
    register_datasets()


def test_the_demo_prints_at_most_sixty_lines(small, tmp_path, capfd):
    demo.main(["--output", "results"])
    out, err = capfd.readouterr()
    lines = [line for text in (out, err) for line in text.splitlines()]
    assert len(lines) <= 60, "\n".join(lines)
    assert "training: 0 of 6 iterations" in err and "trained greedily in 4 modules" in out
    assert (tmp_path / "results" / "test_results" / "results.json").exists()
    demo.main(["--output", "results"])  # run again it goes on where it was, at its end
    out, err = capfd.readouterr()
    assert len(out.splitlines()) + len(err.splitlines()) <= 60
