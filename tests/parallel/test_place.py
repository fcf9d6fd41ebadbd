"""Where a process stands among replicas and stages."""

import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.parallel.place import Place


def test_ranks_of_a_chain_are_consecutive():
    places = [Place.of(rank, 6, num_replicas=2) for rank in range(6)]
    assert [(place.replica, place.stage) for place in places] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert [place.rank for place in places if place.is_first] == [0, 3]
    assert [place.rank for place in places if place.is_last] == [2, 5]
    assert all(place.num_processes == 6 for place in places)


def test_replicas_must_divide_the_processes():
    with pytest.raises(UserError, match="MISC.GREEDY.*REPLICAS: found 2, but 3 processes.*divisors of 3"):
        Place.of(0, 3, num_replicas=2)
