"""Jobs that are started by the command line."""

import os
import signal
import subprocess
import time

import pytest
import torch.distributed as dist

from meddlr_greedy.jobs import launch
from meddlr_greedy.jobs.store import KeyValueStore
from meddlr_greedy.train_net import main as train_main
from tests.helpers import jobs
from tests.helpers.jobs import CINE, assert_one_line, ended_well, endless, modules_of, opts_with, wait_until
from tests.helpers.runs import assert_same_training, wait_for

MASK = ["AUG_TRAIN.UNDERSAMPLE.NAME", "VariableDensityKtMaskFunc"]


def children_of(job):
    """The processes that the first process of a job has started, by rank."""
    found = subprocess.run(["pgrep", "-P", str(job.processes[0].pid)], capture_output=True, text=True, check=True)
    return [int(pid) for pid in found.stdout.split()]


def test_num_gpus_starts_processes_and_says_which_was_killed(write_config, tmp_path, start_job):
    config, opts = endless(write_config, tmp_path)
    job = start_job(1, jobs.train_by_launcher, "--config-file", str(config), "--num-gpus", "2", *opts, *MASK)
    wait_until((tmp_path / "run" / "last_checkpoint").exists, job)
    os.kill(children_of(job)[1], signal.SIGKILL)
    assert job.wait() == [1]
    assert_one_line(job.text(), modules_of(1) + ".*(killed by SIGKILL|lost)")
    assert subprocess.run(["pgrep", "-f", str(config)], capture_output=True).returncode == 1, "processes are left"


class EndedProcess:
    """Stands for a process of the job that has ended."""

    def __init__(self, returncode):
        self.returncode = returncode

    def poll(self):
        return self.returncode


def test_a_killed_process_is_reported_after_one_that_failed_and_said_nothing(capfd):
    connection = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = [EndedProcess(status) for status in (0, 3, -signal.SIGKILL)]
    assert launch._wait_for_all(processes, KeyValueStore(connection)) == 3
    assert_one_line(capfd.readouterr().err, "rank 2: killed by SIGKILL")


# Modules that stand for the training while it imports: they write down their number, and wait.
WAITING = """
import os, pathlib, signal, time
rank = os.environ["RANK"]
{before}
pathlib.Path(rank).write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.fixture
def launched(tmp_path, start_job):
    """launched(before, end_s=...): a launcher in a process of its own, whose processes run ``before`` and then wait."""

    def launched(before="", end_s=5.0):
        (tmp_path / "waiting.py").write_text(WAITING.format(before=before))
        job = start_job(1, jobs.launch_in, str(tmp_path), "waiting", end_s)
        wait_until(lambda: all((tmp_path / rank).exists() for rank in "01"), job)
        return job

    return launched


def test_nobody_is_left_of_a_launcher_killed_while_its_processes_import(launched, tmp_path):
    job = launched()
    job.processes[0].kill()
    pids = [(tmp_path / rank).read_text() for rank in "01"]
    wait_for(lambda: subprocess.run(["ps", "-p", ",".join(pids)], capture_output=True).returncode == 1)
    assert job.text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("reaches", ["launcher", "all"])
def test_a_signal_while_processes_import_is_told_once(launched, number, reaches):
    job = launched()
    launcher = job.processes[0].pid
    os.kill(launcher, number) if reaches == "launcher" else os.killpg(launcher, number)
    assert job.wait() == [os.EX_TEMPFAIL]
    assert_one_line(job.text(), f"{number.name} received outside the training")
    assert job.text().count("\n") == 1


def test_ctrl_c_twice_ends_processes_that_do_not_listen(launched):
    job = launched("signal.signal(signal.SIGTERM, signal.SIG_IGN)", end_s=600)
    for _ in range(2):
        os.killpg(job.processes[0].pid, signal.SIGINT)
        time.sleep(0.5)
    assert job.wait() == [128 + signal.SIGINT]
    assert_one_line(job.text(), "SIGINT received twice: ended at once")


def test_a_process_that_dies_before_it_joins_ends_the_others(launched, tmp_path):
    job = launched(end_s=0.5)
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    assert job.wait() == [1]
    assert_one_line(job.text(), r"rank 1: killed by SIGKILL \(out of memory, perhaps\)")


def test_torchrun_restarts_and_resumes(write_config, tmp_path, start_job):
    opts = opts_with(**{"SOLVER.MAX_ITER": 12})
    train_main(["--config-file", str(write_config(**CINE, out=tmp_path / "whole")), *opts])
    config = write_config(**CINE, out=tmp_path / "killed")
    job = start_job(1, jobs.train_by_torchrun, "--config-file", str(config), "--resume", *opts)
    wait_until((tmp_path / "killed" / "last_checkpoint").exists, job)
    os.kill(children_of(job)[0], signal.SIGKILL)
    ended_well(job)
    assert_same_training(tmp_path / "whole" / "model_final.pth", tmp_path / "killed" / "model_final.pth")
