"""How far solves converge whose gradient is that of their solution: what is logged of it, and the warning."""

import pytest
import torch
from meddlr.modeling import build_model

from meddlr_greedy.train_net import main as train_main
from projects.cine.support.measuring import make_batch, make_cfg
from tests.helpers.runs import metrics

STEPS = 4


def residuals(keys, training=True):
    cfg = make_cfg("cpu", "CGCineUnrolledCNN", STEPS, 3, 2).clone().defrost()
    cfg.MODEL.UNROLLED.STEP_SIZES = (0.05,)
    for key, value in keys.items():
        cfg.set_recursive(key, value)
    torch.manual_seed(0)
    model = build_model(cfg.freeze()).train(training)
    outputs = model(make_batch("cpu", (12, 10, 4), num_coils=2))
    if training:
        outputs["pred"].abs().sum().backward()
    return {key: value.item() for key, value in outputs.items() if "residual" in key}


IMPLICIT = {"MISC.GREEDY.CG_BACKWARD": "implicit"}


@pytest.mark.parametrize(
    "keys",
    [{}, {"MISC.GREEDY.CHECKPOINT": "step"}, {"MISC.GREEDY.TILE": (6, 0)}, {"MISC.GREEDY.NUM_MODULES": STEPS}],
    ids=str,
)
def test_more_iterations_leave_less_of_each_module(keys):
    few, more = (residuals({**IMPLICIT, **keys, "MODEL.UNROLLED.DC.MAX_ITER": n}) for n in (2, 12))
    modules = keys.get("MISC.GREEDY.NUM_MODULES", 2)
    assert few.keys() == more.keys() == {f"cg_residual_module_{k + 1}" for k in range(modules)}
    assert all(0 < more[name] < 0.1 * few[name] < 0.1 for name in few)


def test_steps_that_run_again_tell_their_own_module():
    whole, again = (residuals({**IMPLICIT, "MISC.GREEDY.CHECKPOINT": value}) for value in ("", "step"))
    assert whole == pytest.approx(again, rel=1e-5) and len({*whole.values()}) == 2


def test_a_network_tells_inside_of_its_steps_alone(monkeypatch):
    seen = []
    cfg = make_cfg("cpu", "CGCineUnrolledCNN", STEPS, 3, 2).clone().defrost()
    cfg.MISC.GREEDY.CG_BACKWARD, cfg.MODEL.UNROLLED.STEP_SIZES = "implicit", (0.05,)
    model = build_model(cfg.freeze()).train()
    network = model.unrolled.network
    reg = network.reg
    monkeypatch.setattr(network, "reg", lambda **options: seen.append(network.residual) or reg(**options))
    model(make_batch("cpu", (12, 10, 4), num_coils=2))
    assert len(seen) == STEPS and all(residual is not None for residual in seen)
    assert network.residual is None


def test_nothing_is_told_where_nothing_relies_on_it():
    assert residuals({}) == residuals(IMPLICIT, training=False) == {}


@pytest.mark.parametrize(("max_iter", "warns"), [(1, True), (30, False)])
def test_a_training_warns_once(write_config, tmp_path, capsys, max_iter, warns):
    config = write_config(data="beat", arch="CGCineUnrolledCNN", modules=2)
    opts = ["MODEL.UNROLLED.STEP_SIZES", "(0.1,)", "MODEL.UNROLLED.DC.MAX_ITER", str(max_iter), "SOLVER.MAX_ITER", "2"]
    train_main(["--config-file", str(config), *opts, "MISC.GREEDY.CG_BACKWARD", "implicit"])
    assert capsys.readouterr().out.count("warning: MISC.GREEDY.CG_BACKWARD: conjugate gradients of module") == warns
    for line in metrics(tmp_path / "run"):
        largest = max(line[f"cg_residual_module_{k}"] for k in (1, 2))
        assert (largest > 0.05) == warns
