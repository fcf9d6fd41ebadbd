"""Locks of output folders: who is refused, who takes over, and what is left."""

import errno
import fcntl
import json
import os
import platform
import threading

import pytest

from meddlr_greedy import locks
from meddlr_greedy.engine.setup import _lock_folder
from meddlr_greedy.errors import UserError, end_command
from meddlr_greedy.locks import LOCK_FILES, FolderLock, locked
from tests.helpers.commands import call, files_in
from tests.helpers.jobs import endless, start, start_job, train, wait_until  # noqa: F401 (fixtures)
from tests.helpers.runs import load


def claim(folder, age_s=0, **changes):
    """The claim of another process, renewed ``age_s`` seconds ago."""
    with locked(folder, "--output"):
        path = folder / LOCK_FILES[0]
        found = json.loads(path.read_text())
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps({**found, "token": "other", **changes}))
    age = path.stat().st_mtime - age_s
    os.utime(path, (age, age))
    return path


GONE = {"pid": 2**22 + 1}  # above the largest number of a process
AFAR = {"machine": "another", "host": "node7"}
RUN, JOB = {"TORCHELASTIC_RUN_ID": "r1"}, {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"}


@pytest.mark.parametrize(
    "found, age_s, environment, taken_over",
    [
        ({}, 1000, {}, False),  # this process, which does not renew it
        (GONE, 0, {}, True),
        ({"started": "1"}, 0, {}, True),  # its number is that of another process now
        (AFAR, 0, {}, False),
        (AFAR, 50, {}, False),
        (AFAR, 70, {}, True),
        ({**AFAR, "run": "r1"}, 0, RUN, True),
        ({**AFAR, "run": "r2"}, 0, RUN, False),
        (AFAR, 0, {"TORCHELASTIC_RUN_ID": "none"}, False),  # torchrun's default
        ({**AFAR, "job": "17"}, 0, JOB, True),
        ({**AFAR, "job": "17", "requeued": 1}, 0, JOB, False),  # another command of the same job
        ({**AFAR, "job": "18"}, 0, JOB, False),
    ],
)
def test_who_takes_over(tmp_path, monkeypatch, found, age_s, environment, taken_over):
    path = claim(tmp_path / "out", age_s, **found)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if taken_over:
        with locked(path.parent, "--output"):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert not path.exists()
        return
    with pytest.raises(UserError) as refused, locked(path.parent, "--output"):
        pass
    host = found.get("host", platform.node())
    assert f"--output: {path.parent}: in use by process {os.getpid()} on {host} since 20" in str(refused.value)
    assert json.loads(path.read_text())["token"] == "other" and files_in(path.parent) == [path.name]


def test_one_of_many_has_it(tmp_path):
    """All come at the same moment for the lock of a dead command."""
    claim(tmp_path, **GONE)
    barrier, have, refused = threading.Barrier(8), [], []

    def come():
        lock = FolderLock(tmp_path, "--output")
        barrier.wait()
        try:
            lock.acquire()
            have.append(lock)
        except UserError:
            refused.append(lock)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(have), len(refused)) == (1, 7)
    have[0].release()
    assert not list(tmp_path.iterdir())


def test_folders_made_for_nothing_go_and_others_stay(tmp_path):
    (tmp_path / "there").mkdir()
    with locked(tmp_path / "there", "--output"), locked(tmp_path / "new" / "deep", "--output"):
        (tmp_path / "new" / "deep" / "log.txt").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    with locked(tmp_path / "new" / "deep", "--output"):
        (tmp_path / "new" / "deep" / "result").touch()
    assert files_in(tmp_path) == ["new/deep/result"]


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, capsys, number):
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, "--output"):
        assert f"note: {tmp_path}: the file system has no locks" in capsys.readouterr().out
        with pytest.raises(UserError, match="in use by"), locked(tmp_path, "--output"):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, number):
    def refused(self):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FolderLock, "_write_claim", refused)
    with pytest.raises(UserError, match=f"--output: .*cannot be written .{os.strerror(number)}"):
        FolderLock(tmp_path / "out", "--output").acquire()
    assert not (tmp_path / "out").exists()


def test_a_process_that_was_held_up_and_lost_its_lock_ends(tmp_path, monkeypatch, capfd):
    ended = threading.Event()
    monkeypatch.setattr(locks, "_RENEW_S", 0.01)
    monkeypatch.setattr(os, "_exit", lambda status: (ended.set(), threading.Event().wait(0.2)))
    with locked(tmp_path, "--output"):
        path = tmp_path / LOCK_FILES[0]
        found = json.loads(path.read_text())
        path.write_text(json.dumps({**found, "token": "other", "host": "node7"}))
        assert ended.wait(10)
        assert "taken over by process" in capfd.readouterr().err
    assert path.exists()  # it is the other one's


class OneOfTwo:
    """A process of a job, as far as the lock is concerned."""

    def __init__(self, rank, folder):
        self.rank, self.folder, self.agreed = rank, folder, []

    def agree(self, key, value):
        self.agreed.append((key, (self.folder / LOCK_FILES[0]).exists()))


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_of_a_job_takes_the_lock_and_the_others_wait_for_it(tmp_path, rank):
    job = OneOfTwo(rank, tmp_path)
    _lock_folder(str(tmp_path), job)
    assert job.agreed == [("locked", rank == 0)]
    end_command()  # as at the end of the command
    assert not list(tmp_path.iterdir())


@pytest.mark.stress
def test_a_job_takes_one_lock_and_a_second_is_refused(start, start_job, write_config, tmp_path):  # noqa: F811
    """Several processes train; another job and another process are refused, and evaluating is not."""
    config, opts = endless(write_config, tmp_path)
    run = tmp_path / "run"
    job = start(2, config, *opts)
    wait_until(lambda: (run / "model_best.pth").exists() and (run / "last_checkpoint").exists(), job)
    held_by = json.loads((run / LOCK_FILES[0]).read_text())
    assert held_by["pid"] == job.processes[0].pid
    before = sorted(path.name for path in run.iterdir() if not path.name.startswith((".partial", "model_")))
    for other in (start(2, config, *opts), start_job(1, train, "--config-file", str(config), "--resume", *opts)):
        assert set(other.wait(60)) == {2}
        errors = [line for line in other.text().splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and f"in use by process {held_by['pid']}" in errors[0], other.text()
    assert sorted(p.name for p in run.iterdir() if not p.name.startswith((".partial", "model_"))) == before
    call("eval_net", ["--config-file", config, "--num-figures", "0"])
    assert (run / "test_results" / "results.json").exists() and (run / LOCK_FILES[0]).exists()
    job.kill()
    iteration = load(run / (run / "last_checkpoint").read_text())["iteration"]
    resumed = start(2, config, "--resume", *opts, "SOLVER.MAX_ITER", str(iteration + 2))
    assert resumed.wait(60) == [0, 0], resumed.text()
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
