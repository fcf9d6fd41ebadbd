"""What readers share: names as text."""

from meddlr_greedy.readers.raw_scan import plain_text


def test_names_that_are_not_utf8_are_written_as_text():
    assert plain_text("P\udcff\n1 ö") == "P%FF%0A1 ö"
