"""Batches on their way to a GPU, which is made up here: what waits for what, and how far ahead a loader is read."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from meddlr_greedy.engine import ahead
from meddlr_greedy.engine.ahead import CopiedAhead


class Copied(torch.Tensor):
    """A tensor that has come to the device."""

    def record_stream(self, stream):
        Copied.log.append(("used by", stream, int(self)))


@pytest.fixture
def log(monkeypatch):
    """What happens, in order; the streams are "copying" and "computing"."""
    log, now = [], ["computing"]
    Copied.log = log

    class Event:
        def record(self, stream):
            log.append(("arrives on", stream))

    @contextlib.contextmanager
    def on(stream):
        now.append(stream)
        yield
        now.pop()

    def copy(batch, device):
        log.append(("copies on", now[-1], int(batch["n"])))
        return {**batch, "n": batch["n"].as_subclass(Copied)}

    computing = SimpleNamespace(wait_event=lambda event: log.append(("waits", type(event).__name__)))
    monkeypatch.setattr(ahead, "to_device", copy)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "copying")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    return log


def batches(log, num):
    for n in range(num):
        log.append(("reads", n))
        yield {"n": torch.tensor(n), "metadata": [{"slice_id": n}]}


def test_the_next_batch_is_copied_before_this_one_is_used(log):
    copied = CopiedAhead(batches(log, 3), torch.device("cuda"), count=10)
    assert log == []
    first = next(copied)
    assert int(first["n"]) == 0 and first["metadata"] == [{"slice_id": 0}]
    kinds = [entry[0] for entry in log]
    one = ["reads", "copies on", "arrives on"]
    assert kinds == [*one, "waits", "used by", *one]
    assert {entry[1] for entry in log if entry[0] in ("copies on", "arrives on")} == {"copying"}
    assert [int(batch["n"]) for batch in copied] == [1, 2]
    assert [entry[1] for entry in log if entry[0] == "reads"] == [0, 1, 2]
    assert next(copied, None) is None


@pytest.mark.parametrize(("num", "count", "read"), [(5, 3, 3), (2, 3, 2), (4, 0, 0), (0, 3, 0)])
def test_no_batch_is_read_that_is_not_trained_on(log, num, count, read):
    copied = CopiedAhead(batches(log, num), torch.device("cuda"), count)
    assert [int(batch["n"]) for batch in copied] == list(range(read))
    assert len([entry for entry in log if entry[0] == "reads"]) == read
