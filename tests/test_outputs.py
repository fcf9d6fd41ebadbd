"""What commands leave in their output folders: killed, ended by a signal, refused, two at once, on a full disk."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from meddlr.modeling import build_model

from meddlr_greedy import compare
from meddlr_greedy.config.loading import load_config
from meddlr_greedy.engine.checkpoint import GreedyCheckpointer
from meddlr_greedy.errors import exit_with_one_line
from meddlr_greedy.evaluation import slices
from meddlr_greedy.locks import LOCK_FILES
from tests.helpers.commands import COMMANDS, call, call_until, files_in
from tests.helpers.evaluation import write_run
from tests.helpers.jobs import start_job, wait_until  # noqa: F401 (a fixture)
from tests.helpers.runs import PATIENCE_S

PHANTOM = [
    *("phantom", "--subjects", "2", "--slices", "1", "--frames", "2", "--matrix", "16", "16", "--coils", "2"),
    *("--calib", "16", "--split", "1", "1", "0"),
]


@pytest.fixture
def run(write_config, tmp_path):
    """A config, and weights of a network that has not been trained."""
    config = str(write_config("CineUnrolledCNN", data="beat"))
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    GreedyCheckpointer(build_model(load_config(config)), str(tmp_path / "run")).save("model_best", tag=False)
    return config, tmp_path / "run" / "model_best.pth"


@pytest.fixture
def command(run, datasets, tmp_path):
    """command(name): the arguments of a command that needs a moment, and its output folder."""
    config, weights = run

    def make(name):
        out = tmp_path / "out"
        if name == "prepare":
            return [*PHANTOM, "--output", out], out
        if name == "reconstruct":
            scans = [tmp_path / f"beat_test_{i}.h5" for i in range(2)]
            for scan in scans:
                placed_copy(datasets / "beat" / "test" / scan.name, scan)
            return ["--config-file", config, "--weights", weights, *scans, "--output", out, "--dicom"], out
        if name == "eval_net":
            return ["--config-file", config, "--weights", weights, "--num-figures", "1"], tmp_path / "run/test_results"
        for i, label in enumerate("ab"):
            if not (tmp_path / label).exists():
                write_run(tmp_path / label, i, [f"scan-{i}" for i in range(2)])
        return [tmp_path / "a", tmp_path / "b", "--output", out], out

    return make


@pytest.fixture
def stopped(start_job, tmp_path):  # noqa: F811
    """stopped(command, argv, files): the process of a command that has stopped, see ``call_until``."""

    def start(name, argv, files):
        marker = tmp_path / f"marker{time.monotonic_ns()}"
        job = start_job(1, call_until, name, argv, files, marker)
        wait_until(marker.exists, job)
        return job

    return start


def placed_copy(source, path):
    """A copy of a scan that tells where its slices lie."""
    shutil.copy(source, path)
    with h5py.File(path, "r+") as file:
        positions = 8.0 * np.arange(len(file["kspace"]))[:, None] * [0, 0, 1]
        file.attrs.update(pixel_spacing_mm=(1.5, 1.5), position_mm=positions)
        file.attrs.update(readout_direction=[1.0, 0, 0], phase_direction=[0, 1.0, 0])


def partial_files(folder):
    return [name for name in files_in(folder) if ".partial-" in name]


def expect_refused(name, argv, capsys, *words):
    """A command ends with status 2 and one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        call(name, argv)
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert end.value.code == 2 and len(errors) == 1, errors
    for word in words:
        assert str(word) in errors[0], errors
    return errors[0]


def assert_whole(name, out):
    """What a command leaves is complete, and nothing else is there."""
    names = files_in(out)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")], names
    if name == "prepare":
        assert names == [f"{a}/{b}" for a, b in WHOLE_DATA_SET]
        assert json.loads((out / "annotations" / "train.json").read_text())["images"]
    if name == "reconstruct":
        images = [f"beat_test_{i}_recon_dicom/IM{number}.dcm" for i in range(2) for number in range(1, 9)]
        assert [n for n in names if n.endswith(".dcm")] == images
    expected = {"reconstruct": 6 + 16 + 1, "eval_net": 7, "compare": 7, "prepare": 4}[name]
    assert len(names) == expected, names
    for path in out.rglob("*.h5"):
        with h5py.File(path, "r") as file:
            assert len(file) > 0


