"""What the scaling model measures of a module."""

from dataclasses import asdict

from meddlr.modeling import build_model

from projects.cine.scaling.measure import measure_modules
from projects.cine.support.measuring import make_batch, make_cfg
from tests.helpers.scaling import MEASURED


def test_parts_of_a_module_are_measured():
    cfg = make_cfg("cpu", "CineUnrolledCNN", 2, 4, 2)
    model = build_model(cfg).train()
    before = [p.clone() for p in model.parameters()]
    means = measure_modules(model, make_batch("cpu", (16, 12, 4), 2), "cpu", seconds=0)
    measured = {name for name in asdict(MEASURED) if name.endswith("_s")} - {"latency_s", "transfer_s"}
    assert set(means) == measured and min(means.values()) > 0
    assert any((p != q).any() for p, q in zip(model.parameters(), before)), "nothing was updated"
