"""meddlr's wrappers around a greedy network that is spread over processes, against one process."""

import pytest

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError
from meddlr_greedy.parallel.limits import check_possible
from meddlr_greedy.parallel.place import Place
from meddlr_greedy.train_net import main as train_main
from tests.helpers.jobs import OPTS, ended_well
from tests.helpers.runs import assert_same_training
from tests.helpers.wrappers import with_masker, wrapped_opts


@pytest.mark.parametrize("name", ["N2R", "VORTEX", "N2R around SSDU", "Denoising"])
def test_same_bits_as_one_process(write_config, tmp_path, start, name):
    opts = [*OPTS, *wrapped_opts(name), "MISC.GREEDY.EMA", "0.3"]
    opts += [] if name == "Denoising" else ["MISC.GREEDY.CONSISTENCY_TARGET", "module"]
    one, chain = (with_masker(write_config(modules=4, out=tmp_path / run)) for run in ("one", "chain"))
    train_main(["--config-file", str(one), *opts])
    ended_well(start(2, chain, *opts, "MISC.GREEDY.PARALLEL.PARTITION", "[1, 3]"))
    for weights in ("model_final.pth", "model_best.pth", "model_final_ema.pth"):
        assert_same_training(tmp_path / "one" / weights, tmp_path / "chain" / weights)


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        ([], "MISC.GREEDY.CONSISTENCY_TARGET: found 'network', .* allowed is 'module'"),
        (["MISC.GREEDY.PARALLEL.REPLICAS", "2"], "MISC.GREEDY.PARALLEL.REPLICAS: found 2, but N2RModel draws"),
        (["MODEL.N2R.META_ARCHITECTURE", "UnetModel"], "MODEL.N2R.META_ARCHITECTURE: found 'UnetModel'"),
    ],
)
def test_refused(write_config, opts, words):
    cfg = load_config(str(write_config(modules=4)), [*wrapped_opts("N2R"), *opts])
    with pytest.raises(UserError, match=words):
        check_possible(cfg, Place.of(0, 2, cfg.MISC.GREEDY.PARALLEL.REPLICAS))
