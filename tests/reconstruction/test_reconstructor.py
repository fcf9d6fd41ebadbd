"""The transform of acquired slices leaves the caller's config and settings of training data alone."""

import pytest
from meddlr.modeling import build_model

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.reconstruction.reconstructor import Reconstructor


@pytest.mark.parametrize("arch,data", [("CineUnrolledCNN", "beat"), ("GeneralizedUnrolledCNN", "flat")])
def test_config_of_the_caller_stays_as_it_is(write_config, arch, data):
    cfg = load_config(str(write_config(arch, data=data)))
    before = cfg.dump()
    model = build_model(cfg)
    assert model.training
    Reconstructor(cfg, model)
    assert cfg.dump() == before and not model.training
