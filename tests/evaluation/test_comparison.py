"""The statistics of runs side by side, by their definitions."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation import comparison
from meddlr_greedy.evaluation.comparison import MIN_PAIRS, compare_runs, paired_test
from meddlr_greedy.evaluation.evaluated_run import load_runs
from meddlr_greedy.evaluation.report import RESULTS_FILE, RESULTS_FOLDER
from meddlr_greedy.files import UniqueNames
from meddlr_greedy.viewer.page import Metric, Page
from tests.helpers.evaluation import write_run

SCANS = [f"scan-{i}" for i in range(8)]

# unit -> its name, from scan and image id of a frame
UNIT_OF = {
    "slice": lambda frames: frames["image"].str.rsplit("-", n=1).str[0],
    "scan": lambda frames: frames["scan"],
    "subject": lambda frames: frames["scan"].map(lambda scan: int(scan[-1]) // 2),
}


@pytest.mark.parametrize("unit,num", [("scan", 7), ("slice", 14), ("subject", 4)])
def test_statistics_over_what_runs_share(tmp_path, unit, num):
    tables = {"a": write_run(tmp_path / "a", 0.0, SCANS), "b": write_run(tmp_path / "b", 1.0, SCANS[:7], seed=1)}
    compared = compare_runs(load_runs([tmp_path / "a", tmp_path / "b"]), "d", unit)
    rows = compared.statistics.set_index(["metric", "method"])

    values = {}
    for run, table in tables.items():
        frames = table["reconstruction"].query("metric == 'psnr'")
        unit_means = frames.groupby(UNIT_OF[unit](frames).to_numpy())["value"].mean()
        values[run] = unit_means.sort_index().to_numpy()[:num]
        row = rows.loc[("psnr", run)]
        assert row["n"] == num == len(values[run])
        assert row["mean"] == pytest.approx(values[run].mean())
        assert row["std"] == pytest.approx(values[run].std(ddof=1))
    row = rows.loc[("psnr", "b")]
    assert row["difference"] == pytest.approx((values["b"] - values["a"]).mean())
    if num < MIN_PAIRS:
        assert np.isnan(row["p_value"]) and "n = 4, too few" in row["note"]
    else:
        assert row["p_value"] == pytest.approx(wilcoxon(values["b"], values["a"]).pvalue)
    assert np.isnan(rows.loc[("psnr", "a"), "p_value"])
    assert ("psnr_scan", "a") in rows.index or unit == "slice"
    assert rows.loc[("nrmse_xt", "a"), "n"] == {"slice": 7}.get(unit, num)  # one slice of two has no heart
    assert any("1 of the 8 scans of a" in note for note in compared.notes) == (unit == "scan")


def test_a_difference_is_found_and_none_where_there_is_none():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20)
    assert paired_test(values + 0.5 + 0.1 * rng.standard_normal(20), values).p_value < 1e-4
    assert paired_test(values + 0.1 * rng.standard_normal(20), values).p_value > 0.01
    for pair, note in (((values, values), "0 pairs differ"), ((values[:5] + 1, values[:5]), "n = 5, too few")):
        test = paired_test(*pair)
        assert np.isnan(test.p_value) and note in test.note


def test_labels_in_order(tmp_path):
    for name in "ab":
        write_run(tmp_path / name, 0, SCANS[:1])
    runs = load_runs([tmp_path / "b", tmp_path / "a"])
    assert [run.label for run in runs] == ["b", "a"]
    with pytest.raises(UserError, match="found 1 run"):
        load_runs([tmp_path / "a"])


def test_data_sets_that_share_a_page(tmp_path):
    """What p is stays on the page, where the last data set has none; of two samplings each run has its own."""
    for name, seed in (("a", 0), ("b", 1)):
        write_run(tmp_path / name, 0.0, SCANS, seed=seed)
        results = tmp_path / name / RESULTS_FOLDER / RESULTS_FILE
        content = json.loads(results.read_text())
        content["datasets"]["d"]["sampled"] = f"By the mask of {name}."
        results.write_text(json.dumps(content))
    runs = load_runs([tmp_path / "a", tmp_path / "b"])
    page = Page("x")
    for unit in ("scan", "subject"):  # eight, and four, which are too few
        compare_runs(runs, "d", unit).show_values(page)
    assert "p: two-sided Wilcoxon signed-rank test against a." in page.legend
    assert page.about[:2] == ["d, a: By the mask of a.", "d, b: By the mask of b."]


def test_a_picture_tells_the_scores_of_its_slice(tmp_path, monkeypatch):
    tables = {name: write_run(tmp_path / name, 0, SCANS[:1], seed=ord(name)) for name in "ab"}  # it keeps slice 1
    drawn, page = [], Page("x")
    monkeypatch.setattr(comparison, "draw_slice", lambda recons, kept, dataset, scores, *_: drawn.append(scores) or [])
    compare_runs(load_runs([tmp_path / name for name in "ab"]), "d").draw(tmp_path, UniqueNames(), page)
    methods = [("zero-filled", "a", "zero_filled"), *((name, name, "reconstruction") for name in "ab")]
    for label, run, method in methods:
        frames = tables[run][method][tables[run][method]["image"].str.fullmatch(f"{SCANS[0]}-1-\\d+")]
        means = frames.groupby("metric")["value"].mean()
        assert drawn[0][label] == pytest.approx(
            {"PSNR, complex": means["psnr"], "SSIM, magnitude": means["ssim (Wang)"]}
        )
    assert len(drawn) == 1
    (slice_,) = page._slices
    assert [image["name"] for image in slice_["images"]] == ["target", "zero-filled", "a", "b"]
    assert slice_["images"][3]["scores"][0] == ["PSNR, complex", f"{drawn[0]['b']['PSNR, complex']:.2f} dB"]


@pytest.mark.parametrize(
    "unit, names, over_all",
    [
        ("subject", ["subject 0"], "(1 subject)"),
        ("slice", [f"{SCANS[0]}, slice {i}" for i in "01"], "(all 2 slices)"),
    ],
)
def test_a_report_holds_the_values(tmp_path, unit, names, over_all):
    for name in "ab":
        write_run(tmp_path / name, 0, SCANS[:1], seed=ord(name))
    compared = compare_runs(load_runs([tmp_path / name for name in "ab"]), "d", unit)
    page = Page("x")
    compared.show_values(page)
    psnr = Metric("complex", "PSNR", 2)
    rows = {(row.unit, row.method): row.means.get(psnr) for row in page.rows}
    for method in ("zero-filled", "a", "b"):
        of_units = [rows[name, method] for name in names]
        row = compared.statistics.query("metric == 'psnr' and method == @method")
        assert rows[over_all, method] == pytest.approx(row["mean"].item()) == pytest.approx(np.mean(of_units))
    assert len(rows) == 3 * (1 + len(names)) and page.unit == unit


def test_runs_on_data_of_two_kinds(tmp_path):
    for name in "ab":
        write_run(tmp_path / name, 0, SCANS[:1])
    results = tmp_path / "b" / RESULTS_FOLDER / RESULTS_FILE
    results.write_text(results.read_text().replace('"is_cine": true', '"is_cine": false'))
    with pytest.raises(UserError, match="d: cine in one run and 2D in another, allowed runs on the same data"):
        compare_runs(load_runs([tmp_path / name for name in "ab"]), "d")


def test_a_metric_that_is_not_defined_everywhere(tmp_path):
    for name in "ab":
        write_run(tmp_path / name, 0, SCANS, seed=ord(name))
    path = tmp_path / "b" / RESULTS_FOLDER / "d_slices.csv"
    table = pd.read_csv(path)
    table.loc[(table["metric"] == "psnr") & (table["scan"] == SCANS[2]), "mean"] = np.inf
    table.to_csv(path, index=False)
    compared = compare_runs(load_runs([tmp_path / "a", tmp_path / "b"]), "d", "scan")
    rows = compared.statistics.set_index(["metric", "method"])
    assert rows.loc[("psnr", "b"), "n"] == len(SCANS) - 1 and np.isfinite(rows.loc[("psnr", "b"), "mean"])
    assert "The means of b leave out what is not defined, psnr of 1 of 8 scans." in compared.notes
