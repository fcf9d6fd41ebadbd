"""What an evaluation puts into its report: slices, scores and values, named as in the printed tables."""

import numpy as np
import pandas as pd
import pytest

from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.evaluation.heart import heart_region
from meddlr_greedy.evaluation.metrics.definitions import default_cine_metrics
from meddlr_greedy.evaluation.report_page import add_row, add_slice, all_of, legend, printed, report_or_note
from meddlr_greedy.evaluation.tables import column_of
from meddlr_greedy.viewer.page import Metric, Page
from tests.helpers.evaluation import beating_disc


def recons(scale=1.0):
    target = np.stack([beating_disc(), 0.5 * beating_disc()], axis=-1).astype(np.complex64) * 1j
    return {"zero-filled": 0.5 * scale * target, "greedy": scale * target}, target


def test_a_slice(monkeypatch):
    images, target = recons()
    added = []
    monkeypatch.setattr(Page, "add", lambda self, shown: added.append(shown))
    page, geometry = Page("x"), Geometry((1.5, 2.0), 40.0)
    add_slice(
        page, ("d", "s", 3), images, target, geometry, {"greedy": {"PSNR, complex": 31.234, "SSIM, magnitude": 0.9}}
    )
    shown = added[0]
    assert list(shown.images) == ["target", "zero-filled", "greedy"]
    expected = np.sqrt((np.abs(target) ** 2).sum(-1))
    np.testing.assert_allclose(shown.images["target"], expected, rtol=1e-6)
    assert shown.white == pytest.approx(np.percentile(expected, 99.5))
    assert shown.scores == {"greedy": {"PSNR, complex": "31.23 dB", "SSIM, magnitude": "0.900"}}
    assert shown.line == heart_region(expected).line and shown.target == "target"
    assert (shown.pixel_spacing_mm, shown.frame_time_ms) == geometry


def test_images_without_target_and_of_2d():
    images, _ = recons()
    page = Page("x")
    add_slice(page, ("", "s", 0), {name: image[:, :, 0] for name, image in images.items()}, None, Geometry())
    assert page._slices[0]["target"] is None and page._slices[0]["shape"] == [40, 30, 1]


def test_pixels_that_are_not_finite_are_told():
    images, target = recons()
    images["greedy"][3, 4, 1] = np.nan
    page = Page("x")
    add_slice(page, ("d", "s", 3), images, target, Geometry())
    assert page.notes == ["In greedy of s, slice 3, NaN and infinity are shown black (1 pixel)."]


def test_what_has_no_room_is_counted(monkeypatch, tmp_path):
    images, target = recons()
    page, path = Page("x"), tmp_path / "report.html"
    monkeypatch.setattr("meddlr_greedy.viewer.page.LARGEST", 3 * target[..., 0].size)
    for number in range(3):
        add_slice(page, ("d", "s", number), images, target, Geometry())
    assert page.left_out == 2 and len(page._slices) == 1
    assert printed(page, path) == ""
    page.write(path)
    assert printed(page, path).splitlines() == [
        f"report: {path}",
        "note: 2 slices had no room in the report.",
    ]


def test_a_report_never_costs_the_results(tmp_path, capsys, monkeypatch):
    images, target = recons()
    page, path = Page("x"), tmp_path / "report.html"
    add_slice(page, ("d", "s", 3), {"greedy": images["greedy"][1:]}, target, Geometry())
    assert "no images of s, slice 3 (ValueError: the images must have one shape" in capsys.readouterr().out
    path.write_text("of an earlier evaluation")
    with report_or_note(path):
        raise ZeroDivisionError
    assert f"note: {path}: no report (ZeroDivisionError" in capsys.readouterr().out
    assert not path.exists()
    with pytest.raises(OSError), report_or_note(path):
        raise OSError("a full disk")


def test_columns_are_named_as_in_the_printed_tables():
    assert column_of("psnr") == ("complex", "PSNR")
    assert column_of("ssim (Wang)_scan") == ("magnitude, per scan", "SSIM")
    assert column_of("nrmse_xt") == ("heart, x-t profile", "NRMSE")
    assert column_of("psnr/channel_1") == ("complex", "PSNR, channel_1")
    assert column_of("mae_phase") == ("other", "mae_phase")
    columns = [column_of(name) for name in default_cine_metrics()]
    assert len(set(columns)) == len(columns) and "other" not in dict(columns)


def test_metrics_stand_in_the_order_of_the_printed_tables():
    page = Page("x")
    add_row(page, "d", "s", "a", pd.Series(1.0, index=["mae", "psnr_scan", "nrmse_xt", "nrmse", "psnr_mag", "psnr"]))
    assert [(metric.group, metric.label) for metric in page.rows[0].means] == [
        ("complex", "PSNR"),
        ("complex", "NRMSE"),
        ("magnitude", "PSNR"),
        ("heart, x-t profile", "NRMSE"),
        ("other", "mae"),
        ("complex, per scan", "PSNR"),
    ]


def test_rows():
    page = Page("x")
    means = pd.Series({"psnr": 31.0, "nrmse": np.nan})
    add_row(page, "d", "(all)", "greedy", means, pd.Series({"psnr": 1.234, "nrmse": np.nan}))
    add_row(page, "d", "(all)", "cs", means, means * 0, pd.Series({"psnr": "p = 0.03", "nrmse": ""}))
    add_row(page, "d", "s", "greedy", means)
    psnr, nrmse = Metric("complex", "PSNR", 2), Metric("complex", "NRMSE", 4)
    assert [row.is_summary for row in page.rows] == [True, True, False]
    assert page.rows[0].spreads == {psnr: "(1.23)", nrmse: ""}
    assert page.rows[1].spreads[psnr] == "(0.00) p = 0.03"
    assert page.rows[2].means[psnr] == 31.0 and page.rows[2].spreads == {}


@pytest.mark.parametrize("number, name", [(1, "(1 scan)"), (2, "(all 2 scans)")])
def test_what_the_brackets_are_over(number, name):
    assert all_of(number, "scan") == name
    assert "First rows: mean (standard deviation) over all scans, each of which counts once." in legend("scan")
