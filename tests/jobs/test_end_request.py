"""The request to end a run, in one process and in a job."""

import os
import signal

import pytest

from meddlr_greedy.jobs.end_request import EndRequest, JobEndRequest


class Store(dict):
    """A key-value store of one process."""

    read, write = dict.get, dict.__setitem__


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_recorded_inside_the_block_alone(number):
    before = signal.getsignal(number)
    request = EndRequest()
    with request.listening():
        assert not request and request.signal == 0
        os.kill(os.getpid(), number)
        assert request and request.signal == number
    assert signal.getsignal(number) is before


def test_the_first_signal_counts():
    request = EndRequest()
    request.arrived(signal.SIGUSR1)
    request.arrived(signal.SIGTERM)
    assert request.signal == signal.SIGUSR1


@pytest.mark.parametrize("first_to_exchange", [0, 1])
def test_a_signal_in_one_process_reaches_the_others_but_the_first_decides(first_to_exchange):
    store, requests = Store(), [JobEndRequest(), JobEndRequest()]
    requests[1].arrived(signal.SIGTERM)
    for i in (first_to_exchange, 1, 0):
        requests[i].exchange(store)
    assert [request.pending for request in requests] == [signal.SIGTERM] * 2
    assert not any(requests)
    for request in requests:
        request.decide(requests[0].pending)
    assert [request.signal for request in requests] == [signal.SIGTERM] * 2
