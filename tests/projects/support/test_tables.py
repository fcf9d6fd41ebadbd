"""Tables, raw values and pictures that a command leaves."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from meddlr_greedy.errors import UserError
from projects.cine.support.tables import check_page, publish_picture, publish_table, save_figure


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text("Before.\n<!-- a-study -->\nold\n<!-- /a-study -->\nAfter.\n")
    return path


def test_table_and_raw_values(page, tmp_path, capsys):
    result = {"rows": [1], "versions": {"torch": "2"}}
    publish_table("a_study", result, "| new |\n\ntorch 2.", tmp_path / "results", page)
    assert page.read_text() == "Before.\n<!-- a-study -->\n| new |\n\ntorch 2.\n<!-- /a-study -->\nAfter.\n"
    assert json.loads((tmp_path / "results" / "a_study.json").read_text()) == result
    printed = capsys.readouterr().out
    assert "| new |" in printed and "a_study.json" in printed


def test_without_a_page(tmp_path, capsys):
    publish_table("a_study", [1], "| new |", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_study.json"]
    assert "| new |" in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "", "<!-- a-study -->", "<!-- a-study --><!-- /a-study -->" * 2])
def test_a_page_without_its_marks_is_refused(tmp_path, text):
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    with pytest.raises(UserError, match="page.md: the marks <!-- a-study --> and <!-- /a-study --> are needed"):
        check_page(page, "a_study")
    with pytest.raises(UserError, match="page.md"):
        publish_table("a_study", [1], "| new |", tmp_path / "results", page)
    assert not (tmp_path / "results").exists()


def test_figure_makes_its_folder(tmp_path):
    save_figure(Figure(figsize=(1, 2), dpi=50), tmp_path / "new" / "figure.png")
    with Image.open(tmp_path / "new" / "figure.png") as picture:
        assert picture.format == "PNG" and picture.size == (50, 100)


def test_a_large_gif_is_published_smaller(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 80), dtype=np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40, loop=0)
    publish_picture(tmp_path / "a.gif", tmp_path / "same.gif")
    assert (tmp_path / "same.gif").read_bytes() == (tmp_path / "a.gif").read_bytes()
    publish_picture(tmp_path / "a.gif", tmp_path / "small.gif", max_bytes=5000)
    assert (tmp_path / "small.gif").stat().st_size <= 5000
    with Image.open(tmp_path / "small.gif") as gif:
        assert gif.n_frames == 3 and gif.info["duration"] == 40
