"""Tables of slices and subjects, and the printed one."""

import numpy as np
import pandas as pd
import pytest

from meddlr_greedy.evaluation.tables import ALL_SUBJECTS, printed_table, slice_table, subject_table

SCORES = [("a", 0, 0, 1.0), ("a", 0, 1, 3.0), ("b", 3, 0, 5.0), ("b", 3, 1, 7.0), ("c-1", 0, 0, 10.0)]


def test_tables_of_slices_and_subjects():
    """Subject x has two scans, y one; a metric of scans, one of frames that is undefined once."""
    rows = [
        *[("psnr", scan, f"{scan}-{s}-{t}", v) for scan, s, t, v in SCORES],
        *[("psnr_scan", scan, scan, v) for scan, v in (("a", 5.0), ("b", 7.0), ("c-1", 9.0))],
        *[("nrmse_xt", "a", "a-0", 0.5), ("nrmse_xt", "b", "b-3", np.nan), ("nrmse_xt", "c-1", "c-1-0", 0.1)],
    ]
    table = pd.DataFrame(rows, columns=["metric", "scan", "image", "value"])
    subjects = {"a": "x", "b": "x", "c-1": "y"}
    tables = {"zero_filled": table, "reconstruction": table}
    slices = slice_table(tables, subjects).set_index(["method", "metric", "scan", "slice"])
    assert slices.loc[("reconstruction", "psnr", "a", "0"), ["mean", "std", "count"]].tolist() == [2, np.sqrt(2), 2]
    assert slices.loc[("zero_filled", "psnr", "c-1", "0"), "mean"] == 10
    assert slices.loc[("zero_filled", "psnr_scan", "b", ""), "subject"] == "x"
    assert slices.loc[("zero_filled", "nrmse_xt", "b", "3"), "count"] == 0

    per_subject = subject_table(tables, subjects).set_index(["method", "metric", "subject"])
    assert per_subject.loc[("reconstruction", "psnr", "x"), ["mean", "count"]].tolist() == [4, 4]
    assert per_subject.loc[("reconstruction", "psnr", "x"), "std"] == pytest.approx(np.std([1, 3, 5, 7], ddof=1))
    assert per_subject.loc[("reconstruction", "psnr_scan", "x"), "mean"] == 6
    total = per_subject.loc[("reconstruction", "psnr", ALL_SUBJECTS)]
    assert total.tolist() == [pytest.approx(7), pytest.approx(np.std([4, 10], ddof=1)), 2]
    assert per_subject.loc[("zero_filled", "nrmse_xt", "x"), ["mean", "count"]].tolist() == [0.5, 1]


def test_table_without_spread_where_there_is_one_value():
    images = {"a-0-0": ("", 20.0), "a-0-1": ("", 30.0), "a": ("_scan", 24.0)}
    metrics = ("psnr", "ssim (Wang)", "nrmse")
    values = [(m + suffix, "a", image, value) for m in metrics for image, (suffix, value) in images.items()]
    table = pd.DataFrame(values, columns=["metric", "scan", "image", "value"])
    tables = {"zero_filled": table, "reconstruction": table}
    text = printed_table(tables, "x", "greedy", is_cine=True)
    row = next(line for line in text.splitlines() if line.startswith("greedy")).split()
    assert "Cells: mean (standard deviation) over 2 frames; per scan: over 1 scan. " in text
    assert row == ["greedy", "25.00", "(7.07)", "24.00", *["25.0000", "(7.0711)", "24.0000"] * 2]
