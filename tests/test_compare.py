"""Runs side by side: the statistics by their definitions, the pictures, and what can be wrong."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from meddlr.modeling import build_model
from PIL import Image
from scipy.stats import wilcoxon

from meddlr_greedy import compare, eval_net
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.data.scan_file import Geometry
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from meddlr_greedy.errors import UserError
from meddlr_greedy.evaluation.comparison import MIN_PAIRS, compare_runs, load_runs, paired_test
from meddlr_greedy.evaluation.report import DatasetReport
from meddlr_greedy.evaluation.run import write_results
from meddlr_greedy.evaluation.slices import IMAGES, KeptSlice
from meddlr_greedy.evaluation.tables import RESULTS_FOLDER

FRAMES = 3


def write_run(folder, gain, scans, seed=0, zero_filled_seed=0, slices=2, images=True, dataset="d"):
    """An evaluated run: scan i of subject i // 2; PSNR of the frames around 30 + gain."""
    rng, zero_filled_rng = np.random.default_rng(seed), np.random.default_rng(zero_filled_seed)
    rows = {"zero_filled": [], "reconstruction": []}
    for scan in scans:
        for method, mean, generator in (("zero_filled", 20, zero_filled_rng), ("reconstruction", 30 + gain, rng)):
            for s in range(slices):
                for t in range(FRAMES):
                    value = mean + generator.standard_normal()
                    rows[method] += [("psnr", scan, f"{scan}-{s}-{t}", value)]
                    rows[method] += [("ssim (Wang)", scan, f"{scan}-{s}-{t}", value / 40)]
                rows[method].append(("nrmse_xt", scan, f"{scan}-{s}", 1 / value if s else np.nan))
            rows[method].append(("psnr_scan", scan, scan, mean + 1))
    tables = {m: pd.DataFrame(r, columns=["metric", "scan", "image", "value"]) for m, r in rows.items()}
    shape = (12, 10, FRAMES, 1)
    kept = [
        KeptSlice(scan, 1, {name: np.full(shape, i + 1, np.complex64) for i, name in enumerate(IMAGES)}, Geometry())
        for scan in (scans[:2] if images else [])
    ]
    subjects = {scan: f"subject {i // 2}" for i, scan in enumerate(scans)}
    report = DatasetReport(dataset, "greedy", True, tables, kept, subjects)
    (folder / RESULTS_FOLDER).mkdir(parents=True)
    report.write(folder / RESULTS_FOLDER)
    write_results(folder / RESULTS_FOLDER / "results.json", {}, [report])
    return tables


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
    comparison = compare_runs(load_runs([tmp_path / "a", tmp_path / "b"]), "d", unit)
    rows = comparison.statistics.set_index(["metric", "method"])

    values = {}
    for run, table in tables.items():
        frames = table["reconstruction"].query("metric == 'psnr'")
        of_units = frames.groupby(UNIT_OF[unit](frames).to_numpy())["value"].mean()
        values[run] = of_units.sort_index().to_numpy()[:num]
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
    assert any("1 of the 8 scans of a" in note for note in comparison.notes) == (unit == "scan")


def test_a_difference_is_found_and_none_where_there_is_none():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20)
    assert paired_test(values + 0.5 + 0.1 * rng.standard_normal(20), values).p_value < 1e-4
    assert paired_test(values + 0.1 * rng.standard_normal(20), values).p_value > 0.01
    for pair, note in (((values, values), "only 0 pairs differ"), ((values[:5] + 1, values[:5]), "n = 5, too few")):
        test = paired_test(*pair)
        assert np.isnan(test.p_value) and note in test.note


