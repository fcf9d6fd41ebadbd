"""The smallest 2D network of docs/extending.md, tests/data/smallest: its data are drawn, it trains and is evaluated."""

import json
import runpy
import sys

import pytest
from meddlr.modeling import build_model

from meddlr_greedy import eval_net, prepare
from meddlr_greedy.config.loading import load_config
from tests.helpers.plugin import SMALLEST, importable
from tests.helpers.runs import load, train

CONFIG = str(SMALLEST / "smallest.yaml")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder is the current one, and its data sets are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDDLR_GREEDY_DATASETS", str(tmp_path / "datasets"))
    with importable(SMALLEST, forget=["smallest"]):
        yield tmp_path


def test_the_whole_way(here, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["draw.py", "drawn"])
    runpy.run_path(str(SMALLEST / "draw.py"))
    prepare.main(["maps", "drawn", "--output", "datasets/drawn", "--calib", "16"])
    train(CONFIG, "SOLVER.MAX_ITER", "60", "SOLVER.CHECKPOINT_PERIOD", "60")
    eval_net.main(["--config-file", CONFIG, "--num-figures", "0"])
    results = json.loads((here / "results/smallest/test_results/results.json").read_text())["datasets"]["drawn_test"]
    psnr = {method: results[method]["psnr"]["mean"] for method in ("zero_filled", "reconstruction")}
    assert psnr["reconstruction"] > psnr["zero_filled"] + 2
    weights = load(here / "results/smallest/model_final.pth")["model"]
    shares = [float(weights[name]) for name in sorted(weights) if name.endswith("share")]
    assert len(shares) == 4 and len({0.5, *shares}) == 5  # each step has learned one of its own


@pytest.mark.parametrize("share_weights, count", [("False", 4), ("True", 1)])
def test_each_module_trains_the_share_of_its_step(here, share_weights, count):
    model = build_model(load_config(CONFIG, ["MODEL.UNROLLED.SHARE_WEIGHTS", share_weights]))
    shares = {id(p) for name, p in model.named_parameters() if name.endswith("share")}
    owned = [[id(p) for p in own if id(p) in shares] for own in model.unrolled.own_parameters()]
    assert [len(own) for own in owned] == [1] * 4 and len({id for own in owned for id in own}) == len(shares) == count
