"""What several processes cannot do is refused before the training."""

import pytest
from meddlr.modeling import build_model

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.sampler import ResumableBatchSampler
from meddlr_greedy.errors import UserError
from meddlr_greedy.parallel.limits import check_last_batches, check_possible, check_replicable
from meddlr_greedy.parallel.place import Place


@pytest.mark.parametrize(
    ("num", "opts", "words"),
    [
        (5, [], ["MISC.GREEDY.NUM_MODULES: found 4", "5 processes"]),
        (3, ["MISC.GREEDY.PARALLEL.REPLICAS", 2], ["MISC.GREEDY.PARALLEL.REPLICAS: found 2", "3 processes"]),
        (
            2,
            ["MISC.GREEDY.PARALLEL.PARTITION", "[1, 2]"],
            ["MISC.GREEDY.PARALLEL.PARTITION: found [1, 2]", "add up to 4"],
        ),
        (2, ["MISC.GREEDY.PARALLEL.PARTITION", "[4]"], ["MISC.GREEDY.PARALLEL.PARTITION: found [4]", "2 numbers"]),
        (2, ["MODEL.UNROLLED.SHARE_WEIGHTS", True], ["MODEL.UNROLLED.SHARE_WEIGHTS"]),
        (2, ["MODEL.META_ARCHITECTURE", "GeneralizedUnrolledCNN"], ["MODEL.META_ARCHITECTURE", "GreedyUnrolled"]),
        (2, ["MISC.GREEDY.PARALLEL.REPLICAS", 2, "SOLVER.TRAIN_BATCH_SIZE", 3], ["SOLVER.TRAIN_BATCH_SIZE: found 3"]),
        (2, ["MISC.GREEDY.RUN.CUDA_GRAPHS", True], ["RUN.CUDA_GRAPHS: found True", "2 processes"]),
        (2, ["MISC.GREEDY.OVERLAP", 1], ["MISC.GREEDY.OVERLAP: found 1", "2 processes", "travel back"]),
        (
            2,
            ["MISC.GREEDY.PARALLEL.REPLICAS", 2, "MODEL.RECON_LOSS.NAME", "k_l1_sum"],
            ["MODEL.RECON_LOSS.NAME", "k_l1_sum"],
        ),
    ],
)
def test_impossible_requests(write_config, num, opts, words):
    cfg = load_config(str(write_config(modules=4)), [str(value) for value in opts])
    with pytest.raises(UserError) as error:
        check_possible(cfg, Place.of(0, num, cfg.MISC.GREEDY.PARALLEL.REPLICAS))
    for word in words:
        assert word in str(error.value)


def test_batches_and_norms_that_replicas_cannot_share(make_cfg):
    place = Place.of(0, 2, 2)
    model = build_model(make_cfg(["MODEL.UNROLLED.CONV_BLOCK.NORM", "batch"]))
    with pytest.raises(UserError, match="MISC.GREEDY.PARALLEL.REPLICAS: found 2.*BatchNorm"):
        check_replicable(model, place)
    with pytest.raises(UserError, match="DATALOADER.DROP_LAST: found False, .* 1 of 5 examples"):
        check_last_batches(ResumableBatchSampler("aaaaa", 2, False, seed=0), place)
    with pytest.raises(UserError, match="DATALOADER.DROP_LAST: found False, .* 1 of 6 examples"):
        check_last_batches(ResumableBatchSampler("aabaaa", 2, False, seed=0), place)
    check_last_batches(ResumableBatchSampler("aabaaba", 2, True, seed=0, share=(1, 2)), place)