def test_table_and_pictures_of_three_runs(tmp_path, capsys):
    scans = [f"scan-{i}" for i in range(2 * MIN_PAIRS)]  # two of each subject
    for i, name in enumerate("abc"):
        write_run(tmp_path / name, i, scans, seed=i, zero_filled_seed=i // 2)
    out = tmp_path / "out" / "deep"
    compare.main(
        [*(str(tmp_path / name) for name in "abc"), "--output", str(out), "--labels", "CS", "backprop", "mine"]
    )
    printed = capsys.readouterr().out
    for text in ("zero-filled", "CS", "mine - CS", "p (backprop)", "PSNR, image, complex", "NRMSE, heart, x-t profile"):
        assert text in printed, text
    assert "SSIM, heart" not in printed  # no run has it
    assert "zero-filled images of CS and mine differ" in printed
    assert "zero-filled images of CS and backprop" not in printed
    pictures = [f"d-{scan}-slice1.{suffix}" for scan in scans[:2] for suffix in ("gif", "png")]
    assert sorted(path.name for path in out.iterdir()) == ["comparison.csv", "comparison.md", *pictures]
    with Image.open(out / pictures[0]) as picture:
        assert picture.n_frames == FRAMES
        assert picture.size[0] > 5 * 200  # target, zero-filled and three runs
    table = pd.read_csv(out / "comparison.csv")
    assert set(table["method"]) == {"zero-filled", "CS", "backprop", "mine"}
    assert table.query("metric == 'psnr' and method == 'mine'")["p_value"].item() < 0.05
    assert set(table["unit"]) == {"subject"} and set(table["n"]) == {MIN_PAIRS}
    assert (out / "comparison.md").read_text().startswith("| d ")


def test_runs_without_images(tmp_path, capsys):
    write_run(tmp_path / "a", 0, SCANS)
    write_run(tmp_path / "b", 0, SCANS, images=False)
    compare.main([str(tmp_path / "a" / RESULTS_FOLDER), str(tmp_path / "b"), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "no pictures of d" in printed and "--num-figures" in printed
    assert "b - a" in printed  # the folder of the results stands for that of the run


@pytest.mark.parametrize("arch,data", [("CineUnrolledCNN", "beat"), ("GeneralizedUnrolledCNN", "flat")])
def test_two_networks_from_eval_net(write_config, tmp_path, capsys, arch, data):
    for name in "ab":
        config = str(write_config(arch, data=data, out=tmp_path / name))
        torch.manual_seed(ord(name))
        (tmp_path / name).mkdir()
        GreedyCheckpointer(build_model(load_config(config)), str(tmp_path / name)).save("model_best")
        eval_net.main(["--config-file", config, "--num-figures", "1"])
    capsys.readouterr()
    out = tmp_path / "out"
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(out), "--unit", "slice"])
    printed = capsys.readouterr().out
    assert "n = 4, too few" in printed
    assert "note: the zero-filled" not in printed
    results = json.loads((tmp_path / "b" / RESULTS_FOLDER / "results.json").read_text())["datasets"][f"{data}_test"]
    mean, csv = results["reconstruction"]["psnr"]["mean"], pd.read_csv(out / "comparison.csv")
    assert csv.query("metric == 'psnr' and method == 'b'")["mean"].item() == pytest.approx(mean)
    assert len(list(out.glob("*.png"))) == 1 and len(list(out.glob("*.gif"))) == (data == "beat")


def damage_results(folder):
    (folder / "results.json").write_text("{")


def of_an_earlier_version(folder):
    (folder / "results.json").write_text('{"datasets": {"d": {"figures": []}}}')


def without_table(folder):
    (folder / "d_slices.csv").unlink()


def without_images(folder):
    (folder / "d_images.h5").unlink()


def not_evaluated(folder):
    (folder / "results.json").unlink()


@pytest.mark.parametrize(
    "damage,words",
    [
        (damage_results, "results.json: damaged"),
        (of_an_earlier_version, "evaluate the run again"),
        (without_table, "d_slices.csv: cannot be read"),
        (without_images, "d_images.h5: no file of images"),
        (not_evaluated, "evaluate it first"),
    ],
)
def test_damaged_runs(tmp_path, capsys, damage, words):
    for name in "ab":
        write_run(tmp_path / name, 0, SCANS[:2])
    damage(tmp_path / "b" / RESULTS_FOLDER)
    expect_error(capsys, words, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")


def test_mistakes(tmp_path, capsys):
    write_run(tmp_path / "a", 0, SCANS[:2])
    write_run(tmp_path / "b" / "a", 0, SCANS[:2])
    write_run(tmp_path / "c", 0, ["other"])
    write_run(tmp_path / "d", 0, SCANS, dataset="e")
    (tmp_path / "file").touch()
    a, out = tmp_path / "a", ["--output", tmp_path / "out"]
    expect_error(capsys, "at least 2", a, *out)
    expect_error(capsys, "the name 'a' is taken", a, tmp_path / "b" / "a", *out)
    expect_error(capsys, "'target' is taken", a, tmp_path / "c", *out, "--labels", "target", "x")
    expect_error(capsys, "--labels: found 1", a, tmp_path / "c", *out, "--labels", "x")
    expect_error(capsys, "no scan and metric in common", a, tmp_path / "c", *out, "--unit", "scan")
    expect_error(capsys, "share no data set (a: d; d: e)", a, tmp_path / "d", *out)
    expect_error(capsys, "cannot be made", a, tmp_path / "b" / "a", "--labels", "x", "y", "--output", tmp_path / "file")
    assert not (tmp_path / "out").exists()


def expect_error(capsys, words, *argv):
    with pytest.raises(SystemExit) as end:
        compare.main([str(arg) for arg in argv])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2
    assert error.startswith("error: ") and words in error, error


def test_labels_in_order(tmp_path):
    for name in "ab":
        write_run(tmp_path / name, 0, SCANS[:1])
    runs = load_runs([tmp_path / "b", tmp_path / "a"])
    assert [run.label for run in runs] == ["b", "a"]
    with pytest.raises(UserError, match="found 1 run"):
        load_runs([tmp_path / "a"])