WHOLE_DATA_SET = [
    *(("annotations", f"{split}.json") for split in ("train", "val")),
    *(("scans", f"subject{i:03d}.h5") for i in range(2)),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_one_command_at_a_time_and_the_next_one_cleans_up_after_a_killed_one(command, stopped, capsys, name):
    argv, out = command(name)
    job = stopped(name, argv, files=2 if name == "eval_net" else 1)
    before = files_in(out)
    assert partial_files(out) and LOCK_FILES[0] in before
    pid = job.processes[0].pid
    expect_refused(name, argv, capsys, "in use by process", f"process {pid} on {os.uname().nodename} since 20")
    assert files_in(out) == before
    job.kill()
    call(name, argv)
    assert_whole(name, out)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_is_there_as_a_whole_or_not_at_all(command, stopped, is_there):
    """Killed where the folder of images is to get its name and, where there is one, that one has just lost it."""
    argv, out = command("reconstruct")
    if is_there:
        call("reconstruct", argv)
    job = stopped("reconstruct", argv, files=3)
    assert not (out / "beat_test_0_recon_dicom").exists()
    assert len([name for name in partial_files(out) if name.endswith(".dcm")]) == (16 if is_there else 8)
    job.kill()
    call("reconstruct", argv)
    assert_whole("reconstruct", out)


@pytest.mark.parametrize(
    "name, number",
    [
        ("prepare", signal.SIGTERM),
        ("reconstruct", signal.SIGINT),
        ("eval_net", signal.SIGHUP),
        ("compare", signal.SIGTERM),
    ],
)
def test_a_signal_is_one_line_and_nothing_is_half_written(command, stopped, name, number):
    argv, out = command(name)
    job = stopped(name, argv, files=0)
    assert partial_files(out)
    os.kill(job.processes[0].pid, number)
    assert job.wait(60) == [128 + number]
    errors = [line for line in job.text().splitlines() if "error: " in line]
    assert len(errors) == 1 and f"{number.name} received" in errors[0] and "Traceback" not in job.text()
    assert not out.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_command_ends_so(monkeypatch, capsys, number):
    @exit_with_one_line
    def main():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # schedulers send it twice
        time.sleep(10)

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 128 + number and signal.getsignal(number) is before
    assert capsys.readouterr().err == f"error: {signal.Signals(number).name} received; nothing is left half-written\n"


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        exit_with_one_line(lambda: os.kill(os.getpid(), signal.SIGHUP))()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_killed_process_of_several_is_told_of_and_leaves_nothing(tmp_path, capsys):
    """The healthy process's file goes, too, unless it is done."""
    out = tmp_path / "out"
    argv = [*PHANTOM, "--output", out, "--jobs", "2", "--slices", "20"]

    def kill():
        while not out.exists() or len(partial_files(out)) < 2:
            time.sleep(0.01)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    expect_refused("prepare", argv, capsys, "--jobs: a process ended, killed by SIGKILL")
    thread.join()
    assert not out.exists() or not partial_files(out)
    assert not multiprocessing.active_children()


@pytest.mark.stress
def test_processes_of_jobs_end_with_their_parent(start_job, tmp_path):  # noqa: F811
    argv = [*PHANTOM, "--output", tmp_path / "out", "--jobs", "2"]
    argv[argv.index("--slices") + 1] = "400"
    job = start_job(1, call, "prepare", argv)
    wait_until(lambda: len(partial_files(tmp_path / "out") if (tmp_path / "out").exists() else []) == 2, job)
    started = descendants(job.processes[0].pid)
    job.kill()
    deadline = time.monotonic() + PATIENCE_S
    while any(is_running(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid):
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(text) for text in done.stdout.split()]


def descendants(pid):
    return [d for child in children(pid) for d in (child, *descendants(child))]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# --- An output that is an input, names from outside ---


@pytest.mark.parametrize("link", [os.link, os.symlink, None])
def test_reconstruct_overwrites_no_input(run, datasets, tmp_path, capsys, link):
    folder = tmp_path / "d"
    folder.mkdir()
    for name, i in (("x.h5", 0), ("y.h5", 1)):
        shutil.copy(datasets / "beat" / "test" / f"beat_test_{i}.h5", folder / name)
    other = folder / "x_recon.h5"
    if link is None:
        (folder / "y.h5").rename(other)
        given = other
    else:
        link(folder / "y.h5", other)
        given = folder / "y.h5"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    argv = ["--config-file", run[0], "--weights", run[1], folder / "x.h5", given, "--output", folder]
    expect_refused("reconstruct", argv, capsys, f"--output: {other}: is the input {given}")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_prepare_overwrites_no_input(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.ones((2, 2, 24, 20), np.float32))
    out = tmp_path / "out"
    (out / "scans").mkdir(parents=True)
    os.link(tmp_path / "a.npy", out / "scans" / "a_train.h5")
    options = ["--split", "1", "1", "0", "--overwrite"]
    expect_refused("prepare", ["images", tmp_path / "a.npy", "--output", out, *options], capsys, "is the input")
    (out / "scans" / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes())
    given = out / "scans" / "b.npy"
    expect_refused("prepare", ["images", given, "--output", out, *options], capsys, f"{out}: holds the input {given}")
    assert (tmp_path / "a.npy").read_bytes() == given.read_bytes()


def test_compare_and_plan_overwrite_no_input(command, run, tmp_path, capsys):
    (a, b, *_), _ = command("compare")
    before = files_in(a)
    for folder in (a / "test_results", b / ".." / "b" / "test_results"):
        expect_refused("compare", [a, b, "--output", folder], capsys, "holds the results of an evaluation")
    assert files_in(a) == before
    text = Path(run[0]).read_text()
    expect_refused("plan", ["--config-file", run[0], "--json", run[0]], capsys, "--json: ", "is the input")
    assert Path(run[0]).read_text() == text


EVIL = ["../../evil", "/abs", "a/b", "a_b", "..", "Ab", "aB", "x" * 300, "$x_$y_{", "line\nbreak", "\udcff"]


@pytest.mark.parametrize("drawn", [False, True])
def test_names_from_outside_stay_inside(tmp_path, capsys, monkeypatch, drawn):
    """Names of data sets in results.json, and of scans in the tables and images beside it."""
    scans = ["$_\udcfe"] if drawn else ["scan-$_$", "s" * 200]
    names = EVIL[-3:] if drawn else EVIL
    for i, label in enumerate(("a", "$_b")):
        write_run(tmp_path / label, i, scans)
        file = tmp_path / label / "test_results" / "results.json"
        results = json.loads(file.read_text())
        results["datasets"] = dict.fromkeys(names, results["datasets"]["d"])
        file.write_text(json.dumps(results))
    before = files_in(tmp_path)
    out = tmp_path / "deep" / "out"
    if not drawn:
        for function in ("draw_recon_figure", "draw_cine_gif"):
            monkeypatch.setattr(slices, function, lambda recons, path, *args, **kwargs: path.touch())
    compare.main([str(tmp_path / "a"), str(tmp_path / "$_b"), "--output", str(out)])
    assert "no picture" not in capsys.readouterr().out
    assert [name for name in files_in(tmp_path) if not name.startswith("deep/out/")] == before
    pictures = [path.name for path in out.iterdir() if path.suffix in (".png", ".gif")]
    assert len(pictures) == len({name.casefold() for name in pictures}) == 2 * len(scans) * len(names)
    assert not [name for name in os.listdir(out) if name.startswith(".")]


@pytest.mark.parametrize("name", ["../../../outside.csv", "/etc/passwd", ""])
def test_a_run_names_no_file_outside(tmp_path, capsys, name):
    for i, label in enumerate("ab"):
        write_run(tmp_path / label, i, ["s"])
    file = tmp_path / "b" / "test_results" / "results.json"
    results = json.loads(file.read_text())
    results["datasets"]["d"]["files"]["slices"] = name
    file.write_text(json.dumps(results))
    argv = [tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out"]
    expect_refused("compare", argv, capsys, f"{file}: ", f"slices is {name!r}, allowed is the name of a file beside it")
    assert not (tmp_path / "out").exists()


# --- A full disk ---


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 48 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", [*COMMANDS, "train_net"])
def test_a_full_disk_is_one_line(command, run, small_disk, capsys, name):
    argv, _ = command("eval_net" if name == "train_net" else name)
    if name in ("eval_net", "train_net"):
        argv = [*argv[:2], "OUTPUT_DIR", small_disk / "run"]
        argv += ["--weights", run[1], "--num-figures", "0"] if name == "eval_net" else ["SOLVER.CHECKPOINT_PERIOD", "2"]
        (small_disk / "run").mkdir()
    else:
        argv[argv.index("--output") + 1] = small_disk / "out"
    (small_disk / "filling").write_bytes(bytes(24000 if name == "train_net" else 44000))
    error = expect_refused(name, argv, capsys, "cannot be written")
    assert re.search("No space left on device|is the disk full", error)
    assert not partial_files(small_disk), files_in(small_disk)
    assert not list(small_disk.rglob("*.pth")) or name != "train_net"


# --- Long ---


@pytest.mark.stress
@pytest.mark.parametrize("name", COMMANDS)
def test_twenty_kills(command, start_job, name):  # noqa: F811
    argv, out = command(name)
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the kills: {seed}")  # shown where the test fails
    rng = random.Random(seed)
    start = time.monotonic()
    assert start_job(1, call, name, argv).wait() == [0]
    seconds = time.monotonic() - start
    for _ in range(20):
        shutil.rmtree(out)
        job = start_job(1, call, name, argv)
        time.sleep(rng.uniform(0.1, 1) * seconds)
        job.kill()
        again = start_job(1, call, name, argv)
        assert again.wait() == [0], again.text()[-3000:]
        assert_whole(name, out)


@pytest.mark.stress
@pytest.mark.parametrize("name", [*COMMANDS, "train_net"])
def test_two_at_once(command, run, start_job, tmp_path, name):  # noqa: F811
    argv, out = command("eval_net" if name == "train_net" else name)
    if name == "train_net":
        argv, out = [*argv[:2], "OUTPUT_DIR", tmp_path / "trained"], tmp_path / "trained"
    for _ in range(10):
        shutil.rmtree(out, ignore_errors=True)
        pair = [start_job(1, call, name, argv) for _ in range(2)]
        statuses = [job.wait()[0] for job in pair]
        refused = [job.text() for job, status in zip(pair, statuses) if status == 2]
        assert sorted(statuses) == [0, 2] or statuses == [0, 0], [job.text()[-2000:] for job in pair]
        assert all("in use by process" in text or "holds the checkpoints of an earlier" in text for text in refused)
        if name == "train_net":
            assert (out / "model_final.pth").exists()
        else:
            assert_whole(name, out)
