"""Which examples are in which batch."""

import itertools
from collections import Counter

import numpy as np
import pytest

from meddlr_greedy.data.sampler import ResumableBatchSampler, batches_in_order
from meddlr_greedy.data.seeding import example_seed
from meddlr_greedy.errors import UserError


@pytest.mark.parametrize("drop_last, sizes", [(True, [4, 4]), (False, [4, 4, 2])])
def test_sampler_goes_through_all_examples_and_resumes(drop_last, sizes):
    sampler = ResumableBatchSampler("a" * 10, 4, drop_last, seed=1)
    batches = list(itertools.islice(sampler, 9))
    assert [len(batch) for batch in batches[: len(sizes)]] == sizes
    for epoch in range(2):
        keys = sum(batches[epoch * len(sizes) : (epoch + 1) * len(sizes)], [])
        assert len(set(keys)) == sum(sizes) and {key[0] for key in keys} == {epoch}
    assert [key[1] for key in batches[0]] != [key[1] for key in batches[len(sizes)]]
    for start in range(7):
        sampler.start_iter = start
        assert list(itertools.islice(sampler, 2)) == batches[start : start + 2]
    assert next(iter(ResumableBatchSampler("a" * 10, 4, drop_last, seed=2))) != batches[0]


@pytest.mark.parametrize("drop_last", [True, False])
def test_examples_of_one_kind_are_cut_from_the_shuffled_ones(drop_last):
    """As they always were: a run that was begun before there were kinds goes on with the same batches."""
    sampler = ResumableBatchSampler(["one kind"] * 11, 3, drop_last, seed=7)
    batches = list(itertools.islice(sampler, 2 * sampler.batches_per_epoch))
    for epoch in range(2):
        order = np.random.RandomState(example_seed(7, epoch, "order of examples")).permutation(11)
        cut = [order[i : i + 3].tolist() for i in range(0, 9 if drop_last else 11, 3)]
        found = batches[epoch * len(cut) : (epoch + 1) * len(cut)]
        assert found == [[(epoch, i) for i in batch] for batch in cut]


KINDS = "aababcaabbaca"  # 7 of a, 4 of b, 2 of c


@pytest.mark.parametrize("drop_last, sizes", [(False, [1, 2, 2, 2, 2, 2, 2]), (True, [2] * 6)])
def test_a_batch_holds_examples_of_one_kind(drop_last, sizes):
    sampler = ResumableBatchSampler(KINDS, 2, drop_last, seed=3)
    assert sampler.batches_per_epoch == len(sizes) and sampler.smaller == ([] if drop_last else [1])
    batches = list(itertools.islice(sampler, 3 * len(sizes)))
    left_out = set()
    for epoch in range(3):
        own = batches[epoch * len(sizes) : (epoch + 1) * len(sizes)]
        assert all(len({KINDS[i] for _, i in batch}) == 1 and {e for e, _ in batch} == {epoch} for batch in own)
        assert sorted(len(batch) for batch in own) == sizes
        examples = [i for batch in own for _, i in batch]
        assert len(set(examples)) == len(examples) == sum(sizes)
        left_out |= set(range(len(KINDS))) - set(examples)
        # Kinds take turns; they do not come one after the other.
        kinds = [KINDS[batch[0][1]] for batch in own]
        assert len(list(itertools.groupby(kinds))) > 3
    assert len(left_out) == (3 if drop_last else 0), "it is not always the same examples"
    for start in range(2 * len(sizes) + 1):
        resumed = ResumableBatchSampler(KINDS, 2, drop_last, seed=3, start_iter=start)
        assert list(itertools.islice(resumed, 3)) == batches[start : start + 3]


def test_shares_make_up_the_batch():
    whole = list(itertools.islice(ResumableBatchSampler("aaaabb" * 2, 4, True, seed=5), 9))
    shares = [list(itertools.islice(ResumableBatchSampler("aaaabb" * 2, 4, True, 5, (i, 2)), 9)) for i in range(2)]
    assert [first + second for first, second in zip(*shares)] == whole
    assert Counter(map(len, shares[0])) == {2: 9}


def test_a_kind_without_a_full_batch_is_refused():
    with pytest.raises(UserError, match=r"TRAIN_BATCH_SIZE: 3 is more than the 2 training examples of one kind \(c\)"):
        ResumableBatchSampler(KINDS, 3, True, seed=0)
    with pytest.raises(UserError, match=r"TRAIN_BATCH_SIZE: 14 is more than the 13 training examples; .*DROP_LAST"):
        ResumableBatchSampler("a" * 13, 14, True, seed=0)
    assert ResumableBatchSampler(KINDS, 3, False, seed=0).batches_per_epoch == 3 + 2 + 1


@pytest.mark.parametrize(
    "kinds, size, expected",
    [
        ("aaaaa", 2, [[0, 1], [2, 3], [4]]),
        ("aabbbaa", 2, [[0, 1], [2, 3], [4], [5, 6]]),
        ("abab", 4, [[0], [1], [2], [3]]),
        ("", 4, []),
    ],
)
def test_batches_in_order_end_where_the_kind_changes(kinds, size, expected):
    assert batches_in_order(kinds, size) == expected
