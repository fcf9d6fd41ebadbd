"""The file of a report: what is in it, how large it is, and that it is whole; without a browser."""

import base64
import re
import zlib

import numpy as np
import pytest

from meddlr_greedy.viewer import page as page_module
from meddlr_greedy.viewer.frames import packed
from meddlr_greedy.viewer.page import LARGEST, Page, Row
from tests.helpers.viewer_pages import PSNR, SSIM, TOP, data_of, levels_of, movies, page_of, score_rows, shown

HOSTILE = "</script><script>window.ran = 1</script><!-- ' \" & $policy ${data} \u2028 \udcff \x00"


def unpacked(text, shape):
    """(T, H, W), by numpy's sums."""
    bytes_ = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.cumsum(bytes_.reshape(shape), axis=0, dtype=np.uint8)


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_frames_come_back(num_frames):
    series = movies(num_frames=num_frames)["greedy"] * 2  # a part is brighter than the top
    assert (series > TOP).any()
    found = unpacked(packed(series, TOP), (num_frames, *series.shape[:2]))
    np.testing.assert_array_equal(found, np.moveaxis(levels_of(series), -1, 0))


def test_three_methods_and_four_slices_have_less_than_30_mb(tmp_path):
    """Of noise, which nothing compresses, and with the target and the zero-filled image beside the methods."""
    rng = np.random.default_rng(0)
    noise = rng.random((192, 160, 30), dtype=np.float32)
    names = ("target", "zero-filled", "a", "b", "c")
    slices = [{name: np.roll(noise, rng.integers(1000)) for name in names} for _ in range(4)]
    page = page_of(*(shown(images, slice_id=i) for i, images in enumerate(slices)))
    page.write(tmp_path / "report.html")
    assert 15e6 < (tmp_path / "report.html").stat().st_size < 30e6


def test_hostile_names_end_no_element(tmp_path):
    images = {f"{HOSTILE}{name}": image for name, image in movies().items()}
    slice_ = shown(images, scan=HOSTILE, dataset=HOSTILE, target=f"{HOSTILE}target")
    page = page_of(slice_, rows=score_rows({HOSTILE: 3.0}), about=[HOSTILE], selection=[HOSTILE])
    page.title, page.notes = HOSTILE, [HOSTILE]
    page.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.isascii() and "window.ran" in text and "<script>window" not in text and "<!--" not in text
    assert text.count("</script>") == 2 + len(images) and "sha256-" in text
    assert data_of(tmp_path / "report.html")["slices"][0]["target"] == 0


def test_nothing_outside_is_named(tmp_path):
    page_of(shown(movies())).write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in text and "unsafe" not in text
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(", text)


def test_table(tmp_path):
    rows = [
        Row("d", "(all)", "a", {PSNR: 30.0, SSIM: np.nan}, {PSNR: "(1.00)"}, is_summary=True),
        Row("d", "s1", "a", {SSIM: 0.5, PSNR: np.inf}),
    ]
    page_of(rows=rows).write(tmp_path / "report.html")
    metrics = data_of(tmp_path / "report.html")["metrics"]
    assert [column["label"] for column in metrics["columns"]] == ["PSNR", "SSIM"]
    assert [row["means"] for row in metrics["rows"]] == [[30.0, None], [None, 0.5]]
    assert [row["spreads"] for row in metrics["rows"]] == [["(1.00)", ""], []]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_cannot_be_shown_is_refused(bad):
    images = movies()
    images["greedy"][3, 3, 1] = bad
    with pytest.raises(ValueError, match="greedy: NaN or infinity"):
        page_of(shown(images))
    images["greedy"] = images["target"][1:]
    with pytest.raises(ValueError, match="one shape"):
        page_of(shown(images))


def test_room_is_bounded(tmp_path):
    page = page_of(shown(movies()))
    size = 3 * 40 * 30 * 6
    assert page.has_room_for(LARGEST - size) and not page.has_room_for(LARGEST - size + 1)
    page.left_out = 3
    page.write(tmp_path / "report.html")
    told = "1 of 4 slices have room in this page (48 MB of images)."
    assert data_of(tmp_path / "report.html")["selection"] == told


def test_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("earlier")
    page = page_of(shown(movies()))

    class Failing(str):
        def __format__(self, spec):
            raise OSError("no room")

    page._blocks[1] = Failing()  # in the middle of the file
    with pytest.raises(OSError):
        page.write(path)
    assert path.read_text() == "earlier" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_same_content_gives_the_same_file(tmp_path):
    for name in "ab":
        page_of(shown(movies())).write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_parts_belong_to_the_package():
    for name in ("page.html", "page.css", "table.js", "viewer.js"):
        assert page_module._part(name).isascii()
    assert Page("x").rows == []
