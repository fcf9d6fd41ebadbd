"""Every memory method with every other: works, or is refused in one line, as docs/methods.md says."""

import itertools
import re

import pytest
import torch
from meddlr.modeling import build_model

from docs.write_methods import NETWORKS, PROCESSES, config_of, methods, reference, refusal
from meddlr_greedy.modeling.losses import complex_l1
from projects.cine.support.measuring import make_batch
from tests.helpers.runs import ROOT

METHODS = methods()
PAIRS = [(one,) for one in METHODS] + [
    (one, other) for one, other in itertools.combinations(METHODS, 2) if one.key != other.key
]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("chosen", PAIRS, ids=lambda chosen: " ".join(method.name for method in chosen))
def test_works_or_is_refused_in_one_line(network, chosen):
    cfg = config_of(network, chosen)
    line = refusal(cfg, PROCESSES["one process"])
    if line:
        assert re.match(r"MISC\.GREEDY\.[A-Z_]+: found [^\n]+$", line)
        assert any(line.startswith(f"MISC.GREEDY.{method.key}: ") for method in chosen)
        return
    batch = make_batch("cpu", (14, 12) if network.startswith("2D") else (14, 12, 3), num_coils=2)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    complex_l1(model(batch, takes_last_loss=True)["pred"], batch["target"]).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


def test_the_page_tells_it():
    page = (ROOT / "docs" / "methods.md").read_text()
    assert page == reference(), "write it again: python -m docs.write_methods --output docs/methods.md"
