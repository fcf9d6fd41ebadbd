"""What is shown while a command works."""

import io
import logging
import types

import pytest
from tqdm import tqdm

from meddlr_greedy.console import Followed, Progress, show_messages, without_bars


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_lines_come_at_once_and_then_every_thirty_seconds(capsys):
    clock = Clock()
    progress = Progress(240, "training", "iterations", clock=clock)
    assert capsys.readouterr().err == "training: 0 of 240 iterations\n"
    lines = []
    for second in range(1, 101):
        clock.now = float(second)
        progress.update(note=f"loss {1 / second:.3g}")
        lines += [(second, line) for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        (30, "training: 30 of 240 iterations in 00:30, about 03:30 left (loss 0.0333)"),
        (60, "training: 60 of 240 iterations in 01:00, about 03:00 left (loss 0.0167)"),
        (90, "training: 90 of 240 iterations in 01:30, about 02:30 left (loss 0.0111)"),
    ]
    progress.close()
    assert capsys.readouterr().err == "training: 100 of 240 iterations in 01:40, about 02:20 left (loss 0.01)\n"


def test_lines_of_a_day_are_few(capsys):
    clock = Clock()
    progress = Progress(24 * 3600, "training", "iterations", clock=clock)
    told = []
    for second in range(1, 24 * 3600 + 1):
        clock.now = float(second)
        progress.update()
        if capsys.readouterr().err:
            told.append(second)
    assert told[:6] == [1, *range(30, 151, 30)] and len(told) < 45
    assert sum(second <= 720 for second in told) <= 14  # a demo on a slow machine fits on a screen or two
    assert all(30 <= after - before <= 0.21 * after + 1 for before, after in zip(told[6:], told[7:]))


def test_what_was_done_before_counts_for_no_time(capsys):
    clock = Clock()
    progress = Progress(100, "training", "iterations", done=60, clock=clock)
    clock.now = 40.0
    progress.update(20)
    progress.update(20)
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "training: 60 of 100 iterations",
        "training: 80 of 100 iterations in 00:40, about 00:40 left",
        "training: 100 of 100 iterations in 00:40",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = Progress(3, "training", "iterations", done=1)
    assert "training:  33%" in terminal.getvalue() and "1/3" in terminal.getvalue()
    progress.update(note="loss 0.5")
    progress.close()
    last = terminal.getvalue().splitlines()[-1].split("\r")[-1]
    assert "2/3 [" in last and "<" in last and "loss 0.5" in last  # with the time that is left
    assert terminal.getvalue().count("\n") == 1


def test_what_is_gone_through_is_followed(capsys):
    parts = Followed([1, 2, 3], "phantom_test", "batches")
    assert len(parts) == 3 and list(parts) == [1, 2, 3]
    assert capsys.readouterr().err.splitlines()[0] == "phantom_test: 0 of 3 batches"


def test_what_is_hidden_says_nothing(capsys):
    clock = Clock()
    with Progress(3, "opening", "scans", shown=False, clock=clock) as progress:
        clock.now = 100.0
        progress.update()
    assert progress.done == 1 and capsys.readouterr() == ("", "")


def test_bars_of_others_are_hidden(capsys):
    module = types.SimpleNamespace(tqdm=tqdm)
    with without_bars(module):
        assert list(module.tqdm([1, 2], desc="Slice metric", disable=False)) == [1, 2]
    assert module.tqdm is tqdm and capsys.readouterr() == ("", "")


def test_a_failure_ends_the_progress(capsys):
    with pytest.raises(ZeroDivisionError):
        for part in Followed([1, 0], "parts", "parts"):
            1 / part
    assert capsys.readouterr().err.splitlines()[-1].startswith("parts: 1 of 2 parts in")


@pytest.fixture
def logger():
    logger = logging.getLogger("shown")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.handlers.clear()


def test_messages_are_shown_once(logger, capsys):
    for _ in range(2):  # as two commands in one process do
        show_messages(["shown"], logging.INFO)
    for _ in range(3):
        logger.info("%d scans", 5)
        logger.debug("detail")
    logging.getLogger("shown.part").warning("of %s", "meddlr")
    assert capsys.readouterr().out == "5 scans\nwarning: of meddlr\n"
    show_messages(["shown"], logging.WARNING)
    logger.info("6 scans")
    logger.warning("7 scans")
    assert capsys.readouterr().out == "warning: 7 scans\n"


def test_messages_stand_above_a_bar(logger, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", terminal)
    show_messages(["shown"], logging.INFO)
    progress = Progress(3, "training", "iterations")
    logger.info("best so far")
    progress.close()
    assert "best so far" in [line.split("\r")[-1] for line in terminal.getvalue().splitlines()]


def test_a_reader_that_is_gone_ends_nothing(logger, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    show_messages(["shown"], logging.INFO)
    logger.info("nobody hears this")
