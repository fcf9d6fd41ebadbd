"""Plans of trainings of meddlr's wrappers around a greedy network."""

import pytest

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError
from meddlr_greedy.planning.example import Example
from meddlr_greedy.planning.search import Method, with_method
from meddlr_greedy.planning.step_memory import plan_step
from tests.helpers.wrappers import WRAPPERS, with_masker, wrapped_opts


def planned(write_config, name, *opts):
    cfg = load_config(str(with_masker(write_config(modules=4))), [*wrapped_opts(name), *opts])
    return cfg, Example.from_shape(cfg, (32, 24, 3))


@pytest.mark.parametrize("name", WRAPPERS)
def test_modules_hold_less(write_config, name):
    cfg, example = planned(write_config, name)
    greedy, end_to_end = plan_step(cfg, example), plan_step(with_method(cfg, Method(1)), example)
    assert len(greedy.activations) == 4 and len(end_to_end.activations) == 1
    assert max(greedy.activations) < 0.6 * end_to_end.activations[0]
    assert 0 < greedy.evaluation < greedy.peak < end_to_end.peak


def test_consistency_needs_more_than_the_plain_network(write_config):
    cfg, example = planned(write_config, "N2R around SSDU")
    plain = cfg.clone().defrost()
    plain.MODEL.META_ARCHITECTURE = "GreedyUnrolled"
    both, alone = (plan_step(c, example).activations for c in (cfg, plain.freeze()))
    # Of the last module the activations of two batches are there; what backward needs beside them, once.
    assert both[-1] > 1.4 * alone[-1]


def test_without_greedy_network_inside(write_config):
    cfg, example = planned(write_config, "N2R", "MODEL.N2R.META_ARCHITECTURE", "GeneralizedUnrolledCNN")
    with pytest.raises(UserError, match="MODEL.N2R.META_ARCHITECTURE: found 'GeneralizedUnrolledCNN'"):
        plan_step(cfg, example)
