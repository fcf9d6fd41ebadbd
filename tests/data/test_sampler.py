"""Which examples are in which batch."""

import itertools

import pytest

from meddlr_greedy.data.sampler import ResumableBatchSampler


@pytest.mark.parametrize("drop_last, sizes", [(True, [4, 4]), (False, [4, 4, 2])])
def test_sampler_goes_through_all_examples_and_resumes(drop_last, sizes):
    sampler = ResumableBatchSampler(10, 4, drop_last, seed=1)
    batches = list(itertools.islice(sampler, 9))
    assert [len(batch) for batch in batches[: len(sizes)]] == sizes
    for epoch in range(2):
        keys = sum(batches[epoch * len(sizes) : (epoch + 1) * len(sizes)], [])
        assert len(set(keys)) == sum(sizes) and {key[0] for key in keys} == {epoch}
    assert [key[1] for key in batches[0]] != [key[1] for key in batches[len(sizes)]]
    for start in range(7):
        sampler.start_iter = start
        assert list(itertools.islice(sampler, 2)) == batches[start : start + 2]
    assert next(iter(ResumableBatchSampler(10, 4, drop_last, seed=2))) != batches[0]
