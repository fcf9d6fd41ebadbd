"""What a process sets before it runs."""

import pytest
import torch

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.engine import setup


@pytest.mark.parametrize(("before", "key", "after"), [(True, True, True), (True, False, False), (False, True, False)])
def test_tf32_is_torchs_choice_or_off(make_cfg, monkeypatch, before, key, after):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    cfg = make_cfg()
    cfg.MISC.GREEDY = GreedyConfig.from_mapping({"RUN": {"TF32": key}}).as_node()
    setup._prepare_torch(cfg)
    assert torch.backends.cudnn.allow_tf32 is after
