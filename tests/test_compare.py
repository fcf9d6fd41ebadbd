"""The command compare: its files, its printed table, and what it says of mistakes."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from meddlr.modeling import build_model
from PIL import Image

from meddlr_greedy import compare, eval_net
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from meddlr_greedy.evaluation.comparison import MIN_PAIRS
from meddlr_greedy.evaluation.report import RESULTS_FOLDER
from tests.helpers.evaluation import FRAMES, write_run
from tests.helpers.viewer_pages import data_of

SCANS = [f"scan-{i}" for i in range(8)]


def test_table_and_pictures_of_three_runs(tmp_path, capsys):
    scans = [f"scan-{i}" for i in range(2 * MIN_PAIRS)]  # two of each subject
    for i, name in enumerate("abc"):
        write_run(tmp_path / name, i, scans, seed=i, zero_filled_seed=i // 2)
    out = tmp_path / "out" / "deep"
    compare.main(
        [*(str(tmp_path / name) for name in "abc"), "--output", str(out), "--labels", "CS", "backprop", "mine"]
    )
    printed = capsys.readouterr().out
    for text in ("zero-filled", "CS", "mine - CS", "p (backprop)", "PSNR, complex", "NRMSE, heart, x-t profile"):
        assert text in printed, text
    assert "SSIM, heart" not in printed  # no run has it
    assert "zero-filled images of CS and mine differ" in printed
    assert "zero-filled images of CS and backprop" not in printed
    pictures = [f"d-{scan}-slice1.{suffix}" for scan in scans[:2] for suffix in ("gif", "png")]
    assert sorted(path.name for path in out.iterdir()) == ["comparison.csv", "comparison.md", *pictures, "report.html"]
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
    network = f"{arch} trained greedily in 2 modules, weights model_best.pth"
    capsys.readouterr()
    out = tmp_path / "out"
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(out), "--unit", "slice"])
    printed = capsys.readouterr().out
    assert printed.count("note: There is no p-value (paired test) where n = 4, too few (at least 6).") == 1
    assert "p (b)" not in printed and "p: two-sided" not in printed
    report = data_of(out / "report.html")
    assert report["about"][:2] == [f"{run}: {network}" for run in "ab"]
    assert report["about"][2].startswith(f"{data}_test: K-space is undersampled") and len(report["about"]) == 3
    assert report["selection"] == f"1 of 4 slices of {data}_test are shown, which all runs kept; the table has all."
    assert all(note.endswith(".") for note in report["notes"])
    named = [line.partition("  ")[0] for line in printed.splitlines()]
    assert "PSNR, complex" in named and "SSIM, magnitude" in named  # as in the table of eval
    assert "note: the zero-filled" not in printed
    results = json.loads((tmp_path / "b" / RESULTS_FOLDER / "results.json").read_text())["datasets"][f"{data}_test"]
    mean, csv = results["reconstruction"]["psnr"]["mean"], pd.read_csv(out / "comparison.csv")
    assert csv.query("metric == 'psnr' and method == 'b'")["mean"].item() == pytest.approx(mean)
    assert len(list(out.glob("*.png"))) == 1 and len(list(out.glob("*.gif"))) == (data == "beat")


def test_a_single_subject_has_no_spread(tmp_path, capsys):
    for name in "ab":
        write_run(tmp_path / name, 0, SCANS[:1])
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    row = next(line.split() for line in printed.splitlines() if line.startswith("PSNR, complex"))
    assert len(row) == 7 and row[2] == "1" and "nan" not in printed


def damage_results(folder):
    (folder / "results.json").write_text("{")


def write_earlier_version(folder):
    (folder / "results.json").write_text('{"datasets": {"d": {"figures": []}}}')


def remove_table(folder):
    (folder / "d_slices.csv").unlink()


def remove_images(folder):
    (folder / "d_images.h5").unlink()


def remove_results(folder):
    (folder / "results.json").unlink()


@pytest.mark.parametrize(
    "damage,words",
    [
        (damage_results, "results.json: truncated, damaged"),
        (write_earlier_version, "evaluate the run again"),
        (remove_table, "d_slices.csv: no such file"),
        (remove_images, "d_images.h5: no such file"),
        (remove_results, "evaluate it first"),
    ],
)
def test_damaged_runs(tmp_path, capsys, damage, words):
    for name in "ab":
        write_run(tmp_path / name, 0, SCANS[:2])
    damage(tmp_path / "b" / RESULTS_FOLDER)
    expect_error(capsys, words, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")


def edit_json(edit):
    def damage(folder):
        content = json.loads((folder / "results.json").read_text())
        edit(content)
        (folder / "results.json").write_text(json.dumps(content))

    return damage


def edit_table(edit):
    def damage(folder):
        table = pd.read_csv(folder / "d_slices.csv").astype({"mean": object})
        edit(table).to_csv(folder / "d_slices.csv", index=False)

    return damage


def write_bytes(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def edit_images(edit):
    def damage(folder):
        with h5py.File(folder / "d_images.h5", "a") as file:
            group = file["scan-0/1"]
            edit(group)

    return damage


def replace_image(value, **options):
    def edit(group):
        del group["target"]
        group.create_dataset("target", data=value, **options)

    return edit


def with_mean(value):
    def edit(table):
        table.loc[3, "mean"] = value
        return table

    return edit


DAMAGED = {
    "not an object": (write_bytes("results.json", b"[1, 2]"), "results.json: truncated, damaged"),
    "nested without end": (write_bytes("results.json", b"[" * 100_000), "results.json: truncated, damaged"),
    "not UTF-8": (write_bytes("results.json", b'{"datasets": {"\xff": 1}}'), "results.json: truncated, damaged"),
    "data sets as a list": (edit_json(lambda c: c.update(datasets=[1])), "results.json: truncated, damaged"),
    "a data set as text": (edit_json(lambda c: c["datasets"].update(d="x")), "results.json: truncated, damaged"),
    "no kind of images": (edit_json(lambda c: c["datasets"]["d"].pop("is_cine")), "KeyError: 'is_cine'"),
    "a file elsewhere": (
        edit_json(lambda c: c["datasets"]["d"]["files"].update(slices="../../d.csv")),
        "slices is '../../d.csv', allowed is the name of a file beside it",
    ),
    "a number as a file": (edit_json(lambda c: c["datasets"]["d"]["files"].update(images=7)), "images is 7, allowed"),
    "no method": (edit_table(lambda t: t.drop(columns="method")), "d_slices.csv: truncated, damaged or not a table"),
    "no subject and no mean": (edit_table(lambda t: t.drop(columns=["subject", "mean"])), "no column subject, mean"),
    "no rows": (edit_table(lambda t: t[:0]), "no rows"),
    "text for a number": (edit_table(with_mean("many")), "d_slices.csv: truncated, damaged"),
    "a huge number": (edit_table(with_mean(1e200)), "a value beyond 1e+100"),
    "a row twice": (edit_table(lambda t: pd.concat([t, t[5:6]])), "two rows of one value: scan 'scan-0'"),
    "an empty table": (write_bytes("d_slices.csv", b""), "d_slices.csv: truncated, damaged"),
    "no table": (write_bytes("d_slices.csv", bytes(range(256)) * 9), "d_slices.csv: truncated, damaged"),
    "no HDF5": (write_bytes("d_images.h5", b"nothing" * 99), "d_images.h5: truncated, damaged"),
    "no target": (edit_images(lambda group: group.pop("target")), "d_images.h5: truncated, damaged"),
    "a number for the network": (edit_json(lambda content: content.update(network=3)), "results.json: truncated"),
    "a long text": (edit_json(lambda content: content.update(weights="x" * 10**4)), "results.json: truncated"),
    "a list for the sampling": (
        edit_json(lambda content: content["datasets"]["d"].update(sampled=[])),
        "results.json: truncated",
    ),
    "a target of another shape": (edit_images(replace_image(np.zeros((3, 4, 5)))), "d_images.h5: truncated, damaged"),
    "a target of texts": (edit_images(replace_image(np.full((12, 10, 3, 1), b"x"))), "d_images.h5: truncated, damaged"),
    "a null target": (edit_images(replace_image(h5py.Empty("f"))), "d_images.h5: truncated, damaged"),
    "a slice without number": (
        edit_images(lambda group: group.parent.move("1", "one")),
        "d_images.h5: truncated, damaged",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_whatever_is_in_the_files_of_a_run(tmp_path, capsys, name):
    damage, words = DAMAGED[name]
    for run in "ab":
        write_run(tmp_path / run, 0, SCANS[:2])
    damage(tmp_path / "b" / RESULTS_FOLDER)
    expect_error(capsys, words, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")


def test_images_that_declare_more_than_there_is(tmp_path, capsys):
    for run in "ab":
        write_run(tmp_path / run, 0, SCANS[:2])
    with h5py.File(tmp_path / "b" / RESULTS_FOLDER / "d_images.h5", "a") as file:
        for name in list(file["scan-0/1"]):
            del file["scan-0/1"][name]
            file["scan-0/1"].create_dataset(name, (10**5, 10**5, 9, 1), np.complex64, chunks=(64, 64, 1, 1))
    expect_error(capsys, "bytes, allowed are", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")


def test_names_that_mean_something_to_others_are_drawn_as_they_are(tmp_path, capsys):
    scan = "a$_$b"
    for run in "ab":
        write_run(tmp_path / run, 0, [scan], seed=ord(run))
    out = tmp_path / "out"
    labels = ["--labels", "x$_$", "$\\frac{"]
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(out), *labels])
    assert "no picture" not in capsys.readouterr().out
    assert sorted(path.suffix for path in out.iterdir()) == [".csv", ".gif", ".html", ".md", ".png"]


def test_a_picture_that_cannot_be_drawn_is_a_note(tmp_path, capsys, monkeypatch):
    for run in "ab":
        write_run(tmp_path / run, 0, SCANS[:2])
    monkeypatch.setattr("meddlr_greedy.evaluation.slices.draw_recon_figure", lambda *_, **__: 1 / 0)
    out = tmp_path / "out"
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(out)])
    printed = capsys.readouterr().out
    for scan in SCANS[:2]:
        assert f"{out / f'd-{scan}-slice1.png'}: no picture (ZeroDivisionError: division by zero)" in printed
    assert (out / "comparison.csv").is_file() and (out / "comparison.md").is_file()


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
    runs = [a, tmp_path / "b" / "a", "--labels", "x", "y"]
    expect_error(capsys, f"--output: {tmp_path / 'file'}: cannot be written", *runs, "--output", tmp_path / "file")
    assert not (tmp_path / "out").exists()


def expect_error(capsys, words, *argv):
    with pytest.raises(SystemExit) as end:
        compare.main([str(arg) for arg in argv])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2
    assert error.startswith("error: ") and words in error, error


# Run in a process of its own; what `import meddlr_greedy` imports does not count.
_IMPORTED_MODULES = """
import contextlib, sys
import meddlr_greedy.registration
before = set(sys.modules)
import meddlr_greedy.compare
with contextlib.suppress(SystemExit):
    meddlr_greedy.compare.main(["nothing", "nothing", "--output", "nothing/here"])
print(*sorted(set(sys.modules) - before))
"""


def test_needs_no_model(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED_MODULES], cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True
    )
    imported = done.stdout.split()
    assert "meddlr_greedy.evaluation.comparison" in imported
    heavy = (
        "meddlr_greedy.engine",
        "meddlr_greedy.modeling",
        "meddlr_greedy.data.build",
        "meddlr_greedy.evaluation.evaluator",
        "meddlr_greedy.evaluation.run",
    )
    assert not [name for name in imported if name.startswith(heavy)]
