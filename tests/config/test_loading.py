"""From files and overrides to a config."""

import pytest

from meddlr_greedy.config.loading import load_config
from meddlr_greedy.errors import UserError


@pytest.mark.parametrize("key", ["DATASETS.TRAIN", "DATASETS.VAL", "DATASETS.TEST"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mine_train", ("mine_train",)),
        ("('mine_train',)", ("mine_train",)),
        ("('a_train', 'b_train')", ("a_train", "b_train")),
        ("()", ()),
    ],
)
def test_one_data_set_may_be_given_plainly(key, given, expected):
    assert tuple(load_config("cine/demo.yaml", [key, given]).get_recursive(key)) == expected


def test_other_keys_are_taken_as_they_are():
    assert load_config("cine/demo.yaml", ["OUTPUT_DIR", "results"]).OUTPUT_DIR == "results"
    with pytest.raises(UserError, match=r"MODEL\.UNROLLED\.KERNEL_SIZE"):
        load_config("cine/demo.yaml", ["MODEL.UNROLLED.KERNEL_SIZE", "wide"])
